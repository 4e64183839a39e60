"""Watermarks of thousands of devices, and the index of what is due when."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.events import Event
from edge_runtime.streams import watermarks
from edge_runtime.streams.due import SEGMENT, Due
from edge_runtime.streams.watermarks import BEGINNING, CROSSES, NEVER, WILD, Watermarks

IDLE = 1000


def marks() -> Watermarks:
    return Watermarks(delay=5, idle=IDLE, ahead=10_000, behind=10_000, lateness=0)


def test_minimum_of_hundreds() -> None:
    """As the minimum over all of them, and never back; the heap holds each device once at most."""
    chance = random.Random(1)
    fleet = marks()
    newest: dict[str, int] = {}
    seen: dict[str, int] = {}
    now, expected = 0, BEGINNING
    for _ in range(6000):
        now += chance.randrange(30)
        name = f"d{chance.randrange(300) if chance.random() < 0.9 else chance.randrange(20)}"
        for step in range(2):  # as it is before the event, too
            active = [newest[other] for other, at in seen.items() if now - at < IDLE]
            if active:
                expected = max(expected, min(active) - 5)
            if step == 0:
                time = now - chance.randrange(50)
                fleet.see(name, time, now, now)
                newest[name], seen[name] = max(time, newest.get(name, time)), now
        if chance.random() < 0.02:
            assert fleet.at(now) == expected
    assert len(fleet._queue) <= 300


def test_it_tells_when_it_has_come_to_what_is_waited_for() -> None:
    """And only then has anybody to look: once for each witness, not once for each event."""
    fleet = marks()
    for number in range(100):
        fleet.see(f"d{number}", 0, 0, 0)
    fleet.want(100, 0)
    looked = 0
    for time in range(1, 106):
        for number in range(100):
            if fleet.see(f"d{number}", time, time, time) == CROSSES:
                looked += 1
                assert (fleet.at(time) >= 100) == (number == 99)
                fleet.want(100, time)
    assert fleet.at(105) == 100
    assert looked <= 100


class Stored:
    """What of a fleet is stored."""

    def __init__(self) -> None:
        self.head: list[Any] = []
        self.segments: dict[int, list[Any]] = {}
        self.written = 0

    def save(self, fleet: Watermarks) -> None:
        for number, content in fleet.dump():
            if content is None:
                del self.segments[number]
            else:
                assert number not in self.segments
                self.segments[number] = msgspec.msgpack.decode(msgspec.msgpack.encode(content))
                self.written += len(content)
        self.head = msgspec.msgpack.decode(msgspec.msgpack.encode(fleet.head()))

    def loaded(self, fleet: Watermarks) -> Watermarks:
        fleet.load(self.head, [self.segments[number] for number in watermarks.segments(self.head)])
        return fleet


def test_what_is_stored_is_about_what_has_changed() -> None:
    chance, fleet, stored = random.Random(3), marks(), Stored()
    for number in range(20_000):
        fleet.see(f"d{number}", number, number, number)
    stored.save(fleet)
    assert stored.written == 20_000
    for now in range(20_000, 40_000):
        fleet.see(f"d{chance.randrange(20_000)}", now, now, now)
        if now % 100 == 0:
            stored.save(fleet)
    assert stored.written < 20_000 + 3 * 20_000, "each change three times at most; as pieces by name it were 50 times"
    assert len(stored.segments) <= 10 + 2 * 20_000 // watermarks.SEGMENT
    stored.save(fleet)
    again = stored.loaded(marks())
    assert again.head() == fleet.head()
    assert {name: watermarks._plain(device) for name, device in again._devices.items()} == {
        name: watermarks._plain(device) for name, device in fleet._devices.items()
    }


def test_the_first_version_is_read() -> None:
    devices = [[f"d{number}", 100 + number, 100 + number, BEGINNING, 0] for number in range(100)]
    fleet = marks()
    head = [100, 95, 199, 199]
    assert watermarks.segments(head) == [0, 1]
    fleet.load(head, [devices[:64], devices[64:]])
    assert fleet.at(199) == 95
    fleet.see("d0", 150, 199, 199)
    assert fleet.at(199) == 96
    stored = Stored()
    stored.segments = {0: devices[:64], 1: devices[64:]}
    stored.save(fleet)
    assert stored.loaded(marks()).at(199) == 96


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six devices are remembered, and two are forgotten at a time."""
    monkeypatch.setattr(watermarks, "MAX_DEVICES", 6)
    monkeypatch.setattr(watermarks, "FORGOTTEN", 2)
    monkeypatch.setattr(watermarks, "SEGMENT", 3)


@pytest.mark.usefixtures("few")
def test_those_that_were_quiet_for_longest_are_forgotten_and_no_active_ones() -> None:
    fleet = marks()
    for number in range(6):
        fleet.see(f"d{number}", 100 * number, 100 * number, 100 * number)
    fleet.see("d0", 600, 600, 600)
    fleet.see("d6", 700, 700, 700)
    assert len(fleet._devices) == 7, "all of them are active"
    fleet.see("d7", 1250, 1250, 1250)
    fleet.see("d8", 1300, 1300, 1300)
    assert set(fleet._devices) == {"d0", "d4", "d5", "d6", "d7", "d8"}
    [(name, about, text)] = fleet.notes
    assert (name, about) == ("d8", "forgotten")
    assert "3 that were quiet" in text
    late = 11_500
    assert fleet.see("d1", 100, late, late) == WILD, "it is not known any more that it goes on where it had stopped"
    assert fleet.see("d0", 600, late, late) != WILD, "of this one it is"


FLEET = st.lists(
    st.tuples(st.integers(0, 15), st.integers(-30, 5), st.integers(0, 40), st.sampled_from(["", "", "save", "crash"])),
    max_size=80,
)


@pytest.mark.usefixtures("few")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FLEET)
def test_forgetting_moves_no_watermark_and_does_not_depend_on_what_was_stored_when(
    story: list[tuple[int, int, int, str]],
) -> None:
    def fleet() -> Watermarks:
        return Watermarks(delay=3, idle=60, ahead=30, behind=40, lateness=0)

    whole, stopped, stored = fleet(), fleet(), Stored()
    active: dict[str, int] = {}
    newest: dict[str, int] = {}
    now, expected = 100, BEGINNING
    stored.save(stopped)
    since: list[tuple[str, int, int]] = []
    for number, away, after, then in story:
        now += after
        name = f"d{number}"
        seen = (name, now + away, now)
        alive = [newest[other] for other, at in active.items() if now - at < 60]
        expected = max(expected, min(alive) - 3) if alive else expected
        verdicts = [one.see(name, now + away, now, now) for one in (whole, stopped)]
        assert verdicts[0] == verdicts[1]
        active[name], newest[name] = now, max(now + away, newest.get(name, BEGINNING))
        alive = [newest[other] for other, at in active.items() if now - at < 60]
        expected = max(expected, min(alive) - 3)
        assert whole.at(now) == stopped.at(now)
        assert whole.at(now) >= expected
        since.append(seen)
        if then == "save":
            stored.save(stopped)
            since.clear()
        elif then == "crash":
            stopped = stored.loaded(fleet()) if stored.head else fleet()
            for again, time, at in since:
                stopped.see(again, time, at, at)
                stopped.at(at)
    assert len(whole._devices) <= 6 + 2 + len([at for at in active.values() if now - at < 60])
    assert set(whole._devices) == set(stopped._devices)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(-50, 50), st.integers(0, 40), st.booleans()),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 39),
)
def test_bound(story: list[tuple[str, int, int, bool]], cut: int) -> None:
    """It is never less than what the watermark comes to; a dump in between changes nothing."""
    fleet = Watermarks(delay=3, idle=60, ahead=30, behind=40, lateness=0)
    now = 100
    events, times = [], []
    for seq, (name, away, after, _) in enumerate(story):
        now += after
        events.append(Event(name, b"12345678", seq, "e", now + away, now, None))
        times.append(now)
    for event, at in zip(events[:cut], times, strict=False):
        fleet.see(event.device, event.time, event.received, at)
    rest = list(zip(events[cut:], times[cut:], strict=True))
    until = times[-1] + story[0][2]
    bound = fleet.bound(rest, until)
    chunks = [msgspec.msgpack.decode(msgspec.msgpack.encode(chunk)) for _, chunk in fleet.dump()]
    copy = Watermarks(delay=3, idle=60, ahead=30, behind=40, lateness=0)
    copy.load(fleet.head(), chunks)
    reached = fleet.value
    fleet.notes.clear()
    for (event, at), (*_, ask) in zip(rest, story[cut:], strict=True):
        verdicts = [one.see(event.device, event.time, event.received, at) for one in (fleet, copy)]
        assert verdicts[0] == verdicts[1]
        if ask:
            assert fleet.at(at) == copy.at(at) >= reached
            reached = fleet.value
    assert reached <= fleet.at(until) == copy.at(until) <= bound
    assert fleet.notes == copy.notes


def test_a_wild_clock_is_told_once() -> None:
    fleet = Watermarks(delay=0, idle=1000, ahead=50, behind=50, lateness=0)
    for now in range(0, 900, 10):  # right and wrong in turn
        assert (fleet.see("a", now + 500 if now % 20 else now, now, now) == WILD) == bool(now % 20)
    assert [note[:2] for note in fleet.notes] == [("a", "ahead"), ("a", "right")]
    assert fleet.at(900) == 880


def _saved(due: Due, store: dict[str, Any]) -> None:
    for name, entries in due.dump():
        if entries is None:
            store.pop(name, None)
        else:
            store[name] = msgspec.msgpack.encode(entries)


def _drained(due: Due, store: dict[str, Any], until: int) -> list[tuple[int, str]]:
    for name in due.needs(until):
        due.load(name, msgspec.msgpack.decode(store[name]))
    found = []
    while due.first <= until:
        found.append(due.pop())
    due.settle(until)
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 400), st.integers(0, 3)), max_size=60))
def test_everything_is_due_in_its_turn(story: list[tuple[int, int, int]]) -> None:
    """Each entry once, in order of deadline and key, whatever is dumped, let go of and taken up again."""
    due, store = Due("~d.", 50), dict[str, Any]()
    waiting: set[tuple[int, str]] = set()
    passed = 0
    for number, (step, away, what) in enumerate(story):
        for extra in range(1 + (SEGMENT + 50) * (number % 20 == 7)):  # more than a segment holds
            entry = (passed + 1 + away, f"k{(number + extra) % 500}")
            waiting.add(entry)
            due.add(*entry)
        if what == 1:
            _saved(due, store)
            due.shrink(passed, 0)
        elif what == 2:
            _saved(due, store)
            head = msgspec.msgpack.decode(msgspec.msgpack.encode(due.head()))
            due = Due("~d.", 50)
            for name in due.take_up(head):
                due.load(name, msgspec.msgpack.decode(store[name]))
        elif what == 3:
            assert due.earliest <= min(waiting, default=(NEVER, ""))[0]
            passed += step
            ready = sorted(entry for entry in waiting if entry[0] <= passed)
            assert _drained(due, store, passed) == ready
            waiting.difference_update(ready)
    assert _drained(due, store, 10**6) == sorted(waiting)
    _saved(due, store)
    assert not store
