"""A function bound to a kind of event, as a flow: its commands and emitted events are the effects."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from edge_runtime.clock import Clock
from edge_runtime.events import MAX_HOPS, Event, Origin
from edge_runtime.flows.flow import Done, Failed, Policy, Taken, Turn
from edge_runtime.flows.ports import Emit, Failure, Given, Invoker, Order, Outcome, Success, Unavailable
from edge_runtime.flows.states import changed
from edge_runtime.journal.records import Command, DeadLetter, Entry, Record, State, StateChange
from edge_runtime.manifest import FunctionRef, OnEvent

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class FunctionFlow:
    """Implements `Flow` for a function of an app's version. `matches` is its `where`, over the event's data."""

    def __init__(
        self,
        app: str,
        version: str,
        trigger: OnEvent,
        *,
        matches: Callable[[Any], bool],
        invoker: Invoker,
        clock: Clock,
    ) -> None:
        self.name = f"{app}.{trigger.name}"
        self.start = trigger.start
        self.version = version
        self.policy = Policy(trigger.retries, trigger.on_error)
        self._kind = trigger.kind
        self._serial = trigger.serial
        self._matches = matches
        self._function = FunctionRef(app, version, trigger.name)
        self._invoker = invoker
        self._clock = clock
        self._log = logging.getLogger(f"edge.app.{self.name}")

    def wants(self, event: Event) -> bool:
        """As `Flow.wants`."""
        return event.kind == self._kind and self._matches(event.data)

    def key(self, event: Event) -> str:
        """As `Flow.key`: the device, or one key for all events of a serial function."""
        return "" if self._serial else event.device

    async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
        """As `Flow.take`: one call into the sandbox for the batch."""
        states = await turn.states.of(self.name, {self.key(event) for event in events})
        try:
            outcomes = await self._invoker.invoke(self._function, events, Given(self._serial, states))
        except Unavailable as error:
            return Taken([], error)
        return Taken([self._result(*pair, turn, states) for pair in zip(events, outcomes, strict=True)])

    def settled(self, events: Sequence[Event], turn: Turn) -> None:
        """As `Flow.settled`: nothing is remembered."""

    def _result(self, event: Event, outcome: Outcome, turn: Turn, states: dict[str, State]) -> Done | Failed:
        for line in () if turn.dry else outcome.logs:
            self._log.log(LEVELS.get(line.level, logging.INFO), "%s", line.text, extra={"device": event.device})
        if isinstance(outcome, Failure):
            if not turn.dry:
                self._log.error("%s on event %s: %s", outcome.reason, event.id, outcome.detail)
            return Failed(self._dead(event, outcome.reason, outcome.detail))
        effects = [self._effect(event, outcome, index, turn) for index in range(len(outcome.effects))]
        if outcome.state:
            effects.append(self._change(self.key(event), outcome.state, states))
        return Done(effects)

    def _change(self, key: str, entries: dict[str, Entry | None], states: dict[str, State]) -> StateChange:
        """What the function keeps from here on; `states` are brought up to date with it."""
        state = states.get(key, {})
        states[key] = changed(state, entries)
        return StateChange(self.name, key, entries, {name: state.get(name) for name in entries})

    def _effect(self, event: Event, outcome: Success, index: int, turn: Turn) -> Record:
        effect = outcome.effects[index]
        origin = Origin(self.name, turn.epoch, event.id, index)
        now = self._clock.now()
        match effect:
            case Order(device, name, args, ttl, key):
                own = event.origin is None and device == event.device
                cause = (event.boot, event.seq) if own else None
                return Command(device, name, args, now, now + ttl, origin, cause, key)
            case Emit(kind, data):
                if event.hops >= MAX_HOPS:
                    return self._dead(
                        event,
                        "hops",
                        f"'{kind}' was not emitted: {MAX_HOPS} functions have answered each other already",
                    )
                quiet = turn.quiet or event.quiet
                return Event(event.device, b"", 0, kind, event.time, now, data, event.hops + 1, origin, quiet)

    def _dead(self, event: Event, reason: str, detail: str) -> DeadLetter:
        return DeadLetter(self.name, reason, detail, self._clock.now(), event.device, event, version=self.version)
