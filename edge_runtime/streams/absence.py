"""Keys that were heard of and then are not, by processing time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from heapq import heapify, heappop, heappush

from edge_runtime.events import TICK, Event
from edge_runtime.streams.machine import MOST, Pane, Result
from edge_runtime.streams.paths import key_of
from edge_runtime.streams.remembered import Remembered
from edge_runtime.streamspec import Absent

SEEN, TIME, GONE = 0, 1, 2
"""Of a key: when it was last heard of (processing time), its newest event's time, and whether its absence was told."""


class Absence:
    """The machine of an `Absent`. Its keys are in memory: they are the devices, or as few."""

    def __init__(self, spec: Absent) -> None:
        self._length = spec.length
        self._back = spec.back
        self._key_of = key_of(spec.by)
        self._keys = Remembered("key", SEEN)
        self._queue: list[tuple[int, str]] = []
        """Deadlines, each of a key; some are too early, and are put right when they come."""
        self._now = 0

    @property
    def owed(self) -> int:
        """As `Machine.owed`."""
        return self._keys.owed

    def needs(self, events: Sequence[Event], times: Sequence[int]) -> Collection[str]:
        """As `Machine.needs`."""
        return self._keys.missing()

    def load(self, state: Mapping[str, bytes | None]) -> None:
        """As `Machine.load`."""
        self._keys.load(state)
        self._queue = [(known[SEEN] + self._length, key) for key, known in self._keys.values.items() if not known[GONE]]
        heapify(self._queue)

    def take(self, events: Sequence[Event], times: Sequence[int]) -> tuple[int, list[Result]]:
        """As `Machine.take`."""
        results: list[Result] = []
        for index, (event, now) in enumerate(zip(events, times, strict=True)):
            self._now = now
            self._pass(index, results)
            if not event.kind.startswith(TICK):
                self._heard(index, event, results)
            if len(results) >= MOST:
                return index + 1, results
        return len(events), results

    def _pass(self, index: int, results: list[Result]) -> None:
        told = 0
        while self._right() and self._queue[0][0] <= self._now and told < MOST:
            _, key = heappop(self._queue)
            seen, time, _ = self._keys.values[key]
            self._keys.put(key, [seen, time, 1])
            results.append(Pane(index, key, time, time, {"absent": True}))
            told += 1

    def _right(self) -> bool:
        """Put the deadline at the head right; false if there is none."""
        queue, keys = self._queue, self._keys.values
        while queue:
            due, key = queue[0]
            known = keys.get(key)
            if known is not None and not known[GONE] and known[SEEN] + self._length == due:
                return True
            heappop(queue)
            if known is not None and not known[GONE]:
                heappush(queue, (known[SEEN] + self._length, key))
        return False

    def _heard(self, index: int, event: Event, results: list[Result]) -> None:
        key = self._key_of(event)
        if key is None:
            return
        known = self._keys.values.get(key)
        if known is not None and known[GONE] and self._back:
            results.append(Pane(index, key, known[TIME], event.time, {"absent": False}))
        if known is None or known[GONE]:
            heappush(self._queue, (self._now + self._length, key))
        self._keys.put(key, [self._now, max(event.time, known[TIME]) if known else event.time, 0])

    def dump(self) -> dict[str, bytes | None]:
        """As `Machine.dump`."""
        return self._keys.dump()

    def wakes(self) -> int | None:
        """As `Machine.wakes`."""
        return max(self._now, self._queue[0][0]) if self._right() else None

    def shrink(self, most: int) -> None:
        """As `Machine.shrink`: all is in memory."""
