"""Steps before and after a computation: what is done with each event by itself.

An event keeps its identity through them; its kind and its data change. Deduplicate and Throttle remember, by event time
and key, and are bounded: what they forget first is the key that was quiet for longest.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from hashlib import blake2s
from typing import Any, Protocol

import msgspec

from edge_runtime import expr
from edge_runtime.errors import ConfigError
from edge_runtime.events import TICK, Event
from edge_runtime.streams.paths import key_of, reader
from edge_runtime.streams.remembered import Remembered
from edge_runtime.streamspec import Deduplicate, Enrich, Filter, Flatten, Map, Sample, Split, Step, Throttle

Tags = Callable[[str], Mapping[str, str]]
"""Answers a device's tags."""

MAX_ITEMS = 1000
"""Events that flattening makes of one at most; the rest is left out."""
_replace = msgspec.structs.replace
_pack = msgspec.msgpack.Encoder().encode

_Run = Callable[[Event], Iterable[Event]]


class Steps:
    """A list of steps. Raises `ConfigError` for one that cannot be."""

    def __init__(self, steps: Sequence[Step], tags: Tags) -> None:
        self._memories: list[_Memory] = []
        self._runs = [self._made(step, tags) for step in steps]
        self.remembers = bool(self._memories)
        """Whether what it answers depends on the events before."""

    @property
    def owed(self) -> int:
        """As `Machine.owed`."""
        return sum(memory.owed for memory in self._memories)

    def __bool__(self) -> bool:
        return bool(self._runs)

    def run(self, event: Event) -> Iterable[Event]:
        """What becomes of an event: none, itself, another one or several."""
        if not self._runs:
            return (event,)
        events: Iterable[Event] = (event,)
        for run in self._runs:
            events = [made for one in events for made in run(one)]
        return events

    def needs(self, events: Sequence[Event]) -> Collection[str]:
        """The names of state that is to be loaded before these events."""
        if not self._memories or all(event.kind.startswith(TICK) for event in events):
            return ()
        return [name for memory in self._memories for name in memory.missing()]

    def load(self, state: Mapping[str, bytes | None]) -> None:
        """Take up state that was dumped; None where there is none."""
        for memory in self._memories:
            memory.load(state)

    def dump(self) -> dict[str, bytes | None]:
        """What has changed since the last dump."""
        return {name: value for memory in self._memories for name, value in memory.dump().items()}

    def shrink(self, most: int) -> None:
        """Nothing: what is remembered is bounded."""

    def _made(self, step: Step, tags: Tags) -> _Run:
        match step:
            case Filter(where=where):
                matches = condition(where).matches
                return lambda event: (event,) if matches(event.data) else ()
            case Map():
                return _map(step)
            case Enrich():
                return _enrich(step, tags)
            case Flatten(field=field):
                return _flatten(field)
            case Sample(every=every):
                return lambda event: (event,) if zlib.crc32(event.id.encode()) % every == 0 else ()
            case Split():
                return _split(step)
            case Deduplicate():
                seen = _Seen(f"{len(self._memories)}", step)
                self._memories.append(seen)
                return seen.run
            case Throttle():
                passed = _Passed(f"{len(self._memories)}", step)
                self._memories.append(passed)
                return passed.run


def condition(text: str, wanted: str = "condition") -> expr.Expression:
    """An expression. Raises ConfigError, with the column."""
    try:
        return expr.compile(text, wanted)
    except expr.ExpressionError as error:
        raise ConfigError(f"'{text}' is not an expression: {error}") from error


def _map(step: Map) -> _Run:
    values = {name: condition(text, "any").value for name, text in step.fields.items()}

    def run(event: Event) -> Iterable[Event]:
        data = {name: value(event.data) for name, value in values.items()}
        if step.keep and type(event.data) is dict:
            data = {**event.data, **data}
        return (_replace(event, data=data),)

    return run


def _enrich(step: Enrich, tags: Tags) -> _Run:
    read = reader(step.on) if step.on else None

    def run(event: Event) -> Iterable[Event]:
        if read is None:
            known = tags(event.device)
            found: Any = {name: known[name] for name in step.tags if name in known}
        else:
            value = read(event.data)
            found = step.table.get(value if type(value) is str else str(value))
        data = event.data if type(event.data) is dict else {"value": event.data}
        return (_replace(event, data={**data, step.into: found}),)

    return run


def _flatten(field: str) -> _Run:
    read = reader(field)
    whole = field in event_fields(field)

    def run(event: Event) -> Iterable[Event]:
        items = read(event.data)
        if type(items) is not list:
            return (event,)
        if not whole or type(event.data) is not dict:
            return [_replace(event, data=item) for item in items[:MAX_ITEMS]]
        return [_replace(event, data={**event.data, field: item}) for item in items[:MAX_ITEMS]]

    return run


def event_fields(field: str) -> tuple[str, ...]:
    """The field itself, where it is one of the topmost level: then an item takes its place."""
    return (field,) if field and "." not in field and "[" not in field else ()


def _split(step: Split) -> _Run:
    kinds = [(kind, condition(text).matches) for kind, text in step.kinds.items()]

    def run(event: Event) -> Iterable[Event]:
        for kind, matches in kinds:
            if matches(event.data):
                return (_replace(event, kind=kind),)
        return (_replace(event, kind=step.otherwise),) if step.otherwise else ()

    return run


class _Memory(Protocol):
    @property
    def owed(self) -> int: ...

    def missing(self) -> Collection[str]: ...

    def load(self, state: Mapping[str, bytes | None]) -> None: ...

    def dump(self) -> dict[str, bytes | None]: ...


class _Seen(Remembered):
    """Deduplicate: when a value was last let through."""

    def __init__(self, name: str, step: Deduplicate) -> None:
        super().__init__(name)
        self._key = key_of(step.by)
        self._fields = [reader(field) for field in step.fields]
        self._within = step.within

    def run(self, event: Event) -> Iterable[Event]:
        key = self._key(event)
        value = _pack([key, *(read(event.data) for read in self._fields)])
        mark = blake2s(value, digest_size=10).hexdigest()
        times = self.values.get(mark)
        if times is not None and abs(event.time - times[0]) < self._within:
            return ()
        self.put(mark, [max(event.time, times[0]) if times is not None else event.time])
        return (event,)


class _Passed(Remembered):
    """Throttle: the event times of what was let through last."""

    def __init__(self, name: str, step: Throttle) -> None:
        super().__init__(name)
        self._key = key_of(step.by)
        self._most = step.most
        self._within = step.within

    def run(self, event: Event) -> Iterable[Event]:
        key = self._key(event) or ""
        times = deque(self.values.get(key, ()))
        while times and times[0] <= event.time - self._within:
            times.popleft()
        if len(times) >= self._most:
            return ()
        times.append(event.time)
        self.put(key, sorted(times))
        return (event,)
