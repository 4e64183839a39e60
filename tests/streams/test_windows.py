"""Generated cases: against windows done naively, in any order, and interrupted anywhere."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime.events import TICK, Event
from edge_runtime.streams import engine
from edge_runtime.streams.engine import Windows
from edge_runtime.streams.machine import MOST, Pane, Result
from edge_runtime.streamspec import SECOND, Aggregate, Fixed, Session, Sliding, Trigger, Window
from tests.streams.naive import Naive, batch
from tests.streams.transcripts import LENGTHS, Store

COMPUTE = {
    "n": Aggregate("count"),
    "sum": Aggregate("sum", "v"),
    "max": Aggregate("max", "v"),
    "last": Aggregate("last", "v"),
    "all": Aggregate("collect", "v", {"limit": 1000}),
}
FOREVER = 10_000_000

small = st.integers(1, 12)
shapes = st.one_of(
    st.builds(Fixed, small, st.integers(0, 5)),
    st.builds(Sliding, small, small, st.integers(0, 5)),
    st.builds(Session, small),
)
rests = st.sampled_from([0, 0, 3, 10, 40])
triggers = st.builds(
    Trigger, st.sampled_from([0, 0, 1, 2, 3]), st.sampled_from([0, 0, 2, 7]), st.sampled_from([0, 0, 3])
)
windows = st.builds(
    lambda shape, lateness, trigger, accumulation, idle, delay: Window(
        shape, COMPUTE, "device", "event", lateness, trigger, accumulation, idle, delay, FOREVER, FOREVER
    ),
    shapes,
    rests,
    triggers,
    st.sampled_from(["discarding", "accumulating", "retracting"]),
    st.sampled_from([5, 20, 1000]),
    st.sampled_from([0, 0, 4]),
)
Moment = tuple[int, str, int, int]
"""Processing time since the last one, device (empty: a tick), event time against a clock of its own, value."""
moments = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from(["a", "b", "c", ""]), st.integers(-15, 8), st.integers(0, 9)),
    max_size=40,
)


mosts = st.sampled_from([1, 2, 256])
"""Results of an event: with few, much is done later than it is due."""


def in_seconds(spec: Window) -> Window:
    """The same with every microsecond a second: its index of what is due then has many buckets."""
    plain = msgspec.to_builtins(spec)
    for part in (plain, plain["shape"], plain.get("trigger", {})):
        for name in LENGTHS & part.keys():
            part[name] *= SECOND
    return msgspec.convert(plain, Window)


def happened(story: list[Moment], unit: int = 1) -> tuple[list[Event], list[int]]:
    """Events whose times go on with processing time, more or less."""
    events, times, now = [], [], 1
    for number, (after, device, away, value) in enumerate(story):
        now += after
        if device:
            events.append(Event(device, b"12345678", number, "e", (now + away) * unit, now * unit, {"v": value}))
        else:
            events.append(Event("gateway", b"", number, TICK + "t", now * unit, now * unit, None))
        times.append(now * unit)
    return events, times


@settings(max_examples=400, deadline=None)
@given(windows, moments)
def test_as_done_naively(spec: Window, story: list[Moment]) -> None:
    events, times = happened(story)
    naive, machine, store = Naive(spec), Windows(spec), Store()
    for index, (event, now) in enumerate(zip(events, times, strict=True)):
        before = machine.watermark if index else None
        found = store.take(machine, [event], [now])
        assert found == [msgspec.structs.replace(item, index=0) for item in naive.take(event, now, index)]
        if naive.seen:
            assert machine.watermark == naive.watermark
        assert before is None or machine.watermark >= before


@settings(max_examples=150, deadline=None)
@given(
    windows, moments, st.lists(st.sampled_from(["on", "save", "shrink", "restart"]), min_size=40, max_size=40), mosts
)
@example(  # a key that has ended, and begins again before that was stored
    Window(Session(1), COMPUTE, idle=5, ahead=FOREVER, behind=FOREVER),
    [(0, "c", 0, 0), (1, "b", 0, 0), (2, "a", 0, 0), (2, "a", 0, 0), (0, "c", 0, 0), (0, "b", 0, 0)],
    ["on", "on", "shrink", *["on"] * 37],
    256,
)
@example(  # time has come to more than one event has room for, when it is read again
    Window(Session(1), COMPUTE, trigger=Trigger(early_every=2), idle=20, ahead=FOREVER, behind=FOREVER),
    [*[(0, "a", 0, 0)] * 4, (0, "b", 0, 0), *[(after, "a", 0, 0) for after in (3, 4, 6, 1, 6, 0, 0)]],
    [*["on"] * 10, "restart", *["on"] * 29],
    1,
)
def test_interrupted_anywhere(spec: Window, story: list[Moment], what: list[str], most: int) -> None:
    with patch.object(engine, "MOST", most):
        interrupted(spec, story, what)


def interrupted(spec: Window, story: list[Moment], what: list[str]) -> None:
    spec = in_seconds(spec)
    events, times = happened(story, SECOND)
    expected = Store().take(Windows(spec), events, times)
    machine, store = Windows(spec), Store()
    results: list[Result] = []
    for index, (event, now) in enumerate(zip(events, times, strict=True)):
        found = store.take(machine, [event], [now])
        results += [msgspec.structs.replace(item, index=index) for item in found]
        if what[index] != "on":
            store.save(machine)
        if what[index] == "shrink":
            machine.shrink(0)
        if what[index] == "restart":
            machine = Windows(spec)
    assert results == expected


def ended(spec: Window, events: list[Event], times: list[int]) -> list[Result]:
    """With a tick long after the last event, and those that are asked for then."""
    machine, store, end = Windows(spec), Store(), FOREVER * 3
    results = store.take(machine, events, times)
    for _ in range(10_000):
        results += store.take(machine, [Event("gateway", b"", 0, TICK + "t", end, end, None)], [end])
        if machine.wakes() != end:
            return results
    raise AssertionError("it never comes to an end")


def _final(panes: list[Pane]) -> dict[tuple[str, int, int], Any]:
    """What stands in the end: the last of each window, but for what was taken back."""
    final: dict[tuple[str, int, int], Any] = {}
    for pane in panes:
        if pane.retraction:
            assert final.pop((pane.key, pane.start, pane.end)) == pane.values
        else:
            final[pane.key, pane.start, pane.end] = pane.values
    return final


def _batched(spec: Window, events: list[Event]) -> dict[tuple[str, int, int], Any]:
    naive = Naive(spec)
    for event in events:
        naive._add(event)  # no watermark yet: all windows are open
    return {(item.key, item.start, item.end): batch(item.events) for item in naive.windows}


@settings(max_examples=200, deadline=None)
@given(windows, moments, st.randoms(use_true_random=False), mosts)
def test_any_order_ends_the_same(spec: Window, story: list[Moment], random: Any, most: int) -> None:
    """Whatever the order in which they come: as if all were there from the beginning."""
    accumulation = "retracting" if isinstance(spec.shape, Session) else "accumulating"
    spec = msgspec.structs.replace(spec, lateness=FOREVER, accumulation=accumulation)
    events, times = happened([moment for moment in story if moment[1]])
    expected = _batched(spec, events)
    random.shuffle(events)
    with patch.object(engine, "MOST", most):
        results = ended(spec, events, times)
    assert _final([item for item in results if isinstance(item, Pane)]) == expected


@settings(max_examples=200, deadline=None)
@given(windows, moments, mosts)
def test_what_is_new_adds_up(spec: Window, story: list[Moment], most: int) -> None:
    spec = msgspec.structs.replace(spec, lateness=FOREVER, accumulation="discarding")
    events, times = happened([moment for moment in story if moment[1]])
    with patch.object(engine, "MOST", most):
        results = ended(spec, events, times)
    batched = _batched(spec, events).values()
    for name in ("n", "sum"):
        said = sum(item.values[name] for item in results if isinstance(item, Pane))
        assert said == sum(values[name] for values in batched)


def test_thousands_end_together() -> None:
    """A few hundred with each event, the same ones however it is interrupted; and at once, not when time has passed."""
    spec = Window(Fixed(10), {"n": Aggregate("count")}, by="data.zone")
    count = 5 * MOST
    events = [Event("a", b"12345678", n, "e", n % 10, 1, {"zone": f"z{n}"}) for n in range(count)]
    events += [Event("a", b"12345678", count + n, "e", 10 + n, 2, {"zone": "z7"}) for n in range(8)]
    times = [event.received for event in events]
    expected: list[Result] = []
    machine, store, done = Windows(spec), Store(), 0
    while done < len(events):
        store.provide(machine, events[done:], times[done:])
        taken, found = machine.take(events[done:], times[done:])
        assert len(found) < 2 * MOST
        expected += [msgspec.structs.replace(item, index=item.index + done) for item in found]
        done += taken
        if done == count + 1:
            assert machine.wakes() == 2
    first = [item for item in expected if isinstance(item, Pane) and item.start == 0]
    assert [pane.key for pane in first] == sorted(f"z{n}" for n in range(count))
    assert all(pane.values == {"n": 1} for pane in first)
    assert max(sum(pane.index == index for pane in first) for index in range(len(events))) == MOST

    results: list[Result] = []
    machine, store = Windows(spec), Store()
    for index, (event, now) in enumerate(zip(events, times, strict=True)):
        found = store.take(machine, [event], [now])
        results += [msgspec.structs.replace(item, index=index) for item in found]
        if index % 50 == 0 or index >= count:
            store.save(machine)
            machine.shrink(10_000)
        if index >= count:
            machine = Windows(spec)
    assert results == expected
