"""Which events are there already: sets of sequence intervals per (device, boot).

A board counts up, so a whole boot is usually one interval, however many events it holds.
"""

from __future__ import annotations

from bisect import bisect_right

MAX_INTERVALS = 1_000
"""Of one boot (ADR 0023): a board that counts has one for each reading that it gave up, one with random numbers has
one for each event, and they outlive the events."""

Intervals = list[list[int]]
"""Disjoint `[first, last]` pairs in rising order, never adjacent to each other."""


def contains(intervals: Intervals, seq: int) -> bool:
    """True if `seq` lies in one of the intervals."""
    if not intervals:
        return False
    first, last = intervals[-1]
    if seq >= first:
        return seq <= last
    index = bisect_right(intervals, seq, key=_first) - 1
    return index >= 0 and seq <= intervals[index][1]


def scatters(intervals: Intervals, seq: int) -> bool:
    """Whether `seq`, which is not in yet, would be one interval too many: it touches none, and there are enough."""
    if len(intervals) < MAX_INTERVALS:
        return False
    index = bisect_right(intervals, seq, key=_first)
    touches_left = index > 0 and intervals[index - 1][1] + 1 == seq
    return not touches_left and not (index < len(intervals) and intervals[index][0] - 1 == seq)


def add(intervals: Intervals, seq: int) -> None:
    """Put `seq`, which must not be in yet, into the set; intervals that now touch become one."""
    if intervals and seq == intervals[-1][1] + 1:
        intervals[-1][1] = seq
        return
    index = bisect_right(intervals, seq, key=_first)
    joins_left = index > 0 and intervals[index - 1][1] + 1 == seq
    joins_right = index < len(intervals) and intervals[index][0] - 1 == seq
    if joins_left and joins_right:
        intervals[index - 1][1] = intervals[index][1]
        del intervals[index]
    elif joins_left:
        intervals[index - 1][1] = seq
    elif joins_right:
        intervals[index][0] = seq
    else:
        intervals.insert(index, [seq, seq])


def _first(interval: list[int]) -> int:
    return interval[0]
