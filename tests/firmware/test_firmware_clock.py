"""The time by SNTP: from a server on this machine, and how far off a board is without one."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.firmware.spool_board import EPOCH, edge_device

HOUR = 3_600_000


@pytest.fixture(scope="module")
def clock() -> Iterator[Any]:
    with edge_device("clock") as (found,):
        yield found


class Hal:
    """An uptime that is `slow` millionths too slow."""

    def __init__(self, slow: float = 0.0) -> None:
        self.true = 0.0
        self.slow = slow

    def uptime(self) -> int:
        return int(self.true * (1 - self.slow / 1e6))

    def time(self) -> int | None:
        return None

    def random(self, number: int) -> bytes:
        return b"12345678"[:number]

    @property
    def right(self) -> int:
        return EPOCH + int(self.true * 1000)


@pytest.mark.parametrize("slow", [-80.0, 0.0, 40.0])
def test_the_drift_is_found_and_used(clock: Any, slow: float) -> None:
    hal = Hal(slow)
    found = clock.Clock(hal)
    assert found.time() is None
    for hour in range(6):
        hal.true = hour * HOUR + 5000
        before = hal.uptime()
        middle = hal.right + 20_000
        hal.true += 40
        found.heard(before, hal.uptime(), middle)
        assert abs(found.time() - hal.right) < 2_000
    assert abs(found.drift - slow) < 1
    hal.true += 24 * HOUR
    assert abs(found.time() - hal.right) < 100_000, "a day without an answer"


def test_a_clock_that_was_set_is_no_drift(clock: Any) -> None:
    found = clock.Clock(Hal())
    found.heard(1000, 1000, EPOCH)
    found.heard(HOUR, HOUR, EPOCH + 90 * HOUR * 1000)
    assert found.drift == 0


class Server:
    """An SNTP server that answers when it is told to."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(10)
        self.port: int = self._socket.getsockname()[1]

    def answer(self, time: int, *, first: int = 0x24, stratum: int = 2, token: bytes | None = None) -> None:
        data, peer = self._socket.recvfrom(100)
        assert data[0] == 0x23
        assert len(data) == 48
        seconds, micros = divmod(time, 1_000_000)
        stamp = struct.pack(">II", (seconds + 2_208_988_800) % 2**32, (micros << 32) // 1_000_000)
        self._socket.sendto(bytes([first, stratum]) + bytes(22) + (token or data[40:]) + bytes(8) + stamp, peer)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def board(clock: Any, server: Server, *, online: bool = True) -> Any:
    core = SimpleNamespace(hal=Hal(), online=online, config=SimpleNamespace(links=None), step=lambda now: 60_000)
    clock.attach(core, {"host": "127.0.0.1", "port": server.port})
    return core


def settle(core: Any) -> int:
    """Steps until the question is settled; how long it will be until the next."""
    for _ in range(200):
        wait: int = core.step(core.hal.uptime())
        if wait > 1000:
            return wait
        core.hal.below.true += wait
    raise AssertionError("it never comes to an end")


@pytest.mark.parametrize("time", [EPOCH, 2_100_000_000_000_000])
def test_a_server_is_asked(clock: Any, server: Server, time: int) -> None:
    core = board(clock, server)
    core.step(0)
    server.answer(time)
    settle(core)
    assert abs(core.hal.time() - core.hal.uptime() * 1000 - time) < 30_000


@pytest.mark.parametrize("wrong", [{"first": 0xE4}, {"first": 0x23}, {"stratum": 0}, {"token": b"87654321"}])
def test_what_is_no_answer_is_none(clock: Any, server: Server, wrong: dict[str, Any]) -> None:
    core = board(clock, server)
    core.step(0)
    server.answer(EPOCH, **wrong)
    settle(core)
    assert core.hal.time() is None


def test_nobody_is_asked_without_a_network(clock: Any, server: Server) -> None:
    core = board(clock, server, online=False)
    assert core.step(0) == 1000
    core.online = True
    assert core.step(5000) == 20
    settle(core)


def test_settings_that_are_wrong_are_named(clock: Any) -> None:
    for wrong in ({"hots": "x"}, {"port": "123"}, 5):
        with pytest.raises(ValueError, match="'clock'"):
            clock.attach(SimpleNamespace(), wrong)
