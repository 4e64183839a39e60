"""What is held of a partition key, and what every shape of windows does with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

from edge_runtime.events import Event
from edge_runtime.streams.compute import Compute, States
from edge_runtime.streams.machine import Late
from edge_runtime.streams.triggers import Open, Triggers


class Slice:
    """A part of sliding windows in which none starts or ends."""

    __slots__ = ("end", "fresh", "plain", "start", "states")

    def __init__(self, start: int, end: int, states: States, plain: bool) -> None:
        self.start = start
        self.end = end
        self.states = states
        self.fresh = 0
        """As windows have it; of no use here."""
        self.plain = plain
        """An event in it has only to be added: no window that it is part of is closed."""


_NONE: dict[int, Any] = {}
"""Of all cells of windows without slices."""


class Cell:
    """The windows of a key, by start."""

    __slots__ = ("changed", "key", "last", "size", "slices", "windows")

    def __init__(self, key: str) -> None:
        self.key = key
        self.windows: dict[int, Open] = {}
        self.slices: dict[int, Slice] = _NONE
        self.last: Any = None
        """The window, session or slice that the next event most likely belongs to."""
        self.changed = False
        self.size = 0
        """Bytes that it takes where it is stored."""


class Time(Protocol):
    """What a shape has to know of the watermark."""

    before: int
    """The watermark is before this; `NEVER` where that is not known."""

    def at(self, now: int) -> int:
        """The watermark."""
        ...


class Shaped(ABC):
    """The windows of a shape, for all keys: it holds none of them itself."""

    gap = 0
    """How far a window reaches beyond its events, where it grows with them."""

    def __init__(self, compute: Compute, triggers: Triggers, lateness: int) -> None:
        self._compute = compute
        self._feed = compute.feed
        self._triggers = triggers
        self._lateness = lateness
        self._early = triggers.early
        self.registered: list[tuple[int, str]] = []
        """Deadlines and keys, for the engine to take away: event times at which `due` is to be called."""

    @abstractmethod
    def add(self, cell: Cell, event: Event, time: int, index: int, now: int, marks: Time) -> None:
        """Add an event."""

    @abstractmethod
    def due(self, cell: Cell, deadline: int, index: int) -> None:
        """The watermark has come to the deadline."""

    def expired(self, cell: Cell, deadline: int, index: int) -> None:
        """Processing time has come to the deadline of a timer."""
        for window in sorted(cell.windows.values(), key=_start):
            if window.timer == deadline:
                self._say(cell, window, "late" if window.closed else "early", index)

    @abstractmethod
    def _say(self, cell: Cell, window: Open, timing: str, index: int) -> None:
        """Let a window speak."""

    def _late(self, index: int, end: int, watermark: int) -> None:
        """An event was too late for a window that ended then, the last one it could have been part of."""
        self._triggers.results.append(Late(index, watermark - end - self._lateness + 1))

    def _register(self, deadline: int, cell: Cell) -> None:
        self.registered.append((deadline, cell.key))

    def dump(self, cell: Cell) -> list[Any]:
        """Plain values."""
        return [
            [window.dump(self._compute) for window in cell.windows.values()],
            [[item.start, item.end, item.plain, self._compute.dump(item.states)] for item in cell.slices.values()],
        ]

    def load(self, key: str, plain: list[Any]) -> Cell:
        """What was dumped."""
        cell = Cell(key)
        for window in (Open.load(item, self._compute) for item in plain[0]):
            cell.windows[window.start] = window
            window.plain = not (window.closed or self._early)
        cell.slices = {}
        for start, end, alone, states in plain[1]:
            cell.slices[start] = Slice(start, end, self._compute.load(states), alone)
        return cell


def _start(window: Open) -> int:
    return window.start
