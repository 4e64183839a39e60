"""Steps: what becomes of single events, and what is remembered of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.config import StreamSettings
from edge_runtime.errors import ConfigError
from edge_runtime.events import Event
from edge_runtime.streams.build import machine_of
from edge_runtime.streams.check import check
from edge_runtime.streams.settings import stream_of
from edge_runtime.streams.steps import MAX_ITEMS, Steps
from edge_runtime.streamspec import (
    Absent,
    Aggregate,
    Deduplicate,
    Enrich,
    Filter,
    Fixed,
    Flatten,
    Global,
    Join,
    Map,
    Sample,
    Sequence,
    Session,
    Sliding,
    Source,
    Split,
    Step,
    Stream,
    Throttle,
    Trigger,
    Window,
)


def event(data: Any, time: int = 0, seq: int = 0, device: str = "d") -> Event:
    return Event(device, b"8 bytes.", seq, "climate", time, time, data)


def run(steps: list[Step], data: Any) -> list[tuple[str, Any]]:
    made = Steps(steps, lambda device: {"site": "north", "of": device})
    return [(one.kind, one.data) for one in made.run(event(data))]


@pytest.mark.parametrize(
    ("step", "data", "expected"),
    [
        (Filter("t > 3"), {"t": 4}, [{"t": 4}]),
        (Filter("t > 3"), {"t": 3}, []),
        (Filter("t > 3"), None, []),
        (Map({"c": "(f - 32) * 5 / 9", "x": "nothing"}), {"f": 50}, [{"c": 10.0, "x": None}]),
        (Map({"c": "t"}, keep=True), {"t": 1}, [{"t": 1, "c": 1}]),
        (Map({"warm": "t > 3"}, keep=True), {"t": 4}, [{"t": 4, "warm": True}]),
        (Enrich("at", tags=["site", "gone"]), {"t": 1}, [{"t": 1, "at": {"site": "north"}}]),
        (Enrich("room", table={"1": "hall"}, on="r"), {"r": 1}, [{"r": 1, "room": "hall"}]),
        (Enrich("room", table={"1": "hall"}, on="r"), {"r": 2}, [{"r": 2, "room": None}]),
        (Flatten("v"), {"v": [1, 2], "x": 3}, [{"v": 1, "x": 3}, {"v": 2, "x": 3}]),
        (Flatten("a.v"), {"a": {"v": [1, 2]}}, [1, 2]),
        (Flatten(""), [1, 2], [1, 2]),
        (Flatten("v"), {"x": 3}, [{"x": 3}]),
    ],
)
def test_a_step(step: Step, data: Any, expected: list[Any]) -> None:
    assert run([step], data) == [("climate", one) for one in expected]


def test_a_split_gives_the_kind_of_the_first_that_holds() -> None:
    split = Split({"hot": "t > 30", "warm": "t > 20"})
    assert run([split], {"t": 31}) == [("hot", {"t": 31})]
    assert run([split], {"t": 21}) == [("warm", {"t": 21})]
    assert run([split], {"t": 1}) == []
    assert run([Split({"hot": "t > 30"}, otherwise="rest")], {"t": 1}) == [("rest", {"t": 1})]


def test_steps_one_after_the_other_and_a_bound() -> None:
    assert run([Flatten("v"), Filter("v > 1"), Map({"w": "v * 2"})], {"v": [1, 2, 3]}) == [
        ("climate", {"w": 4}),
        ("climate", {"w": 6}),
    ]
    assert len(run([Flatten("v")], {"v": [0] * 5000})) == MAX_ITEMS


def test_a_sample_is_the_same_on_a_replay_and_about_its_share() -> None:
    first, second = (Steps([Sample(4)], lambda device: {}) for _ in range(2))
    events = [event({}, seq=seq) for seq in range(4000)]
    chosen = [one.seq for made in events for one in first.run(made)]
    assert chosen == [one.seq for made in events for one in second.run(made)]
    assert 800 < len(chosen) < 1200


def through(steps: list[Step], events: list[Event], interrupted: bool) -> list[int]:
    """The sequences of what passes; interrupted: all is stored and read again before each."""
    stored: dict[str, bytes | None] = {}
    made = Steps(steps, lambda device: {})
    passed = []
    for one in events:
        if interrupted:
            stored |= made.dump()
            made = Steps(steps, lambda device: {})
        made.load({name: stored.get(name) for name in made.needs([one])})
        passed += [found.seq for found in made.run(one)]
    return passed


READINGS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from(["d", "e"])), max_size=30)


@given(READINGS, st.booleans())
def test_duplicates_are_left_out(readings: list[tuple[int, int, str]], interrupted: bool) -> None:
    time = 0
    events, expected = [], []
    last: dict[tuple[str, int], int] = {}
    for seq, (passes, value, device) in enumerate(readings):
        time += passes
        events.append(event({"v": value}, time, seq, device))
        if time - last.get((device, value), -100) >= 5:
            last[device, value] = time
            expected.append(seq)
    assert through([Deduplicate(["v"], 5)], events, interrupted) == expected


@given(READINGS, st.booleans())
def test_a_throttle_holds_in_any_span(readings: list[tuple[int, int, str]], interrupted: bool) -> None:
    time = 0
    events = []
    for seq, (passes, value, device) in enumerate(readings):
        time += passes
        events.append(event({"v": value}, time, seq, device))
    passed = through([Throttle(2, 5)], events, interrupted)
    for device in "de":
        times = [events[seq].time for seq in passed if events[seq].device == device]
        assert all(later - time >= 5 for time, later in zip(times, times[2:], strict=False))
    if events:
        assert passed[0] == 0


WINDOW = Window(Fixed(10), {"n": Aggregate("count")})


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (Stream([]), "0 kinds"),
        (Stream([Source("a")], Join(5)), "1 kinds"),
        (Stream([Source("a", "t >")], WINDOW), "column"),
        (Stream([Source("a")], None, [Filter("(")]), "not an expression"),
        (Stream([Source("a")], None, [Map({"x": "1 +"})]), "not an expression"),
        (Stream([Source("a")], None, [Sample(0)]), "more than 0"),
        (Stream([Source("a")], None, [Deduplicate([], 5)]), "fields"),
        (Stream([Source("a")], None, [Throttle(5000, 5)]), "at most 1000"),
        (Stream([Source("a")], None, [Sample(1)] * 33), "too many"),
        (Stream([Source("a")], Window(Fixed(0), WINDOW.compute)), "every"),
        (Stream([Source("a")], Window(Sliding(5, 10), WINDOW.compute)), "less than"),
        (Stream([Source("a")], Window(Sliding(5000, 1), WINDOW.compute)), "more than 1000 windows"),
        (Stream([Source("a")], Window(Sliding(300, 1), WINDOW.compute, lateness=1)), "more than 256 windows"),
        (Stream([Source("a")], Window(Sliding(300, 1), WINDOW.compute, trigger=Trigger(5))), "more than 256 windows"),
        (Stream([Source("a")], Window(Fixed(367 * 86_400_000_000), WINDOW.compute)), "367 days"),
        (Stream([Source("a")], Window(Fixed(5), WINDOW.compute, trigger=Trigger(-1))), "early_count"),
        (Stream([Source("a")], Absent(400 * 86_400_000_000)), "400 days"),
        (Stream([Source("a")], Window(Fixed(5), {"x": Aggregate("variance", "v", {"population": 1})})), "population"),
        (Stream([Source("a")], Window(Fixed(5), {"x": Aggregate("time_mean", "v", {"limit": 1})})), "from 2"),
        (Stream([Source("a")], Window(Global(), WINDOW.compute)), "never ends"),
        (Stream([Source("a")], Window(Fixed(5), {})), "0 values"),
        (Stream([Source("a")], Window(Fixed(5), {"x": Aggregate("meen", "v")})), "no aggregate 'meen'"),
        (Stream([Source("a")], Window(Fixed(5), {"x": Aggregate("mean")})), "of a field"),
        (Stream([Source("a")], Window(Fixed(5), {"x": Aggregate("quantile", "v")})), "which quantile"),
        (Stream([Source("a")], Window(Fixed(5), {"x": Aggregate("top", "v", {"k": 0})})), "from 1"),
        (Stream([Source("a")], Window(Fixed(5), WINDOW.compute, by="zone")), "partition key"),
        (Stream([Source("a")], Window(Fixed(5), WINDOW.compute, accumulation="all")), "accumulation"),
        (Stream([Source("a")], Window(Fixed(5), WINDOW.compute, lateness=-1)), "lateness"),
        (Stream([Source("a"), Source("b")], Join(0)), "within"),
        (Stream([Source("a"), Source("b")], Join(5, most=0)), "most"),
        (Stream([Source("a"), Source("b")], Join(5), [Split({"c": "t > 1"})]), "split"),
    ],
)
def test_what_cannot_be_is_told(stream: Stream, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(stream)
    assert why in f"{refused.value} {refused.value.hint}"


LENGTHS = st.one_of(st.integers(-1, 2000), st.sampled_from([10**9, 366 * 86_400 * 10**6, 10**16]))
AGGREGATES = st.builds(
    Aggregate,
    st.sampled_from(["count", "mean", "variance", "collect", "time_mean", "quantile", "top", "distinct", "custom"]),
    st.sampled_from(["", "v", "a.b", "a..b"]),
    st.dictionaries(
        st.sampled_from(["q", "k", "limit", "population", "x"]), st.sampled_from([0, 0.5, 1, 2, 10**5, True, "a"])
    ),
)
COMPUTATIONS = st.one_of(
    st.builds(
        Window,
        st.one_of(
            st.builds(Fixed, LENGTHS),
            st.builds(Sliding, LENGTHS, LENGTHS),
            st.builds(Session, LENGTHS),
            st.just(Global()),
        ),
        st.dictionaries(st.sampled_from("ab"), AGGREGATES, max_size=2),
        lateness=LENGTHS,
        delay=LENGTHS,
        trigger=st.builds(Trigger, LENGTHS, LENGTHS, LENGTHS),
        accumulation=st.sampled_from(["discarding", "retracting", "none"]),
    ),
    st.builds(Join, LENGTHS, st.sampled_from(["device", "data.zone", "zone", ""]), LENGTHS, LENGTHS),
    st.builds(Sequence, LENGTHS, lateness=LENGTHS),
    st.builds(Absent, LENGTHS),
)


@given(COMPUTATIONS, st.integers(0, 4))
def test_what_passes_can_be_made(computation: Any, sources: int) -> None:
    """In the daemon one asks; the worker makes it, and must not fail at it."""
    stream = Stream([Source("a"), Source("b"), Source("c"), Source("d")][:sources], computation)
    try:
        check(stream)
    except ConfigError:
        return
    assert machine_of(stream) is not None


def test_words_of_the_configuration() -> None:
    steps = (
        "filter t > 1",
        "map c = (t - 32) * 5 / 9",
        "add warm = c > 20",
        "flatten v",
        "sample 3",
        "enrich at from tags site, room",
        "deduplicate a, b within 1m",
        "throttle 5 within 10s",
    )
    stream = stream_of("x", StreamSettings("climate", "out", steps=steps))
    assert stream.steps == [
        Filter("t > 1"),
        Map({"c": "(t - 32) * 5 / 9"}),
        Map({"warm": "c > 20"}, keep=True),
        Flatten("v"),
        Sample(3),
        Enrich("at", tags=["site", "room"]),
        Deduplicate(["a", "b"], 60_000_000),
        Throttle(5, 10_000_000),
    ]
    compute = {"m": "mean(t)", "p": "quantile(gps.lat, 0.5)", "n": "count()", "s": "total(t)", "k": "top(t, 3)"}
    window = stream_of("x", StreamSettings("climate", "out", compute=compute, every=10)).computation
    assert isinstance(window, Window)
    assert window.compute == {
        "m": Aggregate("mean", "t"),
        "p": Aggregate("quantile", "gps.lat", {"q": 0.5}),
        "n": Aggregate("count"),
        "s": Aggregate("sum", "t"),
        "k": Aggregate("top", "t", {"k": 3}),
    }


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (StreamSettings("a", "b", steps=("filtr t > 1",)), 'the step "filtr t > 1"'),
        (StreamSettings("a", "b", steps=("sample many",)), "not understood"),
        (StreamSettings("a", "b", steps=("throttle 5 within soon",)), "not understood"),
        (StreamSettings("a", "b", compute={"x": "mean temperature"}), "is not such as"),
        (StreamSettings("a", "b", compute={"x": "mean(t, 5)"}), "takes a field alone"),
        (StreamSettings("a", "b", compute={"x": "count()"}, absent=5), "both"),
        (StreamSettings("a", "b", every=5), "nothing to compute"),
        (StreamSettings("a", "b", compute={"x": "count()"}, gap=5, every=5), "gap"),
        (StreamSettings("a", "b", where="t >"), "column"),
    ],
)
def test_a_table_that_cannot_be_names_itself(settings: StreamSettings, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        stream_of("night", settings)
    assert "[streams.night]" in str(refused.value)
    assert why in f"{refused.value} {refused.value.hint}"
