"""Journal records as the lines that people read."""

from __future__ import annotations

from edge_runtime.events import Event
from edge_runtime.flows.lineage import ENDS
from edge_runtime.journal.records import (
    AppToken,
    AppVersion,
    ClockSet,
    Command,
    CommandEnd,
    DeadLetter,
    Device,
    Dropped,
    FlowState,
    Gap,
    Progress,
    Retry,
    StateChange,
    Stored,
    Timer,
    TimerCancelled,
    TimerFired,
    Trimmed,
)
from edge_runtime.planes.messages import Line


def line(stored: Stored) -> Line | None:
    """The line of a record; None for bookkeeping that nobody wants to watch."""
    offset = stored.offset
    match stored.record:
        case Event() as e:
            cause = "" if e.origin is None else e.origin.cause
            return Line(offset, "event", e.time, e.device, e.id, e.kind, e.data, cause)
        case Command() as c:
            return Line(offset, "command", c.created, c.device, c.id.hex(), c.name, c.args, c.origin.cause)
        case CommandEnd() as end:
            name = ENDS[end.status]
            return Line(offset, "command-end", end.time, end.device, end.command.hex(), name, end.result)
        case DeadLetter() as d:
            identity = d.event.id if d.event is not None else ""
            data = {"flow": d.flow, "version": d.version, "detail": d.detail, "attempts": d.attempts, "topic": d.topic}
            return Line(offset, "dead-letter", d.time, d.device, identity, d.reason, data)
        case AppVersion() as a:
            return Line(offset, "app", a.time, "", a.version, a.app)
        case AppToken() as token:
            return Line(offset, "app-token", token.time, "", "", token.app)
        case Device() as v:
            if v.removed:
                return Line(offset, "device", v.removed, v.id, "", "removed")
            return Line(offset, "device", v.created, v.id, "", "blocked" if v.blocked else "added")
        case Gap() as g:
            return Line(offset, "gap", g.time, "", "", g.flow, {"first": g.first, "last": g.last})
        case Retry() as r:
            return Line(offset, "retry", r.time, r.event.device, r.event.id, r.flow, {"dead_letter": r.letter})
        case Dropped() as d:
            return Line(offset, "dropped", d.time, "", "", "", {"dead_letter": d.letter})
        case Timer() as t if t.event.origin is not None:
            data = {"after": t.after, "key": t.key, "data": t.event.data}
            return Line(offset, "deferred", t.set, t.event.device, t.id, t.event.kind, data, t.event.origin.cause)
        case FlowState() | Progress() | StateChange() | Trimmed():
            return None
        case Timer() | TimerFired() | TimerCancelled() | ClockSet():
            return None
