"""Aggregates that need no order: counts, sums and moments. Each state is a short list of numbers.

Integers are summed exactly. Floats are summed as Neumaier does (ZAMM 54, 1974); the variance is Welford's, merged as
Chan, Golub and LeVeque do (1979): neither loses what matters to many small readings beside large ones.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.events import Event
from edge_runtime.streams.aggregates import Aggregator, register
from edge_runtime.streamspec import SECOND, Aggregate

WORD = 2**63


class Count(Aggregator[list[int]]):
    """Events; with a field, those that have it."""

    takes = "events"

    def zero(self) -> list[int]:
        """[events]."""
        return [0]

    def add(self, state: list[int], value: Any, event: Event, time: int) -> None:
        """One more."""
        state[0] += 1

    def merge(self, state: list[int], other: list[int]) -> None:
        """So many more."""
        state[0] += other[0]

    def result(self, state: list[int], start: int, end: int) -> int:
        """Events."""
        return state[0]


class CountOf(Count):
    """Events that have the field."""

    takes = "values"


class Sum(Aggregator[list[Any]]):
    """The sum: an integer as long as all are (and 64 bits hold it); 0 of none."""

    def zero(self) -> list[Any]:
        """[numbers, sum of the integers, sum of the floats, what that lost]."""
        return [0, 0, 0.0, 0.0]

    def add(self, state: list[Any], value: Any, event: Event, time: int) -> None:
        """Add a number."""
        state[0] += 1
        if type(value) is int:
            state[1] += value
            return
        before = state[2]
        state[2] = total = before + value
        if (before if before >= 0.0 else -before) >= (value if value >= 0.0 else -value):
            state[3] += (before - total) + value
        else:
            state[3] += (value - total) + before

    def merge(self, state: list[Any], other: list[Any]) -> None:
        """Add a sum."""
        state[0] += other[0]
        state[1] += other[1]
        _neumaier(state, other[2])
        state[3] += other[3]

    def result(self, state: list[Any], start: int, end: int) -> Any:
        """The sum."""
        return _total(state)

    def dump(self, state: list[Any]) -> Any:
        """Integers beyond 64 bits as text."""
        if -WORD <= state[1] < WORD:
            return state
        return [state[0], str(state[1]), state[2], state[3]]

    def load(self, plain: Any) -> list[Any]:
        """Text back to integers."""
        return [plain[0], int(plain[1]), plain[2], plain[3]]


class Mean(Sum):
    """The mean; None of none."""

    def result(self, state: list[Any], start: int, end: int) -> Any:
        """Sum by count."""
        total = _total(state)
        return total / state[0] if total is not None and state[0] else None


class Rate(Sum):
    """The sum per second of the window's length; None where that is zero."""

    def result(self, state: list[Any], start: int, end: int) -> Any:
        """Per second."""
        total = _total(state)
        return total / ((end - start) / SECOND) if total is not None and end > start else None


class RateOfEvents(Count):
    """Events per second of the window's length; None where that is zero."""

    def result(self, state: list[int], start: int, end: int) -> Any:
        """Per second."""
        return state[0] / ((end - start) / SECOND) if end > start else None


def _neumaier(state: list[Any], value: float) -> None:
    before = state[2]
    total = before + value
    if abs(before) >= abs(value):
        state[3] += (before - total) + value
    else:
        state[3] += (value - total) + before
    state[2] = total


def _total(state: list[Any]) -> Any:
    whole, floats = state[1], state[2] + state[3]
    if not state[2] and not state[3] and -WORD <= whole < WORD:
        return whole
    return finite(whole + floats)


def finite(value: float) -> float | None:
    """The value, or None for what JSON has no number for: sums can grow beyond what a float holds."""
    return value if isfinite(value) else None


class Minimum(Aggregator[list[Any]]):
    """The least; None of none."""

    def zero(self) -> list[Any]:
        """[] or [the least]."""
        return []

    def add(self, state: list[Any], value: Any, event: Event, time: int) -> None:
        """Compare."""
        if not state:
            state.append(value)
        elif value < state[0]:
            state[0] = value

    def merge(self, state: list[Any], other: list[Any]) -> None:
        """Compare."""
        if other and (not state or other[0] < state[0]):
            state[:] = other

    def result(self, state: list[Any], start: int, end: int) -> Any:
        """The least."""
        return state[0] if state else None


class Maximum(Minimum):
    """The greatest; None of none."""

    def add(self, state: list[Any], value: Any, event: Event, time: int) -> None:
        """Compare."""
        if not state:
            state.append(value)
        elif value > state[0]:
            state[0] = value

    def merge(self, state: list[Any], other: list[Any]) -> None:
        """Compare."""
        if other and (not state or other[0] > state[0]):
            state[:] = other


class Variance(Aggregator[list[Any]]):
    """The variance of a sample, or of a whole `population`; None where there are too few for one."""

    def __init__(self, fewer: int) -> None:
        self._fewer = fewer
        """What the squares are divided by is so much fewer than the numbers."""

    def zero(self) -> list[Any]:
        """[numbers, mean, sum of the squared differences from it]."""
        return [0, 0.0, 0.0]

    def add(self, state: list[Any], value: Any, event: Event, time: int) -> None:
        """Welford's step."""
        state[0] = count = state[0] + 1
        away = value - state[1]
        state[1] = mean = state[1] + away / count
        state[2] += away * (value - mean)

    def merge(self, state: list[Any], other: list[Any]) -> None:
        """Chan's step."""
        here, there = state[0], other[0]
        if not there:
            return
        count = here + there
        away = other[1] - state[1]
        state[0] = count
        state[1] = state[1] + away * there / count if here else other[1]
        state[2] += other[2] + away * away * here * there / count

    def result(self, state: list[Any], start: int, end: int) -> Any:
        """The variance."""
        by = state[0] - self._fewer
        return finite(state[2] / by) if by > 0 else None


def _variance(spec: Aggregate) -> Variance:
    whole = spec.args.get("population", False)
    if type(whole) is not bool:
        raise ConfigError(f"'population' of variance is {whole!r}", hint="true or false.")
    return Variance(0 if whole else 1)


register("count", lambda spec: CountOf() if spec.field else Count())
register("sum", lambda spec: Sum())
register("mean", lambda spec: Mean())
register("min", lambda spec: Minimum())
register("max", lambda spec: Maximum())
register("variance", _variance)
register("rate", lambda spec: Rate() if spec.field else RateOfEvents())
