"""A day of bad radio in virtual time: the real core and its spool against a small model of the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from tests.firmware.simulated_flash import Flash
from tests.firmware.spool_board import EPOCH, LOST, edge_device

SECOND = 1000
DAY = 24 * 3600 * SECOND
PERIOD = 5 * SECOND
LOSS = 0.3
"""Of all that is sent, in either direction: over TCP that is a connection on which nothing arrives any more."""
DELAY = 80


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, Any]]:
    names = ("segments", "parts", "config", "core", "mqtt", "cbor")
    with edge_device(*names) as found:
        yield dict(zip(names, found, strict=True))


class Hal:
    """A clock in virtual time, which the board does not know for its first minute."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self._start = day.now

    def uptime(self) -> int:
        return self._day.now - self._start

    def time(self) -> int | None:
        return None if self.uptime() < 60 * SECOND else EPOCH + self._day.now * 1000

    def random(self, number: int) -> bytes:
        return self._day.random.randbytes(number)


class Day:
    """A board, its flash, the air, and the gateway: what it has, by boot and sequence."""

    def __init__(self, modules: dict[str, Any], seed: int, **spool: Any) -> None:
        self._modules = modules
        self.random = Random(seed)
        self.now = 0
        self._flash = Flash(cached=True)
        modules["segments"].os, modules["segments"].open = self._flash.os, self._flash.open
        self._spool = spool
        self.stored: dict[tuple[bytes, int], tuple[str, Any, int]] = {}
        self.taken = 0
        self.repeats = 0
        self.told: set[tuple[bytes, int]] = set()
        self.in_order = True
        self._newest = (0, -1)
        self._boots: list[bytes] = []
        self.cuts = self._make_cuts()
        self._next_reading = 0
        self.start()

    def _make_cuts(self) -> list[tuple[int, int]]:
        """Times without any radio: minutes to hours, a third of the day or so, none at the end."""
        cuts: list[tuple[int, int]] = []
        at = 0
        while True:
            at += self.random.randint(600, 5400) * SECOND
            length = int(60 * SECOND * 240 ** (self.random.random() ** 2))  # one minute to four hours
            if at + length > DAY - 3600 * SECOND:
                return cuts
            cuts.append((at, at + length))
            at += length

    def start(self) -> None:
        """Power on."""
        form = {"device": "b1", "key": "k", "host": "h", "port": 1, "queue": 32, "spool": self._spool}
        config = self._modules["config"].Config(form)
        self._hal = Hal(self)
        self.core = self._modules["core"].Core(config, self._hal, lambda text: None)
        self._modules["parts"].attach(self.core, config.parts)
        self.core.observer = self
        self._boots.append(self.core.boot)
        self._started = self.now
        self._up = False
        self._deaf = False
        self._arrivals: list[tuple[int, bytes]] = []

    def _is_cut(self) -> bool:
        return any(begin <= self.now < end for begin, end in self.cuts)

    def run(self, until: int, *, reading: bool = True) -> None:
        """Let the time pass."""
        while self.now < until:
            if reading and self.now >= self._next_reading:
                self._next_reading += PERIOD
                self.core.emit("climate", {"n": self.taken, "temperature": 21.5})
                self.taken += 1
            wait = self.core.step(self._hal.uptime())
            self._radio()
            while self._arrivals and self._arrivals[0][0] <= self.now:
                self.core.receive(self._arrivals.pop(0)[1], self._hal.uptime())
                wait = 0
            ahead = [self.now + max(wait, 1), until]
            if reading:
                ahead.append(self._next_reading)
            if self._arrivals:
                ahead.append(self._arrivals[0][0])
            self.now = max(self.now + 1, min(ahead))

    def end(self) -> None:
        """No more readings; the radio stays bad."""
        for _ in range(12):
            if len(self.core.queue):
                self.run(self.now + 3600 * SECOND, reading=False)
        assert len(self.core.queue) == 0

    def on_published(self, boot: bytes, seq: int, again: bool) -> None:
        pass

    def on_acknowledged(self, boot: bytes, seq: int) -> None:
        """The board has been told that a reading is stored."""
        self.told.add((boot, seq))

    def _radio(self) -> None:
        core = self.core
        if self._up and not core.wants_link:
            self._up = False
        if core.wants_link and not self._up:
            if self._is_cut():
                core.link_down(self._hal.uptime(), "no network")
                return
            self._up, self._deaf, self._arrivals = True, False, []
            self._reader = self._modules["mqtt"].Reader(1 << 20)
            core.link_up(self._hal.uptime())
        if core.out and self._up:
            data = bytes(core.out)
            core.sent(len(data))
            self._deaf = self._deaf or self._is_cut() or self.random.random() < LOSS
            if not self._deaf:
                answer = self._answer(data)
                self._deaf = self.random.random() < LOSS
                if answer and not self._deaf:
                    self._arrivals.append((self.now + DELAY, answer))

    def _answer(self, data: bytes) -> bytes:
        """What a gateway says to that; what is stored is stored, whether the board hears of it or not."""
        self._reader.feed(data)
        out = b""
        while (packet := self._reader.next()) is not None:
            first, body = packet
            match first >> 4:
                case 1:
                    out += b"\x20\2\0\0"
                case 3:
                    topic, number, payload = self._modules["mqtt"].read_publish(first & 0xF7, body)
                    self._store(topic, self._modules["cbor"].decode(payload))
                    out += b"\x40\2" + number.to_bytes(2, "big")
                case 8:
                    out += b"\x90\3" + body[:2] + b"\1"
                case 12:
                    out += b"\xd0\0"
        return out

    def _store(self, topic: str, form: dict[int, Any]) -> None:
        events = form[5] if 5 in form else [[0, topic.rpartition("/")[2], form[4]]]
        for n, (offset, kind, data) in enumerate(events):
            name = (form[0], form[1] + n)
            time = form[2] + offset * 1000 if 2 in form else EPOCH + (self.now - form[6] + form[3] + offset) * 1000
            place = (self._boots.index(name[0]), name[1])
            if name in self.stored:
                self.repeats += 1
                assert self.stored[name][:2] == (kind, data)
            else:
                self.in_order = self.in_order and place > self._newest
                self._newest = max(self._newest, place)
            self.stored[name] = (kind, data, time)

    @property
    def found(self) -> list[int]:
        """The readings that the gateway has, in the order of their identities."""
        return [data["n"] for kind, data, _ in self.stored.values() if kind == "climate"]

    @property
    def given_up(self) -> int:
        """What the board has told it has given up."""
        return sum(data["count"] for kind, data, _ in self.stored.values() if kind == LOST)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_reading_is_lost_while_the_spool_has_room(modules: dict[str, Any], seed: int) -> None:
    day = Day(modules, seed, bytes=400_000, after=60)
    day.run(DAY)
    day.end()
    assert day.taken == DAY // PERIOD
    assert sum(end - begin for begin, end in day.cuts) > DAY // 8
    assert day.repeats > 100, "the radio was not bad"
    assert sorted(day.found) == list(range(day.taken))
    assert day.in_order
    assert day.given_up == day.core.queue.lost == 0
    late = [abs(time - EPOCH - data["n"] * PERIOD * 1000) for kind, data, time in day.stored.values() if kind != LOST]
    assert max(late) < 1_000_000


def test_what_has_to_go_is_counted_exactly(modules: dict[str, Any]) -> None:
    day = Day(modules, 3, bytes=24_000, after=60)
    day.run(DAY)
    day.end()
    assert day.core.queue.lost == 0
    assert day.given_up > 100
    # What was on its way when it had to go may have arrived all the same.
    acknowledged = sum(kind != LOST for name, (kind, _, _) in day.stored.items() if name in day.told)
    assert acknowledged + day.given_up == day.taken
    assert len(day.found) >= acknowledged
    assert day.in_order


def test_neither_is_one_when_the_power_goes_too(modules: dict[str, Any]) -> None:
    day = Day(modules, 4, bytes=400_000, after=0)
    for hour in range(1, 25):
        day.run(hour * 3600 * SECOND)
        day.start()
    day.end()
    assert sorted(day.found) == list(range(day.taken))
    assert day.given_up == 0
    assert day.in_order
