"""What can be computed over the events of a window: the registry of aggregates, and what each must be able to do.

An aggregate is made for one entry of a specification; it holds no events itself but works on states, which it makes,
changes and turns into plain values. States can be merged: sessions grow together, and sliding windows are put together
from slices.

    maker = {"mean": Mean, ...}          aggregate = make(Aggregate("mean", "temperature"))
    state = aggregate.zero()             aggregate.add(state, 21.5, event, time)
    aggregate.merge(state, other)        aggregate.result(state, start, end)

The sketches live in `edge_runtime.streams.sketches`, which is imported when the first of them is asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar, Generic, TypeVar

from edge_runtime.errors import ConfigError, nearest
from edge_runtime.events import Event
from edge_runtime.streamspec import Aggregate

State = TypeVar("State")


class Aggregator(ABC, Generic[State]):
    """One aggregate, made for its specification. `add` and `merge` change the state that they are given."""

    takes: ClassVar[str] = "numbers"
    """`numbers` (finite ones within 64 bits, booleans are none), `values` (whatever is there and not null) or `events`
    (each event, with or without the field). What does not fit is left out before `add`."""

    @abstractmethod
    def zero(self) -> State:
        """The state of no events."""

    @abstractmethod
    def add(self, state: State, value: Any, event: Event, time: int) -> None:
        """Take in an event's value; `time` is the window's kind of time, microseconds."""

    @abstractmethod
    def merge(self, state: State, other: State) -> None:
        """Take in what another state has taken in; the other one stays as it is and shares nothing with this one."""

    @abstractmethod
    def result(self, state: State, start: int, end: int) -> Any:
        """A plain value (what JSON can hold), for a pane from `start` to `end`; the state stays as it is."""

    def dump(self, state: State) -> Any:
        """The state in values that msgpack can hold (integers of 64 bits, bytes too)."""
        return state

    def load(self, plain: Any) -> State:
        """The state of a dump; it may keep the lists in it."""
        state: State = plain
        return state


_makers: dict[str, Callable[[Aggregate], Aggregator[Any]]] = {}

_ELSEWHERE = {
    "count": "basics",
    "sum": "basics",
    "mean": "basics",
    "min": "basics",
    "max": "basics",
    "variance": "basics",
    "rate": "basics",
    "first": "ordered",
    "last": "ordered",
    "delta": "ordered",
    "collect": "ordered",
    "custom": "ordered",
    "combine": "combined",
    "time_mean": "ordered",
    "distinct": "sketches",
    "quantile": "sketches",
    "top": "sketches",
}
"""Operation -> module beside this one that registers it when it is imported."""


def register(op: str, maker: Callable[[Aggregate], Aggregator[Any]]) -> None:
    """Say what makes the aggregates of an operation; the maker raises `ConfigError` for arguments that are wrong."""
    _makers[op] = maker


def make(spec: Aggregate) -> Aggregator[Any]:
    """The aggregate of a specification. Raises `ConfigError` for an unknown operation or wrong arguments."""
    if spec.op not in _makers:
        if spec.op not in _ELSEWHERE:
            raise ConfigError(f"There is no aggregate '{spec.op}'", hint=nearest(spec.op, _ELSEWHERE))
        import_module(f"edge_runtime.streams.{_ELSEWHERE[spec.op]}")
    return _makers[spec.op](spec)


def argument(spec: Aggregate, name: str, default: int, least: int, most: int) -> int:
    """An integer argument within bounds. Raises `ConfigError`."""
    value = spec.args.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"'{name}' of {spec.op} is {value!r}", hint=f"A whole number from {least} to {most}.")
    return value
