"""Events that are to come: which wait, and what records change about that. Used by the journals and by their service.

One table under two keys: the id of the event to come, and the name that its flow gave it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from edge_runtime.clock import TRUSTED_AFTER
from edge_runtime.journal.records import (
    ClockSet,
    FlowState,
    Record,
    Timer,
    TimerCancelled,
    TimerFired,
)
from edge_runtime.size import rough

Name = tuple[str, str, str]
"""A flow, a device and the key of a timer."""


class Pending:
    """The timers that have not fired, oldest first."""

    def __init__(self, timers: Iterable[Timer] = (), ticks: Mapping[str, int] | None = None) -> None:
        self.timers: dict[str, Timer] = {}
        """By the id of the event to come."""
        self.ticks: dict[str, int] = dict(ticks or {})
        """Of flows with a schedule: where the newest event of it stands in the journal."""
        self._names: dict[Name, str] = {}
        self._of_flow: dict[str, set[str]] = {}
        self._bytes: dict[str, int] = {}
        for timer in timers:
            self._add(timer)

    def under(self, flow: str, device: str, key: str) -> Timer | None:
        """The timer with this name."""
        identity = self._names.get((flow, device, key))
        return None if identity is None else self.timers[identity]

    def count(self, flow: str) -> int:
        """How many of a flow wait."""
        return len(self._of_flow.get(flow, ()))

    def bytes(self, flow: str) -> int:
        """About how much those of a flow hold together."""
        return self._bytes.get(flow, 0)

    def apply(self, record: Record, offset: int) -> list[Timer]:
        """Let a record take effect that stands at `offset`; answers the timers that are no more, or are others now."""
        match record:
            case Timer():
                old = self.under(record.flow, record.event.device, record.key) if record.key else None
                gone = [] if old is None else [self._remove(old.id)]
                self._add(record)
                return gone
            case TimerFired() if record.timer in self.timers:
                timer = self._remove(record.timer)
                if timer.repeats:
                    self.ticks[timer.flow] = offset + 1  # the event stands right behind
                return [timer]
            case TimerCancelled():
                old = self.under(record.flow, record.device, record.key)
                return [] if old is None else [self._remove(old.id)]
            case FlowState():
                return [self._remove(identity) for identity in self._overtaken(record)]
            case ClockSet():
                return self._set_clock(record)
            case _:
                return []

    def _overtaken(self, state: FlowState) -> list[str]:
        """Timers of an earlier epoch whose events a rewind has the flow take again: it will set them again."""
        found = []
        for identity in self._of_flow.get(state.flow, ()):
            timer = self.timers[identity]
            origin = timer.event.origin
            if origin is not None and origin.epoch < state.epoch and timer.at > state.again_after:
                found.append(identity)
        return found

    def _set_clock(self, step: ClockSet) -> list[Timer]:
        """What was set by the old clock is now dated by the new one; a moment on the wall clock stays what it is."""
        changed = []
        for identity, timer in self.timers.items():
            if timer.moment or (timer.set > TRUSTED_AFTER) != (step.before > TRUSTED_AFTER):
                continue
            moved = min(timer.set + step.after - step.before, step.after)
            if moved != timer.set:
                self.timers[identity] = msgspec.structs.replace(timer, set=moved)
                changed.append(timer)
        return changed

    def _add(self, timer: Timer) -> None:
        identity = timer.id
        self.timers[identity] = timer
        self._of_flow.setdefault(timer.flow, set()).add(identity)
        self._bytes[timer.flow] = self._bytes.get(timer.flow, 0) + rough(timer.event)
        if timer.key:
            self._names[timer.flow, timer.event.device, timer.key] = identity

    def _remove(self, identity: str) -> Timer:
        timer = self.timers.pop(identity)
        ids = self._of_flow[timer.flow]
        ids.discard(identity)
        self._bytes[timer.flow] -= rough(timer.event)
        if not ids:
            del self._of_flow[timer.flow], self._bytes[timer.flow]
        if timer.key:
            self._names.pop((timer.flow, timer.event.device, timer.key), None)
        return timer


class Placing:
    """Within one group of records: which timers have ended already, and which events are void with that."""

    def __init__(self, pending: Pending) -> None:
        self._pending = pending
        self._ended: set[str] = set()
        self.void: set[str] = set()
        """The ids of events whose timers had ended when they were fired."""

    def place(self, record: Timer | TimerFired | TimerCancelled) -> bool:
        """Whether a record is to be stored: a timer fires once, and not if it was replaced or cancelled before."""
        if isinstance(record, TimerFired):
            identity = record.timer
            stands = identity in self._pending.timers and identity not in self._ended
            self._ended.add(identity)
            if not stands:
                self.void.add(identity)
            return stands
        device = record.event.device if isinstance(record, Timer) else record.device
        old = self._pending.under(record.flow, device, record.key) if record.key else None
        if old is not None and not (isinstance(record, Timer) and record.id == old.id):
            self._ended.add(old.id)
        return True
