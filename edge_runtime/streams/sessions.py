"""Windows that grow with their events and into each other."""

from __future__ import annotations

from edge_runtime.events import Event
from edge_runtime.streams.cells import Cell, Shaped, Time
from edge_runtime.streams.compute import Compute
from edge_runtime.streams.triggers import Open, Triggers
from edge_runtime.streams.watermarks import BEGINNING
from edge_runtime.streams.windows import SessionWindows


class Sessions(Shaped):
    """Sessions of a key never overlap; `Cell.last` is the latest of them.

    One that is closed and grows, by a late event, beyond the watermark is open again, and ends once more.
    """

    def __init__(self, function: SessionWindows, gap: int, compute: Compute, triggers: Triggers, lateness: int) -> None:
        super().__init__(compute, triggers, lateness)
        self._function = function
        self.gap = gap

    def add(self, cell: Cell, event: Event, time: int, index: int, now: int, marks: Time) -> None:
        """Add an event to the session that it belongs to, makes, or makes out of several."""
        session: Open | None = cell.last
        if session is None or session.closed or not session.start <= time < session.end:
            # Without a look at the watermark where it cannot matter: in most cases.
            watermark = marks.at(now) if time + self.gap < marks.before else BEGINNING
            session = self._joined(cell, time, index, watermark)
            if session is None:
                return
        elif time + self.gap > session.end:
            session.end = time + self.gap
        assert session.states is not None
        self._feed(session.states, event, time)
        session.fresh += 1
        if (self._early or session.closed) and self._triggers.added(cell.key, session, now):
            self._say(cell, session, "late" if session.closed else "early", index)

    def _joined(self, cell: Cell, time: int, index: int, watermark: int) -> Open | None:
        """The session with the event's span in it; None if it is too late for one."""
        (own,) = self._function.assign(time)
        start, end = own
        parts: list[Open] = []
        if cell.last is not None and time < cell.last.end:
            spans = [(window.start, window.end) for window in cell.windows.values()]
            start, end = next(span for span in self._function.merge([*spans, own]) if span[0] <= time < span[1])
            parts = [cell.windows[span[0]] for span in sorted(spans) if start <= span[0] < end]
        # A session whose end the watermark has passed may not have been told of it yet: it will be, as it is by then.
        untold = next((part for part in parts if part.end == end and not part.closed), None)
        if untold is None and end + self._lateness <= watermark:
            self._late(index, end, watermark)
            return None
        due = untold.due if untold is not None else end if end > watermark else end + self._lateness
        for part in parts:
            del cell.windows[part.start]
        latest = cell.last is None or cell.last in parts or start > cell.last.start
        session = self._united(parts) if parts else Open(start, end, self._compute.zero())
        session.start, session.end, session.due = start, end, due
        session.closed = untold is None and end <= watermark
        session.plain = not (session.closed or self._early)
        if untold is None:
            self._register(due, cell)
        cell.windows[start] = session
        if latest:
            cell.last = session
        return session

    def _united(self, parts: list[Open]) -> Open:
        """One session of several; what they have said is all to be taken back."""
        if len(parts) == 1:
            return parts[0]
        states = self._compute.zero()
        session = Open(0, 0, states)
        for part in parts:
            assert part.states is not None
            self._compute.merge(states, part.states)
            session.fresh += part.fresh
            session.number = max(session.number, part.number)
            session.said += part.said
            if part.timer:
                session.timer = min(session.timer or part.timer, part.timer)
        return session

    def due(self, cell: Cell, deadline: int, index: int) -> None:
        """Some sessions may end then, or be forgotten; one that has grown since is to be looked at again later."""
        for session in sorted(cell.windows.values(), key=_start) if len(cell.windows) > 1 else [*cell.windows.values()]:
            if not session.closed and session.end <= deadline:
                self._say(cell, session, "on_time", index, bool(self._lateness))
                session.closed = True
                session.plain = False
                session.due = session.end + self._lateness
                if self._lateness:
                    self._register(session.due, cell)
            if session.closed and session.end + self._lateness <= deadline:
                if session.fresh:
                    self._say(cell, session, "late", index, False)
                del cell.windows[session.start]
                if cell.last is session:
                    cell.last = None
            elif not session.closed and session.due == deadline:
                session.due = session.end
                self._register(session.due, cell)

    def load(self, key: str, plain: list[object]) -> Cell:
        """What was dumped, and the latest session."""
        cell = super().load(key, plain)
        if cell.windows:
            cell.last = cell.windows[max(cell.windows)]
        return cell

    def _say(self, cell: Cell, window: Open, timing: str, index: int, again: bool = True) -> None:
        assert window.states is not None
        self._triggers.say(cell.key, window, window.states, timing, index, again)


def _start(session: Open) -> int:
    return session.start
