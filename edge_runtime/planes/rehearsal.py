"""Versions of apps tried on the past: before they go live, or to see what they would change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from edge_runtime import expr
from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError
from edge_runtime.events import Event, Origin
from edge_runtime.flows.flow import Done, Failed, Flow, Policy, Taken, Turn
from edge_runtime.flows.flows import Flows
from edge_runtime.flows.ports import Failure, Invoker, Success, Unavailable
from edge_runtime.flows.replay import Absent, Replay, Replayed, first_of_last
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import DeadLetter
from edge_runtime.manifest import FunctionRef, Manifest, Route
from edge_runtime.planes.moments import Moment

MAX_EVENTS = 100_000
"""Events that one dry run sends through a function."""


class AppReplay(msgspec.Struct, forbid_unknown_fields=True):
    """Run a version of an app over the past, without any effect.

    Without `version` it is the live one; without `against`, another version, the journal says what was done.
    """

    start: Moment
    version: str = ""
    against: str = ""
    limit: int = 10_000


class AppReplayed(msgspec.Struct):
    """What came of it."""

    app: str
    version: str
    against: str
    """Empty for the journal."""
    functions: list[Replayed]


class RouteOnTrial:
    """A route that shapes and does not send. Implements `Flow`.

    With `told`, what it would send counts as its effects; the journal does not know what was sent.
    """

    def __init__(self, app: str, version: str, trigger: Route, invoker: Invoker, clock: Clock, told: bool) -> None:
        self.name = f"{app}.{trigger.name}"
        self.start = trigger.start
        self.policy = Policy(trigger.retries, trigger.on_error)
        self._trigger = trigger
        self._where = expr.compile(trigger.where)
        self._function = FunctionRef(app, version, trigger.name)
        self._invoker = invoker
        self._clock = clock
        self._told = told

    def wants(self, event: Event) -> bool:
        """As the route does."""
        return event.kind == self._trigger.kind and self._where.matches(event.data)

    def key(self, event: Event) -> str:
        """As the route has it."""
        return event.device

    async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
        """Run the function."""
        try:
            outcomes = await self._invoker.invoke(self._function, events)
        except Unavailable as error:
            return Taken([], error)
        results: list[Done | Failed] = []
        for event, outcome in zip(events, outcomes, strict=False):
            match outcome:
                case Failure(reason, detail):
                    letter = DeadLetter(self.name, reason, detail, self._clock.now(), event.device, event)
                    results.append(Failed(letter))
                case Success(value=value) if self._told and value is not None:
                    origin = Origin(self.name, turn.epoch, event.id, 0)
                    sent = f"-> {self._trigger.to}"
                    results.append(Done([Event(event.device, b"", 0, sent, event.time, 0, value, 0, origin)]))
                case _:
                    results.append(Done())
        return Taken(results)

    def settled(self, events: Sequence[Event], turn: Turn) -> None:
        """Nothing to forget."""


class Rehearsal:
    """Dry runs, one at a time."""

    def __init__(self, flows: Flows, journal: Journal, clock: Clock, invoker: Invoker) -> None:
        self._flows = flows
        self._journal = journal
        self._clock = clock
        self._invoker = invoker
        self._busy = asyncio.Lock()

    async def over_last(self, manifest: Manifest, version: str, flows: Sequence[Flow], count: int) -> list[Replayed]:
        """Each function of a version over the last `count` events that it wants."""
        _check(count)
        first, head = self._flows.first, self._flows.feed.head
        found = []
        async with self._busy:
            for flow in self._on_trial(manifest, version, flows, told=False).values():
                begin = await first_of_last(flow, self._journal, count, first, head)
                found.append(await self._replay(flow, count).run(begin, head))
        return found

    async def over_range(
        self,
        manifest: Manifest,
        version: str,
        flows: Sequence[Flow],
        other: tuple[Manifest, str, Sequence[Flow]] | None,
        first: int,
        limit: int,
    ) -> list[Replayed]:
        """Each function of a version over what stands from `first` on, held against `other` or the journal."""
        _check(limit)
        head = self._flows.feed.head
        actors = self._on_trial(manifest, version, flows, told=other is not None)
        others = self._on_trial(*other, told=True) if other is not None else {}
        found = []
        async with self._busy:
            for name in dict.fromkeys([*actors, *others]):
                against = others.get(name, Absent(name)) if other is not None else None
                found.append(await self._replay(actors.get(name, Absent(name)), limit, against).run(first, head))
        return found

    def _replay(self, flow: Flow, limit: int, against: Flow | None = None) -> Replay:
        runner = self._flows.runners.get(flow.name)
        epoch = 0 if runner is None else runner.state.epoch
        return Replay(flow, epoch, self._journal, self._clock, limit=limit, against=against)

    def _on_trial(self, manifest: Manifest, version: str, flows: Sequence[Flow], *, told: bool) -> Mapping[str, Flow]:
        """The flows by name; routes do not send."""
        routes = {
            f"{manifest.app}.{trigger.name}": trigger for trigger in manifest.triggers if isinstance(trigger, Route)
        }
        return {
            flow.name: RouteOnTrial(manifest.app, version, routes[flow.name], self._invoker, self._clock, told)
            if flow.name in routes
            else flow
            for flow in flows
        }


def _check(count: int) -> None:
    if not 1 <= count <= MAX_EVENTS:
        raise EdgeError(f"a dry run takes 1 to {MAX_EVENTS} events")
