"""The control plane: what an operator can do to any flow, and how the flows stand."""

from __future__ import annotations

import asyncio

import msgspec

from cloud_bridge.route import RouteFlow
from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError
from edge_runtime.events import Event
from edge_runtime.flows.flows import Choice, Flows
from edge_runtime.flows.replay import Replay, Replayed
from edge_runtime.flows.runner import Runner
from edge_runtime.flows.stats import percentile
from edge_runtime.flows.timeline import first_dated, offset_at
from edge_runtime.journal.interface import Journal
from edge_runtime.planes.messages import FlowRow, RouteCounts
from edge_runtime.planes.moments import EARLIEST, Moment, shown
from edge_runtime.streams.flow import StreamFlow

MAX_REPLAYED = 100_000
"""Events of one dry run."""
LOOK_AHEAD = 4
"""Pages that are read to find the event a flow waits at."""


class Rewind(msgspec.Struct, forbid_unknown_fields=True):
    """Take again what was taken, from a moment on."""

    start: Moment
    send: bool = False
    """Carry out commands and deliveries again, instead of withholding them until the flow has caught up."""
    state: Choice | None = None
    """What becomes of what the flow keeps: to be said of flows that keep something."""


class Rewound(msgspec.Struct):
    """Where a flow goes on."""

    flow: str
    epoch: int
    first: int
    """The first record that it takes again."""
    head: int
    """The newest record."""
    send: bool


class ReplayRequest(msgspec.Struct, forbid_unknown_fields=True):
    """See what a flow's live version would do now with events of the past."""

    start: Moment
    limit: int = 10_000


class FlowControl:
    """Verbs on flows, by name. All raise NotFound, which names the nearest flow, for one that does not exist."""

    def __init__(self, flows: Flows, journal: Journal, clock: Clock) -> None:
        self._flows = flows
        self._journal = journal
        self._clock = clock
        self._replaying = asyncio.Lock()
        self._waits: dict[str, tuple[int, int]] = {}
        """For each flow that is behind: where it stands, and when the next event arrived that it wants."""

    def rows(self) -> list[FlowRow]:
        """All flows, with what is known of them at once."""
        return [self._row(name) for name in sorted(self._flows.runners)]

    async def all(self) -> list[FlowRow]:
        """All flows; for those that are behind, the journal is asked how long."""
        for name, runner in list(self._flows.runners.items()):
            await self._look_ahead(name, runner)
        return self.rows()

    async def pause(self, flow: str) -> FlowRow:
        """Take no more events until `resume`, over restarts too."""
        await self._flows.pause(flow)
        return self._row(flow)

    async def resume(self, flow: str) -> FlowRow:
        """Go on."""
        await self._flows.resume(flow)
        return self._row(flow)

    async def scale(self, flow: str, lanes: int) -> FlowRow:
        """Let so many batches be under way at a time."""
        await self._flows.scale(flow, lanes)
        return self._row(flow)

    async def limit(self, flow: str, rate: float | None) -> FlowRow:
        """Let at most so many events a second pass; None for no limit."""
        await self._flows.limit(flow, rate)
        return self._row(flow)

    async def release(self, flow: str, key: str) -> FlowRow:
        """Try a held partition key again."""
        self._flows.release(flow, key)
        return self._row(flow)

    async def rewind(self, flow: str, request: Rewind) -> Rewound:
        """Go back to a moment, in a new epoch."""
        runner = self._flows.find(flow)
        first = await self.offset(request.start)
        stands = runner.position().lowest
        if first > stands + 1:
            raise EdgeError(
                f"{flow} stands at record {stands}: from {first} on, it would skip what it has not dealt with",
                hint=f"It goes on by itself (edge flow list says what it waits for); or rewind it to {stands + 1}.",
            )
        state = await self._flows.rewind(flow, first - 1, quiet=not request.send, state=request.state)
        return Rewound(flow, state.epoch, first, self._flows.feed.head, request.send)

    async def bootstrap(self, flow: str) -> Rewound:
        """Take everything that is there, quietly and beginning with no state, and then go live."""
        return await self.rewind(flow, Rewind(EARLIEST, state="reset"))

    async def replay(self, flow: str, request: ReplayRequest) -> Replayed:
        """Run the live version over the past without any effect, and compare with the journal."""
        runner = self._flows.find(flow)
        if isinstance(runner.flow, RouteFlow):
            raise EdgeError(
                f"'{flow}' is a route: it cannot be run without sending",
                hint="Only functions can be replayed dry; try a route's function with edge.testing.",
            )
        if not 1 <= request.limit <= MAX_REPLAYED:
            raise EdgeError(f"a dry run takes 1 to {MAX_REPLAYED} events")
        async with self._replaying:
            first, head = await self.offset(request.start), self._flows.feed.head
            replay = Replay(runner.flow, runner.state.epoch, self._journal, self._clock, limit=request.limit)
            return await replay.run(first, head)

    async def offset(self, start: Moment) -> int:
        """The first record of a moment. Raises EdgeError for one before the oldest record or behind the newest."""
        oldest, head = self._flows.first, self._flows.feed.head
        if start.time is None:
            if start.offset is None:
                return oldest
            if start.offset < oldest:
                raise await self._too_early(f"record {start.offset}")
            if start.offset > head + 1:
                raise EdgeError(f"there is no record {start.offset} yet; the newest is {head}")
            return start.offset
        offset = await offset_at(self._journal, start.time, oldest, head)
        if offset == oldest and oldest > 0:
            dated = await first_dated(self._journal, oldest, head)
            if dated is not None and dated[1] > start.time:
                raise await self._too_early(shown(start.time))
        return offset

    async def _too_early(self, what: str) -> EdgeError:
        oldest = self._flows.first
        dated = await first_dated(self._journal, oldest, self._flows.feed.head)
        when = "" if dated is None else f", of {shown(dated[1])}"
        return EdgeError(
            f"{what} is not kept any more; the oldest is record {oldest}{when}",
            hint=f"The earliest possible is --to {oldest}, or --since earliest.",
        )

    async def _look_ahead(self, name: str, runner: Runner) -> None:
        at = runner.position().lowest
        if not runner.lag or runner.waits is not None:
            self._waits.pop(name, None)
        elif self._waits.get(name, (None, 0))[0] != at:
            self._waits[name] = (at, await self._arrival(runner, at))

    async def _arrival(self, runner: Runner, after: int) -> int:
        """When the next event arrived that the flow wants, as far as is looked ahead; 0 if there is none."""
        for _ in range(LOOK_AHEAD):
            page = await self._journal.read(after, 500)
            for stored in page:
                if isinstance(stored.record, Event) and runner.flow.wants(stored.record):
                    return stored.record.received
            if not page:
                break
            after = page[-1].offset
        return 0

    def _lag_us(self, name: str, runner: Runner) -> int:
        waits = runner.waits
        arrived = self._waits.get(name, (0, 0))[1] if waits is None else waits.received
        return max(0, self._clock.now() - arrived) if arrived and runner.lag else 0

    def _row(self, name: str) -> FlowRow:
        runner = self._flows.find(name)
        stats, at = runner.stats, runner.position()
        route = None
        if isinstance(runner.flow, RouteFlow):
            route = msgspec.convert(runner.flow.counters, RouteCounts, from_attributes=True)
        results = dict(runner.flow.counts) if isinstance(runner.flow, StreamFlow) else None
        return FlowRow(
            flow=name,
            type="route" if route is not None else "function" if results is None else "stream",
            state=_state(runner),
            generation=runner.state.generation,
            epoch=runner.state.epoch,
            cursor=at.cursor,
            lag=runner.lag,
            lag_us=self._lag_us(name, runner),
            rate=round(stats.rate, 2),
            events=stats.events,
            effects=stats.effects,
            dead_letters=stats.dead_letters,
            p50=percentile(stats.take_micros, 0.5),
            p99=percentile(stats.take_micros, 0.99),
            retries=stats.retries,
            waiting=stats.waiting,
            paused=runner.state.paused,
            held=runner.held,
            lanes=runner.state.lanes,
            rate_limit=runner.state.rate,
            quiet_until=runner.state.quiet_until if at.lowest < runner.state.quiet_until else -1,
            route=route,
            results=results,
        )


def _state(runner: Runner) -> str:
    if runner.halted:
        return "stopped"
    if runner.state.paused:
        return "paused"
    return "waiting" if runner.stats.waiting else "running"
