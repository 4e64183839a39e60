"""Sketches are within the errors that they state, merge, and survive being stored."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.events import Event
from edge_runtime.streams.aggregates import make
from edge_runtime.streamspec import Aggregate

EVENT = Event("d", b"8 bytes.", 0, "climate", 0, 0, {})


def filled(op: str, values: list[Any], parts: int = 1, **args: Any) -> Any:
    """The result over all values: in so many states, each stored and read again, merged."""
    one = make(Aggregate(op, "v", args))
    states = [one.zero() for _ in range(parts)]
    for number, value in enumerate(values):
        one.add(states[number % parts], value, EVENT, 0)
    whole = one.zero()
    for state in states:
        one.merge(whole, one.load(one.dump(state)))
    return one.result(whole, 0, 1)


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("count", [0, 5, 1000, 50_000])
def test_distinct(count: int, parts: int) -> None:
    values = [f"card-{n}" for n in range(count)] * 2
    assert filled("distinct", values, parts) == pytest.approx(count, rel=0.04)


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("q", [0.0, 0.01, 0.5, 0.95, 0.999, 1.0])
def test_a_quantile_is_right_by_rank(q: float, parts: int) -> None:
    rng = random.Random(1)
    values = sorted(rng.lognormvariate(0, 2) for _ in range(20_000))
    shuffled = rng.sample(values, len(values))
    found = filled("quantile", shuffled, parts, q=q)
    rank = sum(value <= found for value in values) / len(values)
    assert rank == pytest.approx(q, abs=0.02 if q == 0.5 else 0.005)


@pytest.mark.parametrize(("op", "args"), [("quantile", {"q": 0.9}), ("distinct", {}), ("top", {"k": 20})])
def test_being_stored_changes_nothing(op: str, args: dict[str, Any]) -> None:
    rng = random.Random(3)
    one = make(Aggregate(op, "v", args))
    kept, stored, seen = one.zero(), one.zero(), one.zero()
    for number in range(20_000):
        value = int(rng.lognormvariate(0, 2) * 50)
        for state in (kept, stored, seen):
            one.add(state, value, EVENT, 0)
        if rng.random() < 0.01:
            stored = one.load(one.dump(stored))
            one.result(seen, 0, 1)
        if number % 5000 == 4999:
            assert one.result(kept, 0, 1) == one.result(stored, 0, 1) == one.result(seen, 0, 1)
    merged = [one.zero(), one.zero()]
    for whole, state in zip(merged, (kept, stored), strict=True):
        one.merge(whole, state)
        one.merge(whole, kept)
    assert one.result(merged[0], 0, 1) == one.result(merged[1], 0, 1)


def test_a_quantile_of_few_is_one_of_them_or_between_two() -> None:
    assert filled("quantile", [], q=0.5) is None
    assert filled("quantile", [3], q=0.5) == 3
    assert 2 <= filled("quantile", [1, 2, 3, 4], q=0.5) <= 3


@given(st.lists(st.one_of(st.integers(0, 9), st.booleans(), st.sampled_from(["a", "1", ""])), max_size=60))
def test_the_most_frequent_of_few_are_exact(values: list[Any]) -> None:
    found = filled("top", values, 3, k=5)
    counts: dict[tuple[str, Any], int] = {}
    for value in values:
        counts[type(value).__name__, value] = counts.get((type(value).__name__, value), 0) + 1
    assert [count for _, count in found] == sorted(counts.values(), reverse=True)[:5]
    assert all(counts[type(value).__name__, value] == count for value, count in found)


def test_the_most_frequent_of_many_are_right_within_the_error() -> None:
    rng = random.Random(2)
    values = [min(int(rng.paretovariate(1)), 100_000) for _ in range(50_000)]
    found = dict(filled("top", values, 4, k=10))
    for value in (1, 2, 3):
        assert found[value] == pytest.approx(values.count(value), abs=0.0035 * len(values))


def test_what_has_no_end_is_left_out() -> None:
    assert filled("top", [{"a": 1}, [1], "x" * 1000, "y"]) == [["y", 1]]


@pytest.mark.parametrize(("op", "args"), [("quantile", {}), ("quantile", {"q": 2}), ("top", {"k": 0})])
def test_arguments_that_cannot_be(op: str, args: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make(Aggregate(op, "v", args))
