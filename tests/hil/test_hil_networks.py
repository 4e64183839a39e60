"""The faulty networks: what they do to bytes and datagrams, and that a seed decides it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from hil.faults import Faults, flip
from hil.faulty_network import FaultyTcp, FaultyUdp
from hil.waiting import until


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A server that sends back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                writer.write(data)
            writer.write_eof()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def tcp(seed: int = 1) -> AsyncIterator[FaultyTcp]:
    async with echo() as port:
        network = FaultyTcp("127.0.0.1", port, seed=seed)
        await network.start()
        try:
            yield network
        finally:
            await network.stop()


class Datagrams(asyncio.DatagramProtocol):
    """Keeps what comes, with the port it came from; sends it back if told to."""

    def __init__(self, *, echoes: bool = False) -> None:
        self.came: list[bytes] = []
        self.ports: set[int] = set()
        self._echoes = echoes
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.came.append(data)
        self.ports.add(addr[1])
        if self._echoes:
            self.transport.sendto(data, addr)

    @property
    def port(self) -> int:
        port: int = self.transport.get_extra_info("sockname")[1]
        return port


Udp = Callable[..., Awaitable[tuple[FaultyUdp, Datagrams, Datagrams]]]


@pytest.fixture
async def udp() -> AsyncIterator[Udp]:
    """Makes (network, gateway's end, board's end)."""
    made: list[tuple[FaultyUdp, Datagrams, Datagrams]] = []

    async def make(**more: bool) -> tuple[FaultyUdp, Datagrams, Datagrams]:
        loop = asyncio.get_running_loop()
        _, gateway = await loop.create_datagram_endpoint(lambda: Datagrams(echoes=True), ("127.0.0.1", 0))
        network = FaultyUdp("127.0.0.1", gateway.port, seed=3, **more)
        port = await network.start()
        _, board = await loop.create_datagram_endpoint(Datagrams, remote_addr=("127.0.0.1", port))
        made.append((network, gateway, board))
        return made[-1]

    yield make
    for network, gateway, board in made:
        gateway.transport.close()
        board.transport.close()
        await network.stop()


def numbered(count: int) -> list[bytes]:
    return [b"%d" % n for n in range(count)]


async def test_a_good_network_carries_all_in_order() -> None:
    async with tcp() as network:
        reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
        sent = bytes(range(256)) * 400
        writer.write(sent)
        assert await asyncio.wait_for(reader.readexactly(len(sent)), 20) == sent
        writer.close()


async def test_tcp_turns_loss_and_damage_into_time_and_keeps_the_order() -> None:
    async with tcp() as network:
        network.loss = network.damage = 0.05
        network.jitter = 0.005
        reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
        sent = bytes(n * 7 % 256 for n in range(60_000))
        writer.write(sent)
        assert await asyncio.wait_for(reader.readexactly(len(sent)), 60) == sent
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


async def test_a_cut_is_silent_and_all_comes_when_it_is_mended() -> None:
    async with tcp() as network:
        reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
        network.cut = True
        writer.write(b"hello")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        network.heal()
        assert await asyncio.wait_for(reader.readexactly(5), 20) == b"hello"
        writer.close()


async def test_a_broken_connection_is_reset_and_a_new_one_works_unless_refused() -> None:
    async with tcp() as network:
        reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
        writer.write(b"x")
        assert await asyncio.wait_for(reader.readexactly(1), 20) == b"x"
        network.break_connections()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 20)
        network.refuses = True
        reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.readexactly(1), 20)
        network.refuses = False
        reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
        writer.write(b"y")
        assert await asyncio.wait_for(reader.readexactly(1), 20) == b"y"
        assert network.accepted == 2
        writer.close()


async def test_a_half_open_connection_tells_nobody_and_a_new_one_works() -> None:
    hung_up = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100):
                writer.write(data)
        finally:
            hung_up.set()
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        network = FaultyTcp(*server.sockets[0].getsockname())
        await network.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
        writer.write(b"1")
        assert await asyncio.wait_for(reader.readexactly(1), 20) == b"1"
        network.half_open()
        writer.write(b"2")
        other, again = await asyncio.open_connection("127.0.0.1", network.port)
        again.write(b"3")
        assert await asyncio.wait_for(other.readexactly(1), 20) == b"3"
        writer.transport.abort()
        again.write(b"4")
        assert await asyncio.wait_for(other.readexactly(1), 20) == b"4"
        assert not hung_up.is_set(), "the far end does not hear that the near one has gone"
        await network.stop()
        await asyncio.wait_for(hung_up.wait(), 20)
        again.close()


async def test_datagrams_arrive_and_answers_find_back(udp: Udp) -> None:
    _, gateway, board = await udp()
    for data in numbered(20):
        board.transport.sendto(data)
    await until(lambda: len(board.came) == 20, "all come back")
    assert gateway.came == numbered(20)


async def test_datagrams_get_lost_are_doubled_and_overtake_each_other(udp: Udp) -> None:
    network, gateway, board = await udp()
    network.loss, network.duplicates, network.jitter = 0.3, 0.2, 0.05
    for data in numbered(200):
        board.transport.sendto(data)
        await asyncio.sleep(0)
    await until(lambda: network.passed[0] > 100, "some arrive")
    network.loss = network.duplicates = 0
    board.transport.sendto(b"last")
    await until(lambda: b"last" in gateway.came, "the last one arrives")
    await until(lambda: len(gateway.came) == network.passed[0], "all under way arrive")
    assert 110 < len(set(gateway.came)) < 170
    assert len(gateway.came) > len(set(gateway.came)) + 10
    assert gateway.came != sorted(gateway.came, key=lambda data: (data == b"last", data.zfill(4)))


async def test_damaged_datagrams_are_thrown_away_unless_nobody_checks(udp: Udp) -> None:
    network, gateway, board = await udp()
    network.damage = 1
    fresh = network.random.getstate()
    board.transport.sendto(b"spoilt")
    await until(lambda: network.random.getstate() != fresh, "its fate is decided")
    careless, other, far = await udp(checksums=False)
    careless.damage = 1
    far.transport.sendto(b"spoilt")
    await until(lambda: len(other.came) == 1, "it arrives")
    assert other.came[0] != b"spoilt"
    assert len(other.came[0]) == 6
    network.heal()
    board.transport.sendto(b"good")
    await until(lambda: gateway.came == [b"good"], "only the good one arrives")


async def test_half_open_and_a_router_that_forgets(udp: Udp) -> None:
    network, gateway, board = await udp()
    network.deaf_board = True
    board.transport.sendto(b"1")
    await until(lambda: gateway.came == [b"1"], "it arrives")
    network.deaf_board = False
    network.rebind()
    board.transport.sendto(b"2")
    await until(lambda: board.came == [b"2"], "the second is answered, the first was not")
    assert len(gateway.ports) == 2


async def test_what_goes_to_the_port_that_a_router_has_forgotten_gets_lost(udp: Udp) -> None:
    network, gateway, board = await udp()
    board.transport.sendto(b"1")
    await until(lambda: board.came == [b"1"], "it is answered")
    (old,) = gateway.ports
    network.half_open()
    gateway.transport.sendto(b"late", ("127.0.0.1", old))
    board.transport.sendto(b"2")
    await until(lambda: board.came == [b"1", b"2"], "the new port works, and nothing came over the old one")
    assert len(gateway.ports) == 2


def test_the_same_seed_gives_the_same_fate() -> None:
    def fates(seed: int) -> list[list[bytes]]:
        faults = Faults(seed)
        faults.loss = faults.damage = faults.duplicates = 0.3
        return [faults.fate(data, to_board=False) for data in numbered(50)]

    assert fates(1) == fates(1) != fates(2)
    assert flip(b"", Faults(1).random) == b""
