"""Windows whose place does not depend on events: fixed, sliding, global."""

from __future__ import annotations

from typing import Any

from edge_runtime.events import Event
from edge_runtime.streams.cells import Cell, Shaped, Slice, Time
from edge_runtime.streams.compute import Compute, States
from edge_runtime.streams.triggers import Open, Triggers
from edge_runtime.streams.watermarks import BEGINNING, NEVER
from edge_runtime.streams.windows import SlidingWindows, WindowFunction


class Grid(Shaped):
    """Each window holds its own state: fixed windows and the global one, and sliding ones where slices will not do."""

    def __init__(
        self, function: WindowFunction, single: bool, size: int, compute: Compute, triggers: Triggers, lateness: int
    ) -> None:
        super().__init__(compute, triggers, lateness)
        self._assign = function.assign
        self._single = single
        self._size = size

    def add(self, cell: Cell, event: Event, time: int, index: int, now: int, marks: Time) -> None:
        """Add an event to its windows."""
        window: Any = cell.last
        if window is not None and window.start <= time < window.end:
            self._feed(window.states, event, time)
            window.fresh += 1
            if window.closed or self._early:
                self._added(cell, window, time, index, now)
            return
        spans = self._assign(time)
        # Without a look at the watermark where it cannot matter: in most cases.
        watermark = marks.at(now) if not spans or spans[0][1] < marks.before else BEGINNING
        window = None
        for start, end in spans:
            window = cell.windows.get(start)
            if window is None:
                if end + self._lateness <= watermark:
                    continue
                window = self._opened(cell, start, end, watermark, self._compute.zero())
            self._feed(window.states, event, time)
            window.fresh += 1
            if window.closed or self._early:
                self._added(cell, window, time, index, now)
        if window is not None:
            cell.last = window if self._single else None
        elif spans:
            self._late(index, spans[-1][1], watermark)

    def _opened(self, cell: Cell, start: int, end: int, watermark: int, states: States | None) -> Open:
        window = cell.windows[start] = Open(start, end, states)
        window.closed = end <= watermark
        window.plain = not (window.closed or self._early)
        if end < NEVER:
            self._register(end + self._lateness if window.closed else end, cell)
        return window

    def _added(self, cell: Cell, window: Open, time: int, index: int, now: int) -> None:
        if window.end == NEVER:
            window.oldest = min(time, window.oldest)
            window.newest = max(time, window.newest)
        if self._triggers.added(cell.key, window, now):
            self._say(cell, window, "late" if window.closed else "early", index)

    def due(self, cell: Cell, deadline: int, index: int) -> None:
        """One window may be forgotten then, and one may end."""
        if self._lateness:
            window = cell.windows.get(deadline - self._size - self._lateness)
            if window is not None and window.closed:
                if window.fresh:
                    self._say(cell, window, "late", index, False)
                self._forget(cell, window)
        window = cell.windows.get(deadline - self._size)
        if window is not None and not window.closed:
            self._close(cell, window, index)
            if not self._lateness:
                self._forget(cell, window)

    def _close(self, cell: Cell, window: Open, index: int) -> None:
        self._say(cell, window, "on_time", index, bool(self._lateness))
        window.closed = True
        window.plain = False
        if self._lateness:
            self._register(window.end + self._lateness, cell)

    def _forget(self, cell: Cell, window: Open) -> None:
        del cell.windows[window.start]
        if cell.last is window:
            cell.last = None

    def _say(self, cell: Cell, window: Open, timing: str, index: int, again: bool = True) -> None:
        assert window.states is not None
        self._triggers.say(cell.key, window, window.states, timing, index, again)


class Sliced(Grid):
    """Sliding windows put together from slices: an event is added once, however many windows it belongs to.

    A window of which only what is new is wanted has a state of its own, once it is closed. (Before that, slices will
    not do for panes of what is new: that is left to `Grid`.)
    """

    def __init__(
        self, function: SlidingWindows, size: int, every: int, compute: Compute, triggers: Triggers, lateness: int
    ) -> None:
        super().__init__(function, False, size, compute, triggers, lateness)
        self._slice = function.slice
        self._every = every
        self._cut = size % every

    def add(self, cell: Cell, event: Event, time: int, index: int, now: int, marks: Time) -> None:
        """Add an event to its slice."""
        part = cell.last
        if part is not None and part.start <= time < part.end and part.plain:
            self._feed(part.states, event, time)
            return
        spans = self._assign(time)
        watermark = marks.at(now) if not spans or spans[0][1] < marks.before else BEGINNING
        alive = [span for span in spans if span[1] + self._lateness > watermark]
        if not alive:
            if spans:
                self._late(index, spans[-1][1], watermark)
            return
        start, end = self._slice(time)
        if not cell.slices:
            cell.slices = {}
        part = cell.slices.get(start)
        if part is None:
            part = cell.slices[start] = Slice(start, end, self._compute.zero(), not self._early)
        cell.last = part
        self._feed(part.states, event, time)
        for start, end in alive:
            window = cell.windows.get(start)
            if window is None:
                window = self._opened(cell, start, end, watermark, None)
                if window.closed and self._triggers.discarding:
                    window.states = self._compute.zero()
            part.plain = part.plain and not window.closed
            if window.states is not None:
                self._feed(window.states, event, time)
            window.fresh += 1
            if window.closed or self._early:
                self._added(cell, window, time, index, now)

    def _close(self, cell: Cell, window: Open, index: int) -> None:
        super()._close(cell, window, index)
        if not self._lateness:
            return
        for part in self._parts(cell, window.start, window.end):
            part.plain = False
        if self._triggers.discarding:
            window.states = self._compute.zero()

    def _forget(self, cell: Cell, window: Open) -> None:
        del cell.windows[window.start]
        # Of all windows that its first slices are part of, it was the last one.
        for part in self._parts(cell, window.start, window.start + self._every):
            del cell.slices[part.start]
            if cell.last is part:
                cell.last = None

    def _parts(self, cell: Cell, start: int, end: int) -> list[Slice]:
        """The slices from the start of a window on, in order."""
        starts = range(start, end, self._every)
        places = [at for begin in starts for at in (begin, begin + self._cut) if at < end] if self._cut else starts
        return [part for at in places if (part := cell.slices.get(at)) is not None]

    def _say(self, cell: Cell, window: Open, timing: str, index: int, again: bool = True) -> None:
        states = window.states
        if states is None:
            states = self._compute.zero()
            for part in self._parts(cell, window.start, window.end):
                self._compute.merge(states, part.states)
        self._triggers.say(cell.key, window, states, timing, index, again)
