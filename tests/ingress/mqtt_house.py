"""What the front door's tests stand on: a door over a journal in memory, a clock turned by hand, and a plain client."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import cbor2

from devices.registry import Registry
from edge_runtime.clock import ManualClock
from edge_runtime.events import Event, Origin
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.mqtt import MqttFrontDoor, MqttLimits
from edge_runtime.journal.interface import Appended, Listener, Settled, Tables, settle_with
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Command, Progress, Record, State, Stored
from edge_runtime.proto import mqtt

BOOT = bytes.fromhex("f00d000102030405")
PATIENCE = 10.0
"""Seconds after which a test that waits gives up: far beyond a busy machine's worst."""


class SlowJournal:
    """A journal whose appends become durable when the test says so; it gives futures, as the SQLite journal does."""

    def __init__(self) -> None:
        self.inner = MemoryJournal()
        self.slow = False
        self.under_way: deque[tuple[Sequence[Record], asyncio.Future[Appended]]] = deque()

    def append(self, records: Sequence[Record]) -> Awaitable[Appended]:
        if not self.slow:
            return self.inner.append(records)
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self.under_way.append((records, future))
        return future

    def submit(self, records: Sequence[Record], settled: Settled) -> None:
        settle_with(self.append(records), settled)

    async def let_through(self, count: int) -> None:
        """Make the oldest `count` appends durable."""
        for _ in range(count):
            await self.finish(0)

    async def finish(self, index: int) -> None:
        """Make one append durable, whichever came before it."""
        records, future = self.under_way[index]
        del self.under_way[index]
        future.set_result(await self.inner.append(records))

    def commit(self, progress: Progress, effects: Sequence[Record]) -> Awaitable[Appended]:
        return self.inner.commit(progress, effects)

    def read(self, after: int, limit: int) -> Awaitable[list[Stored]]:
        return self.inner.read(after, limit)

    def states(self, flow: str, keys: Sequence[str]) -> Awaitable[dict[str, State]]:
        return self.inner.states(flow, keys)

    def entries(self, flow: str, names: Mapping[str, Sequence[str]]) -> Awaitable[dict[str, State]]:
        return self.inner.entries(flow, names)

    def state_keys(self, flow: str, after: str, limit: int) -> Awaitable[list[str]]:
        return self.inner.state_keys(flow, after, limit)

    def tables(self) -> Awaitable[Tables]:
        return self.inner.tables()

    def listen(self, listener: Listener, *, events: bool = True) -> None:
        self.inner.listen(listener, events=events)

    @property
    def events(self) -> list[Event]:
        return [r for r in self.inner.records() if isinstance(r, Event)]


class House:
    """A front door with what belongs to it."""

    def __init__(self) -> None:
        self.journal = SlowJournal()
        self.clock = ManualClock()
        self.security: list[str] = []
        self.log: list[str] = []
        self.listening: list[str] = []
        self.clients: list[Client] = []
        self.registry: Registry
        self.admission: Admission
        self.door: MqttFrontDoor
        self.port = 0
        self.key = ""
        """The key of device `d`."""

    @classmethod
    async def build(cls, limits: MqttLimits | None = None) -> House:
        house = cls()
        house.registry = await Registry.open(house.journal, house.clock)
        house.admission = await Admission.open(house.journal, house.registry, house.clock, house.security.append)
        house.door = MqttFrontDoor(
            house.admission,
            house.registry,
            house.clock,
            security=house.security.append,
            log=house.log.append,
            limits=limits,
        )
        house.door.on_listening = house.listening.append
        house.port = await house.door.start("127.0.0.1", 0)
        house.key = await house.registry.add("d")
        return house

    async def tear_down(self) -> None:
        for client in self.clients:
            client.close()
        self.journal.slow = False
        await self.journal.let_through(len(self.journal.under_way))
        await self.door.stop()

    async def client(self) -> Client:
        """A TCP connection to the door; with small buffers, so that one who is not read notices it soon."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(sock=sock)
        client = Client(reader, writer)
        self.clients.append(client)
        return client

    async def device(self, name: str = "d", key: str = "", **connect: Any) -> Client:
        """A connected device."""
        client = await self.client()
        client.send(connect_packet(name, key or self.key, **connect))
        assert await client.receive() == b"\x20\x02\x00\x00"
        return client

    def pass_seconds(self, seconds: int) -> None:
        """Turn the clock, second by second as the door's timer would notice it."""
        for _ in range(seconds):
            self.clock.advance(1_000_000)
            self.door.tick()

    def order(self, index: int = 0, device: str = "d", name: str = "fan") -> Command:
        now = self.clock.now()
        return Command(device, name, {"on": True}, now, now + 60_000_000, Origin("app.f", 0, "cause", index))


class Client:
    """Sends bytes, receives packets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, *packets: bytes) -> None:
        self._writer.write(b"".join(packets))

    @property
    def unsent(self) -> int:
        """Bytes that the kernel does not take any more."""
        return self._writer.transport.get_write_buffer_size()

    async def receive(self) -> bytes:
        """The next packet, whole; empty if the connection was closed instead."""
        async with asyncio.timeout(PATIENCE):
            try:
                head = await self._reader.readexactly(2)
                size, shift = head[1] & 127, 7
                while head[-1] & 128:
                    head += await self._reader.readexactly(1)
                    size |= (head[-1] & 127) << shift
                    shift += 7
                return head + await self._reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return b""

    async def some(self, seconds: float) -> bytes:
        """Whatever comes next; empty if the connection was closed instead."""
        async with asyncio.timeout(seconds):
            try:
                return await self._reader.read(65_536)
            except ConnectionResetError:
                return b""

    async def ping(self) -> bytes:
        """Ask whether the door is there; the next packet, which is its answer if nothing stood before it."""
        self.send(b"\xc0\0")
        return await self.receive()

    def close(self) -> None:
        self._writer.transport.abort()


def connect_packet(device: str | None, key: str | None, *, keep_alive: int = 60, client_id: str = "") -> bytes:
    flags = 2 | (128 if device is not None else 0) | (64 if key is not None else 0)
    body = b"\0\4MQTT\4" + bytes((flags,)) + keep_alive.to_bytes(2)
    for text in (client_id, device, key):
        if text is not None:
            body += len(text.encode()).to_bytes(2) + text.encode()
    assert len(body) < 16_384
    return b"\x10" + (bytes((len(body),)) if len(body) < 128 else bytes((len(body) & 127 | 128, len(body) >> 7))) + body


def subscribe_packet(packet_id: int, *filters: tuple[str, int]) -> bytes:
    body = packet_id.to_bytes(2)
    for pattern, qos in filters:
        body += len(pattern).to_bytes(2) + pattern.encode() + bytes((qos,))
    assert len(body) < 128
    return bytes((0x82, len(body))) + body


def unsubscribe_packet(packet_id: int, pattern: str) -> bytes:
    body = packet_id.to_bytes(2) + len(pattern).to_bytes(2) + pattern.encode()
    return bytes((0xA2, len(body))) + body


def event_payload(seq: int, data: Any = None) -> bytes:
    return cbor2.dumps({0: BOOT, 1: seq, 2: 1_795_000_000_000_000 + seq, 4: data if data is not None else {"t": seq}})


def event_packet(seq: int, data: Any = None, *, device: str = "d", qos: int = 1) -> bytes:
    """An event as a device sends it; its packet identifier is `seq + 1`."""
    return mqtt.publish(
        f"/devices/{device}/events/climate", event_payload(seq, data), qos=qos, packet_id=seq % 65_535 + 1
    )


async def eventually(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)
