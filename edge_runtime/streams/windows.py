"""Window functions: which windows an event belongs to, and which of them are one. Nothing more.

A span is a start and an exclusive end, integer microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from edge_runtime.errors import ConfigError
from edge_runtime.streams.watermarks import BEGINNING, NEVER
from edge_runtime.streamspec import Fixed, Session, Shape, Sliding

Span = tuple[int, int]

ALL_TIME = (BEGINNING, NEVER)
MAX_OVERLAP = 1000
"""Sliding windows that an event may belong to."""
YEAR = 366 * 86_400 * 1_000_000


class WindowFunction(Protocol):
    """What makes a shape of windows."""

    def assign(self, time: int) -> Sequence[Span]:
        """The windows of an event, in order; none where the shape has gaps."""
        ...

    def merge(self, spans: Iterable[Span]) -> list[Span]:
        """Those that belong together made one; in order."""
        ...


class _Apart:
    def merge(self, spans: Iterable[Span]) -> list[Span]:
        """Each stays what it is."""
        return sorted(set(spans))


class FixedWindows(_Apart):
    """One after the other."""

    def __init__(self, shape: Fixed) -> None:
        self._size, self._offset = shape.size, shape.offset

    def assign(self, time: int) -> Sequence[Span]:
        """The one."""
        start = time - (time - self._offset) % self._size
        return ((start, start + self._size),)


class SlidingWindows(_Apart):
    """One every `every`."""

    def __init__(self, shape: Sliding) -> None:
        self._size, self._every, self._offset = shape.size, shape.every, shape.offset

    def assign(self, time: int) -> Sequence[Span]:
        """All that it lies in."""
        last = time - (time - self._offset) % self._every
        first = last - (last - (time - self._size) - 1) // self._every * self._every
        return [(start, start + self._size) for start in range(first, last + 1, self._every)]

    def slice(self, time: int) -> Span:
        """The span around the time in which no window starts or ends: at most two of them for each `every`."""
        start = time - (time - self._offset) % self._every
        cut = self._size % self._every
        if time - start < cut:
            return start, start + cut
        return start + cut, start + self._every


class SessionWindows:
    """From the first event to a gap after the last."""

    def __init__(self, shape: Session) -> None:
        self._gap = shape.gap

    def assign(self, time: int) -> Sequence[Span]:
        """As if it were alone."""
        return ((time, time + self._gap),)

    def merge(self, spans: Iterable[Span]) -> list[Span]:
        """Those that overlap: events a whole gap apart are apart."""
        merged: list[Span] = []
        for start, end in sorted(spans):
            if merged and start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged


class GlobalWindow(_Apart):
    """All time."""

    def assign(self, time: int) -> Sequence[Span]:
        """The one."""
        return (ALL_TIME,)


def function(shape: Shape) -> WindowFunction:
    """The window function of a shape. Raises `ConfigError` for lengths that cannot be."""
    if isinstance(shape, Fixed):
        _length(shape.size, "The size of a window")
        return FixedWindows(shape)
    if isinstance(shape, Sliding):
        _length(shape.size, "The size of a window")
        _length(shape.every, "The time from one window to the next")
        if shape.size > shape.every * MAX_OVERLAP:
            raise ConfigError(
                f"Each event would belong to {shape.size // shape.every} windows", hint=f"At most {MAX_OVERLAP}."
            )
        return SlidingWindows(shape)
    if isinstance(shape, Session):
        _length(shape.gap, "The gap of sessions")
        return SessionWindows(shape)
    return GlobalWindow()


def _length(value: int, what: str) -> None:
    if not 0 < value <= YEAR:
        raise ConfigError(f"{what} is {value} microseconds", hint="More than 0, and at most 366 days.")
