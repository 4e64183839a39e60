"""Events of two kinds with the same key, close to each other in event time, or the latest that is known.

A key's watermark is the newest event time of its events, less the lateness. An event before it is late. What is held
is what an event that is not late may still be within reach of, so the order of arrival makes no difference.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Mapping, Sequence

import msgspec

from edge_runtime.events import TICK, Event
from edge_runtime.streams.machine import MANY, MOST, Late, Note, Pane, Result, weight
from edge_runtime.streams.roles import MAX_HELD, Cells, Held, Roles, held, place, size
from edge_runtime.streamspec import Join, Latest, Source

NEVER = -(2**62)


class Sides(msgspec.Struct, array_like=True):
    """What is held of a key, in order of time."""

    left: list[Held] = []
    right: list[Held] = []
    newest: int = NEVER
    full: bool = False
    """Something had to be left out, and that was said."""
    bytes: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    """Of the events that are held, left and right."""


class Joining:
    """The machine of a `Join`."""

    def __init__(self, spec: Join, sources: Sequence[Source]) -> None:
        self._spec = spec
        self._roles = Roles(sources)
        self._cells = Cells(spec.by, Sides)

    @property
    def owed(self) -> int:
        """As `Machine.owed`."""
        return self._cells.owed

    def needs(self, events: Sequence[Event], times: Sequence[int]) -> Collection[str]:
        """As `Machine.needs`."""
        return self._cells.needs(events)

    def load(self, state: Mapping[str, bytes | None]) -> None:
        """As `Machine.load`."""
        self._cells.load(state)

    def take(self, events: Sequence[Event], times: Sequence[int]) -> tuple[int, list[Result]]:
        """As `Machine.take`."""
        results: list[Result] = []
        made, limit = 0, self._cells.owed + MANY
        for index, (event, now) in enumerate(zip(events, times, strict=True)):
            if event.kind.startswith(TICK):
                continue
            before = len(results)
            key = self._cells.key_of(event)
            if key is not None:
                self._event(index, event, key, self._cells.at(key, now, event), results)
            elif self._roles.of(event):
                results.append(Late(index, 0))
            made += weight(results[before:])
            if len(results) >= MOST or made >= MANY or self._cells.owed >= limit:
                return index + 1, results
        return len(events), results

    def _event(self, index: int, event: Event, key: str, cell: Sides, results: list[Result]) -> None:
        spec = self._spec
        late = cell.newest - spec.lateness - event.time
        if late > 0:
            results.append(Late(index, late))
            return
        item = held(event)
        for role in self._roles.of(event):
            own, others = (cell.left, cell.right) if role == 0 else (cell.right, cell.left)
            for other in others:
                if abs(other[0] - event.time) <= spec.within and other[1] != item[1]:
                    left, right = (item, other) if role == 0 else (other, item)
                    values = {"left": left[2], "right": right[2]}
                    results.append(Pane(index, key, min(left[0], right[0]), max(left[0], right[0]), values))
            insort(own, item, key=place)
            cell.bytes[role] += size(item)
        cell.newest = max(cell.newest, event.time)
        for role in (0, 1):
            self._shorten(index, event, key, cell, role, results)

    def _shorten(self, index: int, event: Event, key: str, cell: Sides, role: int, results: list[Result]) -> None:
        side = cell.right if role else cell.left
        reach = cell.newest - self._spec.lateness - self._spec.within
        gone = next((n for n, item in enumerate(side) if item[0] >= reach), len(side))
        cell.bytes[role] -= sum(map(size, side[:gone]))
        over = gone
        while len(side) - over > self._spec.most or (cell.bytes[role] > MAX_HELD and over < len(side)):
            cell.bytes[role] -= size(side[over])
            over += 1
        if over > gone and not cell.full:
            cell.full = True
            text = (
                f"more than {self._spec.most} events of '{key}', or {MAX_HELD >> 20} MiB, are within reach: "
                "the oldest are left out"
            )
            results.append(Note(index, event.device, "overflow", text))
        del side[:over]

    def dump(self) -> dict[str, bytes | None]:
        """As `Machine.dump`."""
        return self._cells.dump()

    def wakes(self) -> int | None:
        """As `Machine.wakes`: time alone changes nothing."""
        return None

    def shrink(self, most: int) -> None:
        """As `Machine.shrink`."""
        self._cells.shrink(most)


class Newest(msgspec.Struct, array_like=True):
    """The latest event of the second kind."""

    item: Held | None = None


class WithLatest:
    """The machine of a `Latest`: what is known when an event comes is what it gets."""

    def __init__(self, spec: Latest, sources: Sequence[Source]) -> None:
        self._keep = spec.keep
        self._roles = Roles(sources)
        self._cells = Cells(spec.by, Newest)

    @property
    def owed(self) -> int:
        """As `Machine.owed`."""
        return self._cells.owed

    def needs(self, events: Sequence[Event], times: Sequence[int]) -> Collection[str]:
        """As `Machine.needs`."""
        return self._cells.needs(events)

    def load(self, state: Mapping[str, bytes | None]) -> None:
        """As `Machine.load`."""
        self._cells.load(state)

    def take(self, events: Sequence[Event], times: Sequence[int]) -> tuple[int, list[Result]]:
        """As `Machine.take`."""
        results: list[Result] = []
        made, limit = 0, self._cells.owed + MANY
        for index, (event, now) in enumerate(zip(events, times, strict=True)):
            if event.kind.startswith(TICK):
                continue
            before = len(results)
            key = self._cells.key_of(event)
            if key is None:
                results.append(Late(index, 0))
                continue
            cell = self._cells.at(key, now, event)
            for role in self._roles.of(event):
                if role == 1:
                    item = held(event)
                    if cell.item is None or place(cell.item) < place(item):
                        cell.item = item
                elif cell.item is not None and not 0 < self._keep < event.time - cell.item[0]:
                    values = {"left": event.data, "right": cell.item[2]}
                    start, end = sorted((event.time, cell.item[0]))
                    results.append(Pane(index, key, start, end, values))
            made += weight(results[before:])
            if len(results) >= MOST or made >= MANY or self._cells.owed >= limit:
                return index + 1, results
        return len(events), results

    def dump(self) -> dict[str, bytes | None]:
        """As `Machine.dump`."""
        return self._cells.dump()

    def wakes(self) -> int | None:
        """As `Machine.wakes`: time alone changes nothing."""
        return None

    def shrink(self, most: int) -> None:
        """As `Machine.shrink`."""
        self._cells.shrink(most)
