"""One event and then another of the same key, within a time, and without a third between them.

Events are put in order of event time before they are looked at: each waits until its key's watermark (the newest event
time less the lateness) has come to it, or until nothing has come for the lateness. So the order in which they arrive
makes no difference, and without lateness nothing waits. A sequence that is complete is told once: what began it does
not begin another.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Mapping, Sequence
from heapq import heapify, heappop, heappush

import msgspec

from edge_runtime.events import TICK, Event
from edge_runtime.streams.machine import MANY, MOST, Late, Note, Pane, Result, weight
from edge_runtime.streams.remembered import Remembered
from edge_runtime.streams.roles import MAX_HELD, Cells, Held, Roles, held, size
from edge_runtime.streamspec import Sequence as Spec
from edge_runtime.streamspec import Source

FIRST, THEN, WITHOUT = 0, 1, 2
MAX_WAITING = 1000
"""Events of a key that wait for their turn; beyond them the oldest is looked at before its time."""
NEVER = -(2**62)

Waiting = tuple[Held, list[int]]
"""An event, and which parts it can have."""


class Progress(msgspec.Struct, array_like=True):
    """What is held of a key."""

    waiting: list[Waiting] = []
    begun: Held | None = None
    newest: int = NEVER
    passed: int = NEVER
    """Everything before this time has been looked at."""
    full: bool = False
    bytes: int = 0
    """Of the events that wait."""


class Sequences:
    """The machine of a `Sequence`."""

    def __init__(self, spec: Spec, sources: Sequence[Source]) -> None:
        self._spec = spec
        self._roles = Roles(sources)
        self._cells = Cells(spec.by, Progress)
        self._due = Remembered("due")
        """Of keys in which something waits: when it has waited long enough (processing time)."""
        self._queue: list[tuple[int, str]] = []
        self._now = 0

    @property
    def owed(self) -> int:
        """As `Machine.owed`."""
        return self._cells.owed + self._due.owed

    def needs(self, events: Sequence[Event], times: Sequence[int]) -> Collection[str]:
        """As `Machine.needs`."""
        missing = self._due.missing()
        if missing:
            return missing
        last = times[-1] if times else 0
        return self._cells.needs(events, [key for due, key in self._queue if due <= last])

    def load(self, state: Mapping[str, bytes | None]) -> None:
        """As `Machine.load`."""
        self._due.load(state)
        self._cells.load(state)
        self._queue = [(due, key) for key, [due] in self._due.values.items()]
        heapify(self._queue)

    def take(self, events: Sequence[Event], times: Sequence[int]) -> tuple[int, list[Result]]:
        """As `Machine.take`."""
        results: list[Result] = []
        made, limit = 0, self.owed + MANY
        for index, (event, now) in enumerate(zip(events, times, strict=True)):
            self._now = now
            before = len(results)
            self._pass(index, event, results)
            key = self._cells.key_of(event)
            if event.kind.startswith(TICK):
                pass
            elif key is not None:
                self._event(index, event, key, results)
            elif self._roles.of(event):
                results.append(Late(index, 0))
            made += weight(results[before:])
            if len(results) >= MOST or made >= MANY or self.owed >= limit:
                return index + 1, results
        return len(events), results

    def _pass(self, index: int, event: Event, results: list[Result]) -> None:
        """Look at what has waited long enough."""
        before = len(results)
        while self._right() and self._queue[0][0] <= self._now and len(results) - before < MOST:
            _, key = heappop(self._queue)
            self._due.drop(key)
            cell = self._cells.at(key, self._now)
            self._look(index, key, cell, cell.newest, results)

    def _right(self) -> bool:
        """Put the deadline at the head right; false if there is none."""
        while self._queue:
            due, key = self._queue[0]
            known = self._due.values.get(key)
            if known is not None and known[0] == due:
                return True
            heappop(self._queue)
        return False

    def _event(self, index: int, event: Event, key: str, results: list[Result]) -> None:
        cell = self._cells.at(key, self._now, event)
        cell.newest = max(cell.newest, event.time)
        upto = cell.newest - self._spec.lateness
        if event.time < max(upto, cell.passed):
            results.append(Late(index, max(upto, cell.passed) - event.time))
            return
        roles = self._roles.of(event)
        if roles:
            insort(cell.waiting, (held(event), roles), key=lambda one: (one[0][0], one[0][1]))
            cell.bytes += size(held(event))
        rest, number = cell.bytes, len(cell.waiting)
        if rest > MAX_HELD or number > MAX_WAITING:
            for item, _ in cell.waiting:
                if rest <= MAX_HELD and number <= MAX_WAITING:
                    break
                upto = max(upto, item[0])
                rest, number = rest - size(item), number - 1
            if not cell.full:
                cell.full = True
                text = (
                    f"more than {MAX_WAITING} events of '{key}', or {MAX_HELD >> 20} MiB, wait for their order: "
                    "the oldest go before their time"
                )
                results.append(Note(index, event.device, "overflow", text))
        self._look(index, key, cell, upto, results)
        if not cell.waiting:
            self._due.drop(key)
        elif self._spec.lateness:
            due = self._now + self._spec.lateness
            self._due.put(key, [due])
            heappush(self._queue, (due, key))

    def _look(self, index: int, key: str, cell: Progress, upto: int, results: list[Result]) -> None:
        """Take the events of a key in order of time, as far as `upto`."""
        cell.passed = max(cell.passed, upto)
        while cell.waiting and cell.waiting[0][0][0] <= upto:
            item, roles = cell.waiting.pop(0)
            cell.bytes -= size(item)
            begun = cell.begun
            if begun is not None and item[0] - begun[0] > self._spec.within:
                begun = cell.begun = None
            if THEN in roles and begun is not None:
                results.append(Pane(index, key, begun[0], item[0], {"first": begun[2], "then": item[2]}))
                cell.begun = None
            if WITHOUT in roles:
                cell.begun = None
            if FIRST in roles:
                cell.begun = item

    def dump(self) -> dict[str, bytes | None]:
        """As `Machine.dump`."""
        return {**self._cells.dump(), **self._due.dump()}

    def wakes(self) -> int | None:
        """As `Machine.wakes`."""
        return max(self._now, self._queue[0][0]) if self._right() else None

    def shrink(self, most: int) -> None:
        """As `Machine.shrink`."""
        self._cells.shrink(most)
