"""Which keys have something due when: an index that stays small however many keys there are.

Deadlines are kept in buckets of time. What is due soon is in memory; a bucket of later on can be let go of, for it is
stored in segments of some hundreds of entries, each under a name of its own: an entry changes one segment, the last one
of its bucket. An entry says that the key has to be looked at then, at the latest; what is no longer so is found out by
looking at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Any

from edge_runtime.streams.watermarks import BEGINNING, NEVER

SEGMENT = 256
"""Entries stored under a name."""


class _Bucket:
    __slots__ = ("changed", "known", "missing", "segments", "tail")

    def __init__(self) -> None:
        self.segments = 1
        """How many there are, the last one included, which is still being filled."""
        self.tail: list[tuple[int, str]] = []
        """The last segment."""
        self.known = True
        """Whether the tail is in memory: not at first of what was taken up."""
        self.missing: set[int] = set()
        """Segments that are stored and whose entries are not in memory."""
        self.changed = False


class Due:
    """Deadlines by key. `width` of a bucket in the deadlines' unit."""

    def __init__(self, prefix: str, width: int) -> None:
        self._prefix = prefix
        self._width = width
        self._keys: dict[int, list[str]] = {}
        self.times: list[int] = []
        """A heap of the deadlines in memory."""
        self._buckets: dict[int, _Bucket] = {}
        self._passed = BEGINNING
        self._entries = 0
        """Entries in memory."""
        self._kept = 0
        """Entries in memory after the last time that some were let go of."""
        self._full: dict[str, list[tuple[int, str]]] = {}
        """Segments that are full and not yet dumped."""

    @property
    def first(self) -> int:
        """The earliest deadline in memory, or `NEVER`."""
        return self.times[0] if self.times else NEVER

    @property
    def earliest(self) -> int:
        """No deadline is earlier than this, in memory or not; `NEVER` if there is none."""
        away = (number * self._width for number, bucket in self._buckets.items() if bucket.missing)
        return min(self.first, min(away, default=NEVER))

    def add(self, deadline: int, key: str) -> None:
        """The key has to be looked at then."""
        number = deadline // self._width
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = _Bucket()
        bucket.tail.append((deadline, key))
        bucket.changed = True
        if len(bucket.tail) == SEGMENT:
            self._full[self._name(number, bucket.segments - 1)] = bucket.tail
            bucket.tail = []
            bucket.segments += 1
        self._near(deadline, key)

    def _near(self, deadline: int, key: str) -> None:
        self._entries += 1
        keys = self._keys.get(deadline)
        if keys is None:
            self._keys[deadline] = [key]
            heappush(self.times, deadline)
        else:
            keys.append(key)

    def _name(self, number: int, segment: int) -> str:
        return f"{self._prefix}{number}.{segment}"

    def pop(self) -> tuple[int, list[str]]:
        """The earliest deadline in memory and its keys, in order: the same ones whatever was stored in between."""
        deadline = heappop(self.times)
        self._passed = deadline
        keys = self._keys.pop(deadline)
        self._entries -= len(keys)
        return deadline, sorted(set(keys))

    def settle(self, deadline: int) -> None:
        """All deadlines up to there have been dealt with."""
        self._passed = max(self._passed, deadline)

    @property
    def whole(self) -> bool:
        """Whether all is in memory."""
        return not any(bucket.missing for bucket in self._buckets.values())

    def shrink(self, beyond: int, most: int) -> None:
        """Let go of what is stored and due only in buckets that begin after `beyond`, if there are more than `most`."""
        if self._entries <= max(most, 2 * self._kept):
            return
        away = set()
        for number, bucket in self._buckets.items():
            if number * self._width > beyond and not bucket.changed:
                bucket.missing = set(range(bucket.segments))
                away.add(number)
        self._keys = {time: keys for time, keys in self._keys.items() if time // self._width not in away}
        self.times[:] = sorted(self._keys)
        self._kept = self._entries = sum(map(len, self._keys.values()))

    def until(self, bound: int) -> Iterator[str]:
        """The keys in memory with deadlines up to there."""
        for deadline, keys in self._keys.items():
            if deadline <= bound:
                yield from keys

    def needs(self, bound: int) -> list[str]:
        """The names of what is not in memory and may hold deadlines up to there."""
        return [
            self._name(number, segment)
            for number, bucket in self._buckets.items()
            if bucket.missing and number * self._width <= bound
            for segment in sorted(bucket.missing)
        ]

    def load(self, name: str, entries: list[Any]) -> None:
        """Take up a segment."""
        number, segment = (int(part) for part in name.removeprefix(self._prefix).split("."))
        bucket = self._buckets[number]
        if segment not in bucket.missing:
            return
        bucket.missing.discard(segment)
        if segment == bucket.segments - 1 and not bucket.known:
            bucket.known = True
            bucket.tail = [(deadline, key) for deadline, key in entries]
        for deadline, key in entries:
            if deadline > self._passed:
                self._near(deadline, key)

    def head(self) -> list[Any]:
        """What is known without the segments."""
        return [self._passed, [[number, bucket.segments] for number, bucket in self._buckets.items()]]

    def take_up(self, head: list[Any]) -> list[str]:
        """Begin with what was dumped. The names of the segments that are needed at once: those not yet full."""
        self._passed = head[0]
        for number, segments in head[1]:
            bucket = self._buckets[number] = _Bucket()
            bucket.segments = segments
            bucket.known = False
            bucket.missing = set(range(segments))
        return [self._name(number, segments - 1) for number, segments in head[1]]

    def dump(self) -> Iterable[tuple[str, list[Any] | None]]:
        """The segments that have changed since the last dump; None for those that are gone."""
        for number in [number for number in self._buckets if (number + 1) * self._width <= self._passed]:
            bucket = self._buckets.pop(number)
            for segment in range(bucket.segments):
                name = self._name(number, segment)
                self._full.pop(name, None)
                yield name, None
        yield from self._full.items()
        self._full.clear()
        for number, bucket in self._buckets.items():
            if bucket.changed:
                bucket.changed = False
                yield self._name(number, bucket.segments - 1), bucket.tail
