"""Which part an event has in a computation over several sources, and what is held of each partition key."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from edge_runtime import expr
from edge_runtime.events import TICK, Event
from edge_runtime.size import rough
from edge_runtime.streams.machine import CELL, FRESH, GROWN
from edge_runtime.streams.ordered import identity
from edge_runtime.streams.paths import key_of
from edge_runtime.streams.remembered import Remembered
from edge_runtime.streamspec import Source

Held = tuple[int, Any, Any]
"""An event that is held: its time, its identity, its data. In order of these it is in order of time."""
Cell = TypeVar("Cell", bound=msgspec.Struct)

MAX_HELD = 1 << 20
"""Bytes of events that are held of a key, of a role each: as those that are too many, the oldest go."""

_KEY = "="
_pack = msgspec.msgpack.Encoder().encode
_HOUR = 3600 * 1_000_000


def held(event: Event) -> Held:
    """What is held of an event."""
    return event.time, list(map(_plain, identity(event))), event.data


def size(item: Held) -> int:
    """About how many bytes of state it is."""
    return 60 + len(_pack(item[2]))


def place(item: Held) -> tuple[int, Any]:
    """By what held events are in order."""
    return item[0], item[1]


def _plain(part: Any) -> Any:
    return part.hex() if isinstance(part, bytes) else part


class Roles:
    """The sources of a stream."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = [(source.kind, expr.compile(source.where).matches) for source in sources]

    def of(self, event: Event) -> list[int]:
        """Which sources an event is from."""
        return [n for n, (kind, matches) in enumerate(self._sources) if event.kind == kind and matches(event.data)]


class Cells(Generic[Cell]):
    """What is held of each partition key, by name of state; read when it is needed.

    Of `MAX_KEYS` keys (see `remembered`); beyond them the one that was quiet for longest, to the hour of processing
    time, is forgotten.
    """

    def __init__(self, by: str, kind: type[Cell]) -> None:
        self.key_of = key_of(by)
        self._kind = kind
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._cells: dict[str, Cell] = {}
        self._changed: dict[str, None] = {}
        self._used = Remembered("used")
        """Of each key: the hour in which it was used last, and a number in order of that."""
        self._number = 0
        self._sizes: dict[str, int] = {}
        """Bytes that cells take where they are stored."""
        self._owed = 0

    @property
    def owed(self) -> int:
        """As `Machine.owed`."""
        return self._owed + self._used.owed

    def needs(self, events: Sequence[Event], more: Collection[str] = ()) -> list[str]:
        """The names of state for these events, and of these keys, that is not in memory."""
        missing = self._used.missing()
        if missing:
            return list(missing)
        keys = {key for event in events if not event.kind.startswith(TICK) and (key := self.key_of(event)) is not None}
        return sorted(_KEY + key for key in keys.union(more) if key not in self._cells)

    def load(self, state: Mapping[str, bytes | None]) -> None:
        """Take up what was dumped."""
        if self._used.missing():
            self._used.load(state)
            self._number = max((number for _, number in self._used.values.values()), default=0)
        for name, packed in state.items():
            if name.startswith(_KEY):
                key = name.removeprefix(_KEY)
                self._cells[key] = self._decode(packed) if packed else self._kind()
                self._sizes[key] = len(packed or b"")

    def at(self, key: str, now: int, event: Event | None = None) -> Cell:
        """What is held of a key, used at this processing time; it may be changed, and the event be held."""
        if key not in self._changed:
            self._changed[key] = None
            self._owed += self._sizes.get(key, FRESH)
        if event is not None:
            self._owed += rough(event)
        used, hour = self._used.values.get(key), now // _HOUR
        if used is None or used[0] != hour:
            self._number += 1
            for forgotten in self._used.put(key, [hour, self._number]):
                self._changed[forgotten] = None
                self._cells[forgotten] = self._kind()
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = self._kind()
        return cell

    def dump(self) -> dict[str, bytes | None]:
        """What has changed since the last dump."""
        nothing = self._kind()
        found: dict[str, bytes | None] = {}
        for key in self._changed:
            cell = self._cells[key]
            packed = found[_KEY + key] = None if cell == nothing else self._encode(cell)
            self._sizes[key] = len(packed or b"")
        self._changed = {}
        self._owed = 0
        return {**found, **self._used.dump()}

    def shrink(self, most: int) -> None:
        """As `Machine.shrink`."""
        held = len(self._cells) * CELL + sum(self._sizes.values()) * GROWN
        if held <= most:
            return
        for key in [key for key in self._cells if key not in self._changed]:
            del self._cells[key]
            held -= CELL + GROWN * self._sizes.pop(key, 0)
            if held <= most * 7 // 8:
                break
