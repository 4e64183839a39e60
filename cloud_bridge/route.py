"""A bridge route: a flow that shapes events with a function and sends what it returns to a target."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from edge_runtime import expr
from edge_runtime.clock import Clock
from edge_runtime.events import Event
from edge_runtime.flows.flow import Done, Failed, Policy, Taken, Turn
from edge_runtime.flows.ports import Failure, Invoker, Outcome, Rejected, Success, Target, Unanswered, Unavailable
from edge_runtime.journal.records import DeadLetter
from edge_runtime.manifest import FunctionRef, Route

PARALLEL = 8
"""Deliveries in the air at a time, each of another device."""
MEMORY = 10_000
"""Events whose outcome is remembered in case they come again: ten batches."""


class Counters(msgspec.Struct):
    """What a route has done since it was built."""

    delivered: int = 0
    """Events that the target accepted."""
    repeated: int = 0
    """Those of them that had been sent before without a clear answer: the target may have them twice."""
    withheld: int = 0
    """Events for which the function returned None."""
    rejected: int = 0
    """Events that the target refused."""
    failed: int = 0
    """Events for which the function failed."""
    retries: int = 0
    """Batches that were cut short because the target or the sandbox was out of reach."""
    last_error: str = ""
    """The newest reason for one of the last three."""


class _Line(msgspec.Struct):
    """What is still to be dealt with of one device, in order."""

    events: deque[tuple[Event, Success | Failure | None]] = msgspec.field(default_factory=deque)
    """With what the function made of each; None for those that were dealt with before."""
    blocked: bool = False
    """An event has failed in a way that it may be tried again, or held: nothing behind it may be sent before that."""


class RouteFlow:
    """One route of one version of an app. Implements `Flow`.

    Order per device is kept: while one event of a device is not delivered, none that follows it is sent. Different
    devices go side by side, so events behind the first undelivered one may have arrived already; they are remembered
    here and not sent again, unless the process ends in between: then they are, under the same id. Behind an event that
    has failed and will be tried again or held, nothing of its device is sent: the results end before it.
    """

    def __init__(self, app: str, version: str, trigger: Route, invoker: Invoker, target: Target, clock: Clock) -> None:
        """Raises `expr.ExpressionError` where the trigger's condition is not one."""
        self.name = f"{app}.{trigger.name}"
        self.start = trigger.start
        self.policy = Policy(trigger.retries, trigger.on_error)
        self.counters = Counters()
        self._kind = trigger.kind
        self._where = expr.compile(trigger.where)
        self._function = FunctionRef(app, version, trigger.name)
        self._invoker = invoker
        self._target = target
        self._clock = clock
        self._outcomes: dict[tuple[int, str], DeadLetter | None] = {}
        self._attempts: dict[tuple[int, str], int] = {}

    def wants(self, event: Event) -> bool:
        """Whether the event is of the route's kind and meets its condition."""
        return event.kind == self._kind and self._where.matches(event.data)

    def key(self, event: Event) -> str:
        """Order is kept per device."""
        return event.device

    async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
        """Shape and send; see `Flow`. The results are of a prefix of the events: the rest waits for the target."""
        if turn.quiet:
            return Taken([Done()] * len(events))
        epoch = turn.epoch
        waiting: Unavailable | None = None
        try:
            await self._send(await self._shape(events, epoch), epoch)
        except Unavailable as error:
            waiting = error
            self.counters.retries += 1
            self.counters.last_error = str(error)
        results: list[Done | Failed] = []
        for event in events:
            if (epoch, event.id) not in self._outcomes:
                break
            letter = self._outcomes[epoch, event.id]
            if letter is None:
                results.append(Done())
            else:
                # Forgotten at once: should the event come again, it is because somebody wants it retried.
                del self._outcomes[epoch, event.id]
                results.append(Failed(letter, _retryable(letter)))
        self._trim()
        return Taken(results, waiting)

    def settled(self, events: Sequence[Event], turn: Turn) -> None:
        """As `Flow.settled`: should these come again, somebody wants them to be sent again."""
        for event in events:
            self._outcomes.pop((turn.epoch, event.id), None)

    async def _shape(self, events: Sequence[Event], epoch: int) -> deque[_Line]:
        """What is to be sent, by device and in order. What needs no sending is settled as far as that goes."""
        fresh = [event for event in events if (epoch, event.id) not in self._outcomes]
        outcomes = map(_final, await self._invoker.invoke(self._function, fresh) if fresh else [])
        lines: dict[str, _Line] = {}
        for event in events:
            known = (epoch, event.id) in self._outcomes
            outcome = None if known else next(outcomes, None)
            if outcome is None and not known:
                break  # There was no room for more.
            lines.setdefault(event.device, _Line()).events.append((event, outcome))
        return deque([line for line in lines.values() if self._next(line, epoch) is not None])

    def _next(self, line: _Line, epoch: int) -> tuple[Event, Any] | None:
        """The next event to be sent and its value; settles those before it. None if there is none for now."""
        while line.events:
            event, outcome = line.events[0]
            if (epoch, event.id) not in self._outcomes:
                if isinstance(outcome, Failure):
                    self.counters.failed += 1
                    self._settle(event, epoch, self._letter(event, outcome.reason, outcome.detail, 1))
                elif outcome is not None and outcome.value is not None:
                    return None if line.blocked else (event, outcome.value)
                else:
                    self.counters.withheld += 1
                    self._settle(event, epoch, None)
            letter = self._outcomes[epoch, event.id]
            line.blocked = line.blocked or (letter is not None and self._blocks(letter))
            line.events.popleft()
        return None

    def _blocks(self, letter: DeadLetter) -> bool:
        """Whether the runner may come back with the event before those behind it."""
        return self.policy.on_error != "skip" or (self.policy.retries > 0 and _retryable(letter))

    async def _send(self, lines: deque[_Line], epoch: int) -> None:
        """Deliver. Who first finds the target unavailable stops all before their next delivery; raises its error."""
        stop: list[Unavailable] = []

        async def work() -> None:
            while lines and not stop:
                line = lines.popleft()
                while not stop and (delivery := self._next(line, epoch)) is not None:
                    try:
                        await self._deliver(*delivery, epoch)
                    except Unavailable as error:
                        stop.append(error)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(PARALLEL, len(lines))):
                group.create_task(work())
        if stop:
            raise stop[0]

    async def _deliver(self, event: Event, value: Any, epoch: int) -> None:
        key = (epoch, event.id)
        attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
        try:
            await self._target.send(event, value)
        except Rejected as error:
            self.counters.rejected += 1
            self._settle(event, epoch, self._letter(event, "rejected", str(error), attempt))
        else:
            self.counters.delivered += 1
            self.counters.repeated += attempt > 1
            self._settle(event, epoch, None)

    def _settle(self, event: Event, epoch: int, letter: DeadLetter | None) -> None:
        self._outcomes[epoch, event.id] = letter
        self._attempts.pop((epoch, event.id), None)

    def _letter(self, event: Event, reason: str, detail: str, attempts: int) -> DeadLetter:
        self.counters.last_error = detail
        return DeadLetter(
            flow=self.name,
            reason=reason,
            detail=detail,
            time=self._clock.now(),
            device=event.device,
            event=event,
            version=self._function.version,
            attempts=attempts,
        )

    def _trim(self) -> None:
        for memory in (self._outcomes, self._attempts):
            while len(memory) > MEMORY:
                del memory[next(iter(memory))]  # the oldest


def _final(outcome: Outcome) -> Success | Failure:
    """A route makes no requests of its own: one that tries has failed."""
    return Failure("error", "a route cannot make requests") if isinstance(outcome, Unanswered) else outcome


def _retryable(letter: DeadLetter) -> bool:
    """What the target has refused for good is not sent to it again."""
    return letter.reason != "rejected"
