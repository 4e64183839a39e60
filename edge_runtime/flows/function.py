"""A function bound to a kind of event, as a flow: its commands, emitted events and changes of state are the effects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from edge_runtime.clock import Clock
from edge_runtime.events import MAX_HOPS, Event, Origin
from edge_runtime.flows.flow import Done, Failed, Policy, Taken, Turn
from edge_runtime.flows.ports import (
    Cancel,
    Defer,
    Effect,
    Emit,
    Failure,
    Given,
    Invoker,
    LogLine,
    Order,
    Outcome,
    Success,
    Unanswered,
    Unavailable,
)
from edge_runtime.flows.reach import Reach, Requests, TooManyRequests
from edge_runtime.flows.states import changed
from edge_runtime.flows.timers import MAX_PENDING, MAX_PENDING_BYTES, Timers
from edge_runtime.journal.records import Command, DeadLetter, Entry, Record, State, StateChange, Timer, TimerCancelled
from edge_runtime.manifest import Endpoint, FunctionRef, OnEvent, Schedule, StreamTrigger
from edge_runtime.size import rough
from edge_runtime.throttle import Throttle, ThrottledLog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
LOG_BURST = 200
LOG_INTERVAL = 20_000
"""Lines that a function may log at once, and microseconds for each further one: 50 a second."""
PARALLEL = 8
"""Partition keys of a batch that wait for answers to requests at a time."""
REMEMBERED = 1000
"""Events whose metrics wait for their commit."""

_security = logging.getLogger("edge.security")


class FunctionFlow:
    """Implements `Flow` for a function of an app's version. `matches` is its `where`, over the event's data."""

    def __init__(
        self,
        app: str,
        version: str,
        trigger: OnEvent | Schedule | Endpoint | StreamTrigger,
        *,
        matches: Callable[[Any], bool],
        invoker: Invoker,
        clock: Clock,
        reach: Reach | None = None,
        timers: Timers | None = None,
    ) -> None:
        """Without `timers` what it defers is dated by the clock, and there is no limit to it."""
        self.name = f"{app}.{trigger.name}"
        self.start = trigger.start
        self.version = version
        self.policy = Policy(trigger.retries, trigger.on_error)
        self._kind = trigger.kind
        self._serial = isinstance(trigger, OnEvent) and trigger.serial
        self._matches = matches
        self._function = FunctionRef(app, version, trigger.name)
        self._invoker = invoker
        self._clock = clock
        self._reach = reach or Reach()
        self._timers = timers
        self._requests = Requests(self.name, self._reach)
        self._metrics: dict[tuple[int, str], list[tuple[str, float]]] = {}
        self._log = logging.getLogger(f"edge.app.{self.name}")
        self._log_rate = Throttle(clock, LOG_BURST, LOG_INTERVAL)
        self._refusal = ThrottledLog(_security.warning, clock)

    def wants(self, event: Event) -> bool:
        """As `Flow.wants`."""
        return event.kind == self._kind and self._matches(event.data)

    def key(self, event: Event) -> str:
        """As `Flow.key`: the device, or one key for all events of a serial function."""
        return "" if self._serial else event.device

    async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
        """As `Flow.take`: one call into the sandbox for the batch, and more for events that make requests."""
        states = await turn.states.of(self.name, {self.key(event) for event in events})
        try:
            outcomes = await self._invoke(events, turn, states)
        except Unavailable as error:
            return Taken([], error)
        events = events[: len(outcomes)]
        # In the order of the events: the first of them must come to an end.
        asking = dict.fromkeys(
            self.key(event) for event, outcome in zip(events, outcomes, strict=True) if _unanswered(outcome)
        )
        results: list[Done | Failed | None] = [
            None if self.key(event) in asking else self._result(event, outcome, turn, states)
            for event, outcome in zip(events, outcomes, strict=True)
        ]
        waiting = await self._ask(asking, events, outcomes, results, turn, states) if asking else None
        if turn.dry:
            for event in events:
                self._requests.forget(event, turn)
        cut = results.index(None) if None in results else len(results)
        return Taken([result for result in results[:cut] if result is not None], waiting)

    def settled(self, events: Sequence[Event], turn: Turn) -> None:
        """As `Flow.settled`: now what was measured counts."""
        for event in events:
            self._requests.forget(event, turn)
            values = self._metrics.pop((turn.epoch, event.id), None)
            if values and self._reach.metrics is not None:
                self._reach.metrics.note(self._function.app, values, self._clock.now())

    async def _invoke(self, events: Sequence[Event], turn: Turn, states: dict[str, State]) -> Sequence[Outcome]:
        answers = {event.id: list(known) for event in events if (known := self._requests.answers(event, turn))}
        given = Given(self._serial, states, answers, self._reach.secrets())
        return await self._invoker.invoke(self._function, events, given)

    # Requests

    async def _ask(
        self,
        keys: Iterable[str],
        events: Sequence[Event],
        outcomes: Sequence[Outcome],
        results: list[Done | Failed | None],
        turn: Turn,
        states: dict[str, State],
    ) -> Unavailable | None:
        """Get the results of all events with these keys: key by key in order, several keys at a time.

        Where the answers would take too much memory some are left out, but never the first event of the batch.
        """
        waiting: list[Unavailable] = []
        places = asyncio.Semaphore(PARALLEL)

        async def line(key: str) -> None:
            async with places:
                asked = False
                for index, event in enumerate(events):
                    if self.key(event) != key or waiting:
                        continue
                    asked = asked or _unanswered(outcomes[index])
                    if asked and index and self._requests.crowded:
                        return
                    try:
                        # From the first request on, those behind it have seen a state that is not theirs.
                        outcome = await self._answered(event, turn, states) if asked else outcomes[index]
                    except Unavailable as error:
                        waiting.append(error)
                        return
                    result = results[index] = self._result(event, outcome, turn, states)
                    if isinstance(result, Failed):
                        return  # It may come again before those behind it.

        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(line(key))
        return waiting[0] if waiting else None

    async def _answered(self, event: Event, turn: Turn, states: dict[str, State]) -> Outcome:
        """Run the function on an event, again with each answer, to its end."""
        while True:
            [outcome] = await self._invoke([event], turn, states)
            if not isinstance(outcome, Unanswered):
                return outcome
            try:
                await self._requests.send(event, outcome.request, turn)
            except TooManyRequests:
                return Failure("error", "it makes requests without end")

    # Results

    def _result(self, event: Event, outcome: Outcome, turn: Turn, states: dict[str, State]) -> Done | Failed:
        assert not isinstance(outcome, Unanswered)
        for grant in () if turn.dry else outcome.refused:
            self._refusal(f"{self.name} (version {self.version}) reached for '{grant}', which it was not granted")
        for line in () if turn.dry else outcome.logs:
            self._note(line, event)
        if isinstance(outcome, Success):
            stray = next((effect for effect in outcome.effects if self._strays(effect, event)), None)
            if isinstance(stray, Order):
                outcome = Failure("error", f"a command to '{stray.device}' was not granted")
            elif self._too_many(outcome):
                outcome = Failure(
                    "output",
                    f"{self.name} has deferred too much that has not come yet: more than {MAX_PENDING} events, or"
                    f" {MAX_PENDING_BYTES >> 20} MiB; a key replaces, and cancels",
                )
        if isinstance(outcome, Success) and outcome.state and self._overflows(self.key(event), outcome.state, states):
            # The guest has a limit of its own; but it is not believed.
            outcome = Failure("output", f"more than {self._reach.max_state // 1024} KiB of state")
        if isinstance(outcome, Failure):
            return self._failed(event, outcome, turn)
        effects = [self._effect(event, outcome, index, turn) for index in range(len(outcome.effects))]
        if outcome.state:
            effects.append(self._change(self.key(event), outcome.state, states))
        if outcome.metrics and not turn.dry:
            self._metrics[turn.epoch, event.id] = outcome.metrics
            if len(self._metrics) > REMEMBERED:
                del self._metrics[next(iter(self._metrics))]
        return Done(effects)

    def _too_many(self, outcome: Success) -> bool:
        deferred = [effect for effect in outcome.effects if isinstance(effect, Defer)]
        size = sum(map(rough, deferred))
        return bool(deferred) and self._timers is not None and self._timers.full(self.name, len(deferred), size)

    def _strays(self, effect: Effect, event: Event) -> bool:
        """Whether it is a command to a device that is not this function's to command."""
        return (
            isinstance(effect, Order)
            and effect.device != event.device
            and not self._reach.grants.command(effect.device)
        )

    def _failed(self, event: Event, failure: Failure, turn: Turn) -> Done | Failed:
        detail = self._reach.masked(failure.detail)
        if self._requests.withheld(event, turn):
            # It was not its fault: what it asked for is not sent while it catches up.
            self._log.info("nothing done on event %s, whose requests are withheld: %s", event.id, detail)
            return Done()
        self._requests.forget(event, turn)
        if not turn.dry:
            self._log.error("%s on event %s: %s", failure.reason, event.id, detail)
        return Failed(self._dead(event, failure.reason, detail))

    def _note(self, line: LogLine, event: Event) -> None:
        left_out = self._log_rate.admit()
        if left_out is None:
            return
        if left_out:
            self._log.warning("%d lines were left out: more than %d a second", left_out, 1_000_000 // LOG_INTERVAL)
        text = self._reach.masked(line.text)
        self._log.log(LEVELS.get(line.level, logging.INFO), "%s", text, extra={"device": event.device})

    def _overflows(self, key: str, entries: dict[str, Entry | None], states: dict[str, State]) -> bool:
        after = changed(states.get(key, {}), entries)
        return sum(len(name) + len(entry[0]) for name, entry in after.items()) > self._reach.max_state

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
            case Cancel(key):
                return TimerCancelled(self.name, event.device, key)
            case Emit(kind, data) | Defer(kind, data):
                if event.hops >= MAX_HOPS:
                    return self._dead(
                        event,
                        "hops",
                        f"'{kind}' was not emitted: {MAX_HOPS} functions have answered each other already",
                    )
                quiet = turn.quiet or event.quiet
                emitted = Event(event.device, b"", 0, kind, event.time, now, data, event.hops + 1, origin, quiet)
                if isinstance(effect, Emit):
                    return emitted
                asked = now if self._timers is None else self._timers.now()
                return Timer(self.name, emitted, asked, effect.after, effect.key)

    def _dead(self, event: Event, reason: str, detail: str) -> DeadLetter:
        return DeadLetter(self.name, reason, detail, self._clock.now(), event.device, event, version=self.version)


def _unanswered(outcome: Outcome) -> bool:
    return isinstance(outcome, Unanswered)
