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
from edge_runtime.flows.ports import Failure, Invoker, Rejected, Target, Unavailable
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


class _Delivery(msgspec.Struct):
    event: Event
    value: Any


class RouteFlow:
    """One route of one version of an app. Implements `Flow`.

    Order per device is kept: while one event of a device is not delivered, none that follows it is sent. Different
    devices go side by side, so events behind the first undelivered one may have arrived already; they are remembered
    here and not sent again, unless the process ends in between: then they are, under the same id.
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
        fresh = [event for event in events if (epoch, event.id) not in self._outcomes]
        waiting: Unavailable | None = None
        if fresh:
            try:
                deliveries = await self._shape(fresh, epoch)
                await self._send(deliveries, epoch)
            except Unavailable as error:
                waiting = error
                self.counters.retries += 1
                self.counters.last_error = str(error)
        results: list[Done | Failed] = []
        for event in events:
            if (epoch, event.id) not in self._outcomes:
                break
            # Forgotten as soon as handed over: should the event come again, it is because somebody wants it retried.
            letter = self._outcomes.pop((epoch, event.id))
            # What the target has refused for good is not sent to it again.
            results.append(Done() if letter is None else Failed(letter, retry=letter.reason != "rejected"))
        self._trim()
        return Taken(results, waiting)

    async def _shape(self, events: list[Event], epoch: int) -> deque[deque[_Delivery]]:
        """What is to be sent, by device and in order; events with nothing to send are settled at once."""
        outcomes = await self._invoker.invoke(self._function, events)
        devices: dict[str, deque[_Delivery]] = {}
        for event, outcome in zip(events, outcomes, strict=True):
            if isinstance(outcome, Failure):
                self.counters.failed += 1
                self._settle(event, epoch, self._letter(event, outcome.reason, outcome.detail, 1))
            elif outcome.value is None:
                self.counters.withheld += 1
                self._settle(event, epoch, None)
            else:
                devices.setdefault(event.device, deque()).append(_Delivery(event, outcome.value))
        return deque(devices.values())

    async def _send(self, devices: deque[deque[_Delivery]], epoch: int) -> None:
        """Deliver. Who first finds the target unavailable stops all before their next delivery; raises its error."""
        stop: list[Unavailable] = []

        async def work() -> None:
            while devices and not stop:
                queue = devices.popleft()
                while queue and not stop:
                    try:
                        await self._deliver(queue[0], epoch)
                    except Unavailable as error:
                        stop.append(error)
                    else:
                        queue.popleft()

        async with asyncio.TaskGroup() as group:
            for _ in range(min(PARALLEL, len(devices))):
                group.create_task(work())
        if stop:
            raise stop[0]

    async def _deliver(self, delivery: _Delivery, epoch: int) -> None:
        event = delivery.event
        key = (epoch, event.id)
        attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
        try:
            await self._target.send(event, delivery.value)
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
