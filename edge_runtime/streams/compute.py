"""All aggregates of a window together: a state is the list of their states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.events import Event
from edge_runtime.streams.aggregates import Aggregator, make
from edge_runtime.streams.combined import Combined
from edge_runtime.streams.paths import reader
from edge_runtime.streamspec import Aggregate

WORD = 2**63
SMALL = {"count", "sum", "mean", "min", "max", "variance", "rate", "delta", "time_mean", "distinct", "quantile"}
"""Aggregates that hold no values of the events but numbers."""

States = list[Any]
Add = Callable[[Any, Any, Event, int], None]
Feed = Callable[[States, Event, int], None]


class Compute:
    """Made for a specification. Raises `ConfigError` for what none can be made for."""

    def __init__(self, compute: Mapping[str, Aggregate]) -> None:
        if not compute:
            raise ConfigError("A window computes nothing", hint="Such as count, or mean of a field.")
        self.names = list(compute)
        self.holds = any(spec.op not in SMALL for spec in compute.values())
        """Whether states and panes may be as large as events are."""
        self._parts: list[Aggregator[Any]] = [make(spec) for spec in compute.values()]
        self.combined = [
            (name, part) for name, part in zip(compute, self._parts, strict=True) if isinstance(part, Combined)
        ]
        """Aggregates that have others do their work, by name."""
        self._zeros = [part.zero for part in self._parts]
        groups: dict[tuple[str, str], list[tuple[int, Add]]] = {}
        for index, (spec, part) in enumerate(zip(compute.values(), self._parts, strict=True)):
            groups.setdefault((part.takes, spec.field), []).append((index, part.add))
        self.feed: Feed = _all([_feed(takes, field, adds) for (takes, field), adds in groups.items()])
        """Take in an event: states, event, its time."""

    def zero(self) -> States:
        """The states of no events."""
        return [zero() for zero in self._zeros]

    def merge(self, states: States, others: States) -> None:
        """Take in others, which stay as they are."""
        for part, state, other in zip(self._parts, states, others, strict=True):
            part.merge(state, other)

    def values(self, states: States, start: int, end: int) -> dict[str, Any]:
        """What a pane says."""
        return {
            name: part.result(state, start, end)
            for name, part, state in zip(self.names, self._parts, states, strict=True)
        }

    def dump(self, states: States) -> list[Any]:
        """Plain values."""
        return [part.dump(state) for part, state in zip(self._parts, states, strict=True)]

    def load(self, plain: list[Any]) -> States:
        """States of plain values."""
        return [part.load(state) for part, state in zip(self._parts, plain, strict=True)]


def _all(feeds: list[Feed]) -> Feed:
    if len(feeds) == 1:
        return feeds[0]
    if len(feeds) == 2:
        one, two = feeds

        def both(states: States, event: Event, time: int) -> None:
            one(states, event, time)
            two(states, event, time)

        return both

    def each(states: States, event: Event, time: int) -> None:
        for feed in feeds:
            feed(states, event, time)

    return each


def _feed(takes: str, field: str, adds: list[tuple[int, Add]]) -> Feed:
    """What hands a field to the aggregates over it: one look at it for all of them."""
    read = reader(field)
    top = field if field.isidentifier() else None

    def events(states: States, event: Event, time: int) -> None:
        value = read(event.data) if field else event.data
        for index, add in adds:
            add(states[index], value, event, time)

    def values(states: States, event: Event, time: int) -> None:
        value = read(event.data)
        if value is not None:
            for index, add in adds:
                add(states[index], value, event, time)

    def numbers(states: States, event: Event, time: int) -> None:
        value = read(event.data)
        kind = type(value)
        # Less itself is not 0 for what is infinite or no number.
        if (kind is float and value - value == 0.0) or (kind is int and -WORD <= value < WORD):
            for index, add in adds:
                add(states[index], value, event, time)

    if takes == "numbers" and top is not None and len(adds) <= 2:
        return _number(top, *adds[0], *adds[-1], len(adds) == 2)

    return {"events": events, "values": values, "numbers": numbers}[takes]


def _number(field: str, index: int, add: Add, second: int, add_second: Add, both: bool) -> Feed:
    """As `numbers`, for one or two aggregates over a field at the top: the commonest by far, with the fewest calls."""

    def number(states: States, event: Event, time: int) -> None:
        data = event.data
        value: Any = data.get(field) if type(data) is dict else None
        kind = type(value)
        if (kind is float and value - value == 0.0) or (kind is int and -WORD <= value < WORD):
            add(states[index], value, event, time)
            if both:
                add_second(states[second], value, event, time)

    return number
