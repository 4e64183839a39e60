"""Which keys have something due when: an index that stays small however many keys there are.

Deadlines are kept in buckets of time. What is due soon is in memory; a bucket of later on can be let go of, for it is
stored in segments of some hundreds of entries, each under a name of its own: an entry changes one segment, the last one
of its bucket. An entry says that the key has to be looked at then, at the latest; what is no longer so is found out by
looking at it.

Entries are dealt with in the order of deadline and key, whatever was stored in between, and one at a time: thousands of
keys may be due at the same moment. None is added with a deadline that is being dealt with or has been.
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
        """All deadlines up to there have been dealt with."""
        self._partly: tuple[int, str] = (BEGINNING, "")
        """The deadline that is being dealt with, and the key to which it has been."""
        self._sorted = BEGINNING
        """The deadline whose keys are in order, the first one last."""
        self._away = NEVER
        """What is not in memory is not earlier than this."""
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
        first = self.times[0] if self.times else NEVER
        return first if first < self._away else self._away

    @property
    def dealt(self) -> int:
        """The latest deadline that nothing can be added to any more: what is before the first one, or is it."""
        first = self.first
        return first if self._partly[0] == first else first - 1

    @property
    def whole(self) -> bool:
        """Whether all is in memory."""
        return self._away == NEVER

    def _measure(self) -> None:
        away = (number * self._width for number, bucket in self._buckets.items() if bucket.missing)
        self._away = min(away, default=NEVER)

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
            if deadline == self._sorted:
                self._sorted = BEGINNING

    def _name(self, number: int, segment: int) -> str:
        return f"{self._prefix}{number}.{segment}"

    def pop(self) -> tuple[int, str]:
        """The earliest deadline in memory and the first of its keys."""
        deadline = self.times[0]
        keys = self._keys[deadline]
        if self._sorted != deadline:
            keys.sort(reverse=True)
            self._sorted = deadline
        key = keys.pop()
        self._entries -= 1
        while keys and keys[-1] == key:
            keys.pop()
            self._entries -= 1
        self._partly = deadline, key
        if not keys:
            heappop(self.times)
            del self._keys[deadline]
        return deadline, key

    def settle(self, time: int) -> None:
        """What was due up to there has been dealt with, except for what is still there."""
        self._passed = max(self._passed, min(time, self.first - 1))

    def soon(self, bound: int, most: int) -> Iterator[str]:
        """The keys in memory with deadlines up to there, in order; about `most` of them."""
        times = self.times
        heap = [(times[0], 0)] if times else []
        while heap and most > 0 and heap[0][0] <= bound:
            deadline, at = heappop(heap)
            keys = self._keys[deadline]
            keys.sort(reverse=True)
            part = keys[-most:]
            most -= len(part)
            yield from part
            for child in (2 * at + 1, 2 * at + 2):
                if child < len(times):
                    heappush(heap, (times[child], child))

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
        if segment == bucket.segments - 1:
            if not bucket.known:
                bucket.known = True
                bucket.tail = [(deadline, key) for deadline, key in entries]
            entries = bucket.tail
        self._measure()
        for deadline, key in entries:
            if deadline > self._passed and (deadline != self._partly[0] or key > self._partly[1]):
                self._near(deadline, key)

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
        self._measure()

    def head(self) -> list[Any]:
        """What is known without the segments."""
        buckets = [[number, bucket.segments] for number, bucket in self._buckets.items()]
        return [self._passed, self._partly, buckets]

    def take_up(self, head: list[Any]) -> list[str]:
        """Begin with what was dumped. The names of the segments that are needed at once: those not yet full."""
        self._passed, (deadline, key), buckets = head
        self._partly = deadline, key
        for number, segments in buckets:
            bucket = self._buckets[number] = _Bucket()
            bucket.segments = segments
            bucket.known = False
            bucket.missing = set(range(segments))
        self._measure()
        return [self._name(number, segments - 1) for number, segments in buckets]

    def dump(self) -> Iterable[tuple[str, list[Any] | None]]:
        """The segments that have changed since the last dump; None for those that are gone."""
        nothing = not self.times and self.whole
        for number in [item for item in self._buckets if nothing or (item + 1) * self._width <= self._passed]:
            bucket = self._buckets.pop(number)
            for segment in range(bucket.segments):
                name = self._name(number, segment)
                self._full.pop(name, None)
                yield name, None
        self._measure()
        yield from self._full.items()
        self._full.clear()
        for number, bucket in self._buckets.items():
            if bucket.changed:
                bucket.changed = False
                yield self._name(number, bucket.segments - 1), bucket.tail
