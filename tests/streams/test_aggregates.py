"""Aggregates: what they come to, in whatever parts they are put together, dumped and loaded anywhere."""

from __future__ import annotations

import math
import statistics
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.events import Event, Origin
from edge_runtime.streams.aggregates import Aggregator, make
from edge_runtime.streams.compute import Compute
from edge_runtime.streams.paths import key_of, reader
from edge_runtime.streamspec import SECOND, Aggregate

EXACT = ["count", "min", "max", "first", "last", "delta", "collect", "custom"]
ROUNDED = ["sum", "mean", "variance", "rate", "time_mean"]
END = 100 * SECOND

floats = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3))
numbers = st.one_of(st.integers(-1000, 1000), floats)
Reading = tuple[int, Any]


def event(time: int, seq: int, data: Any, device: str = "a") -> Event:
    return Event(device, b"12345678", seq, "e", time, time, data)


def added(part: Aggregator[Any], events: list[Event]) -> Any:
    state = part.zero()
    for item in events:
        part.add(state, item.data, item, item.time)
    return state


def through(part: Aggregator[Any], state: Any) -> Any:
    """As it comes back from a dump."""
    return part.load(msgspec.msgpack.decode(msgspec.msgpack.encode(part.dump(state))))


def same(op: str, one: Any, other: Any) -> bool:
    if op in EXACT or one is None or other is None:
        return bool(one == other)
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-4)


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("op", EXACT + ROUNDED)
@given(
    st.lists(st.tuples(st.integers(0, 90 * SECOND), numbers, st.integers(0, 2)), max_size=30),
    st.randoms(use_true_random=False),
)
def test_parts_in_any_order(op: str, readings: list[tuple[int, Any, int]], random: Any) -> None:
    """(a + b) + c, a + (b + c), all at once and shuffled are the same; what is merged stays as it is."""
    part = make(Aggregate(op, "v"))
    events = [(event(time, seq, value), group) for seq, (time, value, group) in enumerate(readings)]
    whole = part.result(added(part, [item for item, _ in events]), 0, END)
    random.shuffle(events)
    a, b, c = (through(part, added(part, [item for item, group in events if group == wanted])) for wanted in range(3))
    before = msgspec.msgpack.encode([part.dump(state) for state in (b, c)])
    left = part.zero()
    for state in (a, b, c):
        part.merge(left, state)
    right, last = part.zero(), part.zero()
    part.merge(last, b)
    part.merge(last, c)
    part.merge(right, a)
    part.merge(right, through(part, last))
    assert same(op, part.result(left, 0, END), whole)
    assert same(op, part.result(right, 0, END), whole)
    part.add(left, 5, event(1, 99, 5), 1)
    assert msgspec.msgpack.encode([part.dump(state) for state in (b, c)]) == before


def result(op: str, values: list[Any], **args: Any) -> Any:
    part = make(Aggregate(op, "v", args))
    return part.result(added(part, [event(n * SECOND, n, value) for n, value in enumerate(values)]), 0, 10 * SECOND)


def test_of_none() -> None:
    assert {op: result(op, []) for op in EXACT + ROUNDED} == {
        **dict.fromkeys(["min", "max", "first", "last", "delta", "mean", "variance", "time_mean"]),
        **{op: {"items": [], "left_out": 0} for op in ("collect", "custom")},
        "count": 0,
        "sum": 0,
        "rate": 0.0,
    }


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_are_summed_exactly(values: list[int]) -> None:
    total = sum(values)
    assert result("sum", values) == (total if -(2**63) <= total < 2**63 else float(total))


def test_small_beside_large() -> None:
    assert result("sum", [1e16, 1.0, -1e16]) == 1.0
    assert result("sum", [1.0] + [1e-16] * 10_000) == pytest.approx(1 + 1e-12, abs=1e-15)
    values = [1e9 + n % 3 for n in range(1000)]
    assert result("variance", values) == pytest.approx(statistics.variance(values), rel=1e-9)
    assert result("variance", [1, 2, 3, 4], population=True) == 1.25
    assert result("variance", [7]) is None


def test_beyond_what_a_float_holds() -> None:
    assert result("sum", [1e308, 1e308]) is None
    assert result("mean", [1e308, 1e308]) is None
    assert result("variance", [1e200, -1e200]) is None
    assert result("delta", [-1e308, 1e308]) is None


def test_collect_keeps_the_earliest() -> None:
    part = make(Aggregate("collect", "v", {"limit": 2}))
    events = [event(time, time, f"v{time}") for time in (3, 1, 4, 2)]
    assert part.result(added(part, events), 0, 9) == {"items": ["v1", "v2"], "left_out": 2}


def test_the_same_time_is_ordered_by_identity() -> None:
    one, other = event(5, 1, "one"), event(5, 2, "other")
    emitted = Event("a", b"", 0, "e", 5, 5, "emitted", origin=Origin("app.f", 1, "x", 3))
    for events in ([one, other], [other, one]):
        assert [result_of(op, events) for op in ("first", "last")] == ["one", "other"]
    assert result_of("last", [emitted, one]) == result_of("last", [one, emitted])


def result_of(op: str, events: list[Event]) -> Any:
    part = make(Aggregate(op, "v"))
    return part.result(added(part, events), 0, 10)


def test_time_mean_sums_up_what_is_old() -> None:
    """With a limit it comes to the same, as long as events are more or less in order."""
    values = [n % 7 for n in range(1000)]
    events = [event(n, n, value) for n, value in enumerate(values)]
    for early, late in zip(range(0, 1000, 10), range(7, 1000, 10), strict=False):
        events[early], events[late] = events[late], events[early]
    bounded, free = (make(Aggregate("time_mean", "v", {"limit": limit})) for limit in (40, 10_000))
    state = added(bounded, events)
    assert len(state[2]) <= 40
    assert bounded.result(state, 0, 1500) == pytest.approx(free.result(added(free, events), 0, 1500))


@pytest.mark.parametrize(
    ("op", "args", "words"),
    [
        ("maen", {}, "There is no aggregate 'maen'"),
        ("collect", {"limit": 0}, "'limit' of collect is 0"),
        ("collect", {"limit": True}, "'limit' of collect is True"),
        ("variance", {"population": 1}, "'population' of variance is 1"),
    ],
)
def test_what_cannot_be(op: str, args: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make(Aggregate(op, "v", args))
    assert str(raised.value) == words
    assert raised.value.hint


def test_what_does_not_fit_is_left_out() -> None:
    wanted = {"n": Aggregate("count"), "of": Aggregate("count", "v"), "sum": Aggregate("sum", "v")}
    wanted |= {"deep": Aggregate("max", "gps.levels[-1]"), "last": Aggregate("last", "v")}
    compute = Compute(wanted)
    states = compute.zero()
    data: list[Any] = [
        *({"v": value} for value in (1, "text", None, True, math.nan, math.inf, 2**70, [1], 2.5)),
        *(None, 7, "text", [1, 2], {}, {"gps": {"levels": [1, 9]}}, {"gps": {"levels": []}}, {"gps": [4]}),
    ]
    for n, item in enumerate(data):
        compute.feed(states, event(n, n, item), n)
    assert compute.values(states, 0, 9) == {"n": 17, "of": 8, "sum": 3.5, "deep": 9, "last": 2.5}
    bare = Compute({"sum": Aggregate("sum")})
    states = bare.zero()
    for n, item in enumerate([1, 2.5, {"v": 1}, None]):
        bare.feed(states, event(n, n, item), n)
    assert bare.values(states, 0, 9) == {"sum": 3.5}


def test_paths_and_keys() -> None:
    assert reader("a.b[1].c")({"a": {"b": [0, {"c": 5}]}}) == 5
    assert reader("a[-3]")({"a": [1, 2]}) is None
    for wrong in ("a..b", ".a", "a.", "a[b]", "a b", "a]"):
        with pytest.raises(ConfigError):
            reader(wrong)
    zone = key_of("data.zone")
    keys = [zone(event(0, 0, {"zone": value})) for value in ("x", 3, 3.0, 3.5, True, None, [1], {"a": 1}, "x" * 300)]
    assert keys == ["x", "3", "3", "3.5", "true", None, None, None, None]
    assert (key_of("device")(event(0, 0, 1, "dev")), key_of("")(event(0, 0, 1))) == ("dev", "")
    for wrong in ("zone", "data", "data.", "data..x"):
        with pytest.raises(ConfigError):
            key_of(wrong)
