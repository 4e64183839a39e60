"""Joins, absences and sequences against what one finds without a thought for speed, interrupted or not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.events import GATEWAY, TICK, Event
from edge_runtime.streams import remembered
from edge_runtime.streams.build import machine_of
from edge_runtime.streams.joins import Joining
from edge_runtime.streams.machine import MOST, Late, Machine, Note, Pane, Result
from edge_runtime.streamspec import Absent, Join, Latest, Map, Source, Stream
from edge_runtime.streamspec import Sequence as InOrder

SOURCES = [Source("a"), Source("b")]
THREE = [*SOURCES, Source("c")]


def event(seq: int, kind: str, time: int, device: str = "d") -> Event:
    return Event(device, b"8 bytes.", seq, kind, time, time, {"n": seq})


def tick(now: int) -> Event:
    return Event(GATEWAY, b"", 0, f"{TICK}x", now, now, {"due": now})


class Driver:
    """A stream's machine; with `interrupted` everything is dumped, let go of and loaded before each event."""

    def __init__(self, stream: Stream, *, interrupted: bool = False) -> None:
        self._stream = stream
        self._interrupted = interrupted
        self._stored: dict[str, bytes | None] = {}
        self.machine = self._made()
        self.results: list[Result] = []

    def _made(self) -> Machine:
        machine = machine_of(self._stream)
        assert machine is not None
        return machine

    def take(self, events: Sequence[Event], times: Sequence[int]) -> None:
        rest, when = list(events), list(times)
        while rest:
            if self._interrupted:
                self._stored |= self.machine.dump()
                self.machine = self._made()
            part = (rest[:1], when[:1]) if self._interrupted else (rest, when)
            while names := self.machine.needs(*part):
                self.machine.load({name: self._stored.get(name) for name in names})
            number, found = self.machine.take(*part)
            self.results += found
            rest, when = rest[number:], when[number:]

    def values(self) -> list[dict[str, int]]:
        """The numbers of the events in each pane."""
        return [
            {name: value["n"] for name, value in result.values.items()}
            for result in self.results
            if isinstance(result, Pane)
        ]


def late(driver: Driver) -> int:
    return sum(isinstance(result, Late) for result in driver.results)


KINDS = st.sampled_from("abc")
DISORDERED = st.lists(st.tuples(KINDS, st.integers(0, 4), st.integers(0, 6)), max_size=25)
"""Kind, step of time, and how far behind it arrives."""


def arrivals(readings: list[tuple[str, int, int]], most: int) -> list[Event]:
    """In the order of arrival, each at most `most` behind the newest."""
    time = 0
    events = []
    for seq, (kind, step, behind) in enumerate(readings):
        time += step
        events.append((time + min(behind, most), seq, event(seq, kind, time)))
    return [one for _, _, one in sorted(events, key=lambda e: e[:2])]


@given(DISORDERED, st.integers(1, 6), st.booleans())
def test_a_join_is_two_loops(readings: list[tuple[str, int, int]], within: int, interrupted: bool) -> None:
    events = [one for one in arrivals(readings, 6) if one.kind != "c"]
    driver = Driver(Stream(SOURCES, Join(within, lateness=6)), interrupted=interrupted)
    driver.take(events, [0] * len(events))
    wanted = [
        {"left": one.seq, "right": other.seq}
        for one in events
        for other in events
        if one.kind == "a" and other.kind == "b" and abs(one.time - other.time) <= within
    ]
    assert late(driver) == 0
    assert sorted(map(str, driver.values())) == sorted(map(str, wanted))


def test_a_join_forgets_what_nothing_can_reach_and_says_what_it_leaves_out() -> None:
    driver = Driver(Stream(SOURCES, Join(10, most=3)))
    driver.take([event(n, "a", n // 2) for n in range(12)], [0] * 12)
    assert [result.about for result in driver.results if isinstance(result, Note)] == ["overflow"]
    driver.take([event(20, "a", 100), event(21, "b", 95), event(22, "b", 100)], [0] * 3)
    assert driver.values() == [{"left": 20, "right": 22}]
    assert [result.by for result in driver.results if isinstance(result, Late)] == [5]
    assert isinstance(driver.machine, Joining)
    assert len(driver.machine._cells.at("d", 0).left) == 1


def test_conditions_are_for_what_was_before_the_steps() -> None:
    """The flow has looked at them; what the steps have made of the data is no matter of theirs."""
    driver = Driver(Stream([Source("a", "t > 3"), Source("b")], Join(5), [Map({"n": "t"})]))
    driver.take([event(1, "a", 1), event(2, "b", 2)], [0, 0])
    assert driver.values() == [{"left": 1, "right": 2}]


@pytest.mark.parametrize("computation", [Join(5, "data.x"), Latest("data.x"), InOrder(5, "data.x")])
def test_what_has_no_key_is_set_aside(computation: Join | Latest | InOrder) -> None:
    driver = Driver(Stream(SOURCES, computation))
    driver.take([event(1, "a", 1), tick(1)], [0, 1])
    assert driver.results == [Late(0, 0)]


def test_a_join_stops_where_there_is_much() -> None:
    driver = Driver(Stream(SOURCES, Join(10)))
    driver.take([event(n, "a", 1) for n in range(200)], [0] * 200)
    events = [event(1000 + n, "b", 1) for n in range(5)]
    taken, found = driver.machine.take(events, [0] * 5)
    assert (taken, len(found)) == (2, 400)
    assert len(found) >= MOST


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab"), st.integers(0, 10**10)), max_size=40),
    st.sampled_from([Join(10**9), Latest(), InOrder(10**9), InOrder(10**9, lateness=3)]),
)
def test_keys_without_end_are_forgotten(
    steps: list[tuple[int, str, int]], computation: Join | Latest | InOrder
) -> None:
    """The one that was quiet for longest, with an interruption or without."""
    through, interrupted = (Driver(Stream(SOURCES, computation), interrupted=broken) for broken in (False, True))
    now = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remembered, "MAX_KEYS", 4)
        for seq, (device, kind, passes) in enumerate(steps):
            now += passes
            for driver in (through, interrupted):
                driver.take([event(seq, kind, seq, f"d{device}")], [now])
    assert through.results == interrupted.results
    stored = interrupted._stored | interrupted.machine.dump()
    assert sum(name.startswith("=") and value is not None for name, value in stored.items()) <= 4


def test_the_key_that_was_quiet_for_longest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MAX_KEYS", 2)
    driver = Driver(Stream(SOURCES, Latest()), interrupted=True)
    hour = 3600 * 10**6
    steps = [("b", "d1", 0), ("b", "d2", 0), ("a", "d1", hour), ("b", "d3", hour), ("a", "d1", hour), ("a", "d2", hour)]
    for seq, (kind, device, now) in enumerate(steps):
        driver.take([event(seq, kind, seq, device)], [now])
    assert driver.values() == [{"left": 2, "right": 0}, {"left": 4, "right": 0}]


@given(DISORDERED, st.integers(0, 5), st.booleans())
def test_the_latest_is_what_was_known(readings: list[tuple[str, int, int]], keep: int, interrupted: bool) -> None:
    events = [one for one in arrivals(readings, 6) if one.kind != "c"]
    driver = Driver(Stream(SOURCES, Latest(keep=keep)), interrupted=interrupted)
    driver.take(events, [0] * len(events))
    wanted = []
    latest: Event | None = None
    for one in events:
        if one.kind == "b":
            latest = one if latest is None or (one.time, one.seq) > (latest.time, latest.seq) else latest
        elif latest is not None and (not keep or one.time - latest.time <= keep):
            wanted.append({"left": one.seq, "right": latest.seq})
    assert driver.values() == wanted


@given(
    st.lists(st.tuples(st.sampled_from(["d1", "d2", "d3", ""]), st.integers(0, 9)), max_size=30),
    st.booleans(),
    st.booleans(),
)
def test_an_absence_is_a_gap(steps: list[tuple[str, int]], back: bool, interrupted: bool) -> None:
    """Seconds pass, with a tick at each; some bring an event."""
    driver = Driver(Stream([Source("a")], Absent(5, back=back)), interrupted=interrupted)
    now = 0
    heard: dict[str, int] = {}
    gone: set[str] = set()
    wanted: list[tuple[str, bool]] = []
    for seq, (device, passes) in enumerate(steps):
        for _ in range(passes):
            now += 1
            driver.take([tick(now)], [now])
            for one in sorted(heard):
                if one not in gone and heard[one] + 5 <= now:
                    gone.add(one)
                    wanted.append((one, True))
        if device:
            if back and device in gone:
                wanted.append((device, False))
            gone.discard(device)
            heard[device] = now
            driver.take([event(seq, "a", now, device)], [now])
    found = [(result.key, result.values["absent"]) for result in driver.results if isinstance(result, Pane)]
    assert found == wanted
    expected = min((heard[one] + 5 for one in heard if one not in gone), default=None)
    assert driver.machine.wakes() == expected


@given(DISORDERED, st.integers(1, 8), st.booleans(), st.booleans())
def test_a_sequence_is_found_in_order_of_time(
    readings: list[tuple[str, int, int]], within: int, without: bool, interrupted: bool
) -> None:
    sources = THREE if without else SOURCES
    events = [one for one in arrivals(readings, 6) if without or one.kind != "c"]
    driver = Driver(Stream(sources, InOrder(within, lateness=6)), interrupted=interrupted)
    driver.take(events, [0] * len(events))
    driver.take([tick(7)], [7])
    begun: Event | None = None
    wanted = []
    for one in sorted(events, key=lambda e: (e.time, e.seq)):
        if begun is not None and one.time - begun.time > within:
            begun = None
        if one.kind == "a":
            begun = one
        elif one.kind == "c":
            begun = None
        elif begun is not None:
            wanted.append({"first": begun.seq, "then": one.seq})
            begun = None
    assert late(driver) == 0
    assert driver.values() == wanted
    assert driver.machine.wakes() is None


def test_a_sequence_without_lateness_waits_for_nothing() -> None:
    driver = Driver(Stream(SOURCES, InOrder(5)))
    driver.take([event(0, "a", 1), event(1, "b", 3)], [0, 0])
    assert driver.values() == [{"first": 0, "then": 1}]
    driver.take([event(2, "a", 2)], [0])
    assert late(driver) == 1
