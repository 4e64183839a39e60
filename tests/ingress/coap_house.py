"""What the CoAP door's tests stand on: a door over a journal in memory, a clock turned by hand, a plain UDP client."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from collections.abc import Callable
from pathlib import Path

from devices.registry import Registry
from edge_runtime.clock import ManualClock
from edge_runtime.events import Origin
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.coap import CoapFrontDoor, CoapLimits
from edge_runtime.ingress.coap_site import CoapSite
from edge_runtime.ingress.pace import Allowance, Pace
from edge_runtime.ingress.stamps import Stamps
from edge_runtime.journal.records import Command
from edge_runtime.proto import coap
from edge_runtime.proto.coap import Message, numbers
from tests.ingress.mqtt_house import PATIENCE, SlowJournal


class Options:
    """The options of a request, as a client would put them."""

    @staticmethod
    def post(path: str, *queries: str, form: int | None = 50) -> tuple[tuple[int, bytes], ...]:
        options = [(numbers.URI_PATH, part.encode()) for part in path.split("/")]
        if form is not None:
            options.append((numbers.CONTENT_FORMAT, coap.uint(form)))
        options += [(numbers.URI_QUERY, query.encode()) for query in queries]
        return tuple(options)


class CoapHouse:
    """A CoAP door with what belongs to it."""

    def __init__(self) -> None:
        self.journal = SlowJournal()
        self.clock = ManualClock()
        self.security: list[str] = []
        self.log: list[str] = []
        self.listening: list[str] = []
        self.clients: list[CoapClient] = []
        self.site: CoapSite | None = None
        self.registry: Registry
        self.door: CoapFrontDoor
        self.boots = (number.to_bytes(8) for number in itertools.count())
        self.port = 0
        self.key = ""
        """The key of device `d`."""

    @classmethod
    async def build(cls, folder: Path, limits: CoapLimits | None = None, *, rate: float = 0) -> CoapHouse:
        house = cls()
        house.registry = await Registry.open(house.journal, house.clock)
        pace = Pace(house.clock, lambda _: Allowance(rate, burst=0))
        admission = await Admission.open(house.journal, house.registry, house.clock, house.security.append, pace=pace)
        await house.open_door(admission, folder, limits)
        house.key = await house.registry.add("d")
        return house

    async def open_door(self, admission: Admission, folder: Path, limits: CoapLimits | None = None) -> None:
        """Open a door, on the port that the last one had."""

        def elsewhere(door: CoapFrontDoor) -> CoapSite:
            self.site = CoapSite(door, self.clock, oscore=folder / "oscore")
            return self.site

        self.door = CoapFrontDoor(
            admission,
            self.registry,
            self.clock,
            security=self.security.append,
            log=self.log.append,
            random=random.Random(1).random,
            stamps=Stamps(next(self.boots)),
            limits=limits,
            elsewhere=elsewhere,
        )
        self.door.on_listening = self.listening.append
        self.port = await self.door.start("127.0.0.1", self.port)

    async def tear_down(self) -> None:
        for client in self.clients:
            client.close()
        self.journal.slow = False
        await self.journal.let_through(len(self.journal.under_way))
        await self.door.stop()

    def client(self) -> CoapClient:
        client = CoapClient(self.port)
        self.clients.append(client)
        return client

    def pass_time(self, micros: int) -> None:
        self.clock.advance(micros)
        self.door.tick()

    @property
    def uri(self) -> str:
        return f"coap://127.0.0.1:{self.port}"

    def order(self, index: int = 0) -> Command:
        now = self.clock.now()
        return Command("d", "fan", {"on": True}, now, now + 60_000_000, Origin("app.f", 0, "cause", index))


class CoapClient:
    """Sends and receives datagrams."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(("127.0.0.1", port))
        self._mid = 0

    def send(self, data: bytes) -> None:
        self._socket.send(data)

    async def receive(self) -> Message:
        async with asyncio.timeout(PATIENCE):
            return coap.decode(await asyncio.get_running_loop().sock_recv(self._socket, 2048))

    async def nothing(self) -> bool:
        """Whether nothing has come but the answer to a ping, which is asked last."""
        self._mid += 1
        self.send(b"\x40\0" + (0xF000 + self._mid).to_bytes(2))
        answer = await self.receive()
        return answer == Message(numbers.RST, numbers.EMPTY, 0xF000 + self._mid)

    def post(
        self,
        options: tuple[tuple[int, bytes], ...],
        payload: bytes = b'{"t":1}',
        *,
        mid: int | None = None,
        kind: int = numbers.CON,
        code: int = numbers.POST,
    ) -> bytes:
        """Send a request; the datagram."""
        self._mid += 1
        number = self._mid if mid is None else mid
        data = coap.encode(Message(kind, code, number, number.to_bytes(2), options, payload))
        self.send(data)
        return data

    async def ask(self, options: tuple[tuple[int, bytes], ...], payload: bytes = b'{"t":1}', **how: int) -> str:
        """Send a request; the code that answers it, dotted."""
        self.post(options, payload, **how)
        answer = await self.receive()
        return f"{answer.code >> 5}.{answer.code & 31:02d}"

    def close(self) -> None:
        self._socket.close()


async def until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)
