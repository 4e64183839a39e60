"""All executors, and which of them run what: an app's version has as many instances as it needs just now, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.events import Event
from edge_runtime.flows.ports import Given, Outcome, Unavailable
from edge_runtime.functions.budget import Budget
from edge_runtime.functions.engines import Engine
from edge_runtime.functions.jobs import LoadFailed
from edge_runtime.functions.lane import Lane
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.sandbox.protocol import Loaded
from edge_runtime.functions.stats import Recorder
from edge_runtime.manifest import FunctionRef

LINGER = 10_000_000
"""Microseconds that an executor outlives its last use: an app is checked first and loaded a moment later, and the start
of an executor takes longer than both."""

Key = tuple[str, str]
"""An app and its version."""


class Instance:
    """An app loaded in one executor."""

    def __init__(self, lane: Lane, number: int) -> None:
        self.lane = lane
        self.number = number
        self.running = 0
        """Calls that were handed to it and have not ended."""


class Placed:
    """An app's version: what is loaded, and where it runs."""

    def __init__(self, key: Key, engine: Engine, source: str, limits: Limits, now: int) -> None:
        self.key = key
        self.engine = engine
        self.source = source
        self.limits = limits
        self.budget = Budget(limits.cpu, now)
        self.instances: list[Instance] = []
        self.changing = asyncio.Lock()
        """Held while instances are added or taken away."""
        self.last_call = now
        self.busy = 0
        """Microseconds that its instances have had something to do, added up."""
        self._since = now

    @property
    def running(self) -> int:
        """Calls that have not ended."""
        return sum(instance.running for instance in self.instances)

    def called(self, now: int) -> None:
        """A call begins or ends: bring `busy` and `last_call` up to date before `running` changes."""
        self.busy += (now - self._since) * sum(instance.running > 0 for instance in self.instances)
        self._since = self.last_call = now


class Load(msgspec.Struct, frozen=True):
    """How an app's version is doing. Moments and durations in microseconds of the monotonic clock."""

    instances: int
    waiting: int
    """Calls beyond those that its instances are at."""
    busy: int
    """Time that its instances have had something to do since it was loaded, added up."""
    last_call: int
    held: int
    """How long it was held back, because it was beyond its share of the processor."""


class Pool:
    """All executors; apps are spread over them.

    Those of the `first` engine run from the start. Any other's are started with its first app, and end soon after its
    last; while it has apps that rest without an instance, one stays, for them to wake fast. An app's version has at
    most one instance in each of `executors`. One that has none gets one with its next call.
    """

    def __init__(self, first: Engine, executors: int, clock: Clock, recorder: Recorder) -> None:
        self._first = first
        self._executors = executors
        self._clock = clock
        self._recorder = recorder
        self._crews: dict[Engine, list[Lane]] = {first: [Lane(first, clock) for _ in range(executors)]}
        self._hiring = asyncio.Lock()
        self._lingering: set[asyncio.Task[None]] = set()
        self._placed: dict[Key, Placed] = {}
        self._numbers = 0
        self._stopped = False

    @property
    def lanes(self) -> list[Lane]:
        """The executors, those of the first engine first."""
        return [lane for crew in self._crews.values() for lane in crew]

    async def start(self) -> None:
        """Start the executors of the first engine. Raises `EdgeError`."""
        results = await asyncio.gather(*(lane.start() for lane in self.lanes), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                await self.stop()
                raise result

    async def stop(self) -> None:
        """End all executors."""
        self._stopped = True
        for task in self._lingering:
            task.cancel()
        for (app, _), placed in self._placed.items():
            self._recorder.stopped(app, "on_demand", len(placed.instances))
        await asyncio.gather(*(lane.stop() for lane in self.lanes))

    async def try_load(self, engine: Engine, source: str, limits: Limits) -> Loaded:
        """Load an app to see whether it loads, and forget it. Raises `LoadFailed`, `Unavailable` or `EdgeError`."""
        lane = await self._enter(engine)
        try:
            self._numbers += 1
            number = self._numbers
            loaded = await lane.load(number, source, limits)
            await lane.unload(number)
            return loaded
        finally:
            await self._leave(lane)

    async def load(self, key: Key, engine: Engine, source: str, limits: Limits) -> Loaded | None:
        """Give an app's version its first instance; None where it is here already. Raises as `try_load` does."""
        if key in self._placed:
            return None
        placed = Placed(key, engine, source, limits, self._clock.monotonic())
        async with placed.changing:
            loaded = await self._add(placed)
        if key in self._placed:  # somebody else has loaded it meanwhile
            await self._end(placed.instances.pop())
            return None
        self._placed[key] = placed
        return loaded

    async def unload(self, key: Key) -> None:
        """Forget an app's version; nothing where it is not loaded."""
        placed = self._placed.pop(key, None)
        if placed is not None:
            async with placed.changing:
                self._recorder.stopped(key[0], "on_demand", len(placed.instances))
                while placed.instances:
                    await self._end(placed.instances.pop())
            self._thin_out(placed.engine)

    async def scale(self, key: Key, instances: int) -> int:
        """Give an app's version so many instances, as far as executors go and as its running calls allow; answers how
        many it has. Raises `Unavailable` or `EdgeError`."""
        placed = self._placed.get(key)
        if placed is None:
            return 0
        async with placed.changing:
            while len(placed.instances) < min(instances, self._executors) and key in self._placed:
                await self._add_again(placed)
            while len(placed.instances) > instances:
                idle = next((one for one in reversed(placed.instances) if not one.running), None)
                if idle is None:
                    break
                placed.instances.remove(idle)
                self._recorder.stopped(key[0], "implicit", 1)
                await self._end(idle)
            return len(placed.instances)

    def load_of(self, key: Key) -> Load | None:
        """How an app's version is doing; None where it is not loaded."""
        placed = self._placed.get(key)
        if placed is None:
            return None
        now = self._clock.monotonic()
        if placed.running:
            placed.called(now)
        waiting = sum(max(0, one.running - 1) for one in placed.instances)
        return Load(len(placed.instances), waiting, placed.busy, placed.last_call, placed.budget.held(now))

    async def run(self, function: FunctionRef, events: Sequence[Event], given: Given) -> list[Outcome]:
        """Run a function over events, in the instance that has the least to do. Raises `Unavailable`."""
        placed = self._placed.get((function.app, function.version))
        if placed is None:
            raise Unavailable(f"version {function.version} of the app '{function.app}' is not loaded")
        if not placed.instances:
            await self._wake(placed)
        instance = min(placed.instances, key=lambda one: (bool(one.lane.problem), one.running, one.lane.waiting))
        lane = instance.lane
        if lane.problem:
            raise Unavailable(f"the sandbox does not start: {lane.problem}")
        placed.called(self._clock.monotonic())
        instance.running += 1
        try:
            return await lane.run(instance.number, function.name, events, given, placed.limits, placed.budget)
        finally:
            placed.called(self._clock.monotonic())
            instance.running -= 1

    async def _wake(self, placed: Placed) -> None:
        """The first instance of a version that had been left without any."""
        async with placed.changing:
            if placed.instances:
                return
            if placed.key not in self._placed:
                raise Unavailable("the app's version was unloaded")
            await self._add_again(placed)
            placed.called(self._clock.monotonic())

    async def _add_again(self, placed: Placed) -> None:
        """One instance more of what has loaded before."""
        try:
            await self._add(placed)
        except LoadFailed as failure:
            why = failure.problem.decode(errors="replace") or str(failure)
            raise Unavailable(f"the app no longer loads: {why}") from None

    async def _add(self, placed: Placed) -> Loaded:
        """One instance more. `placed.changing` is held."""
        started = self._clock.monotonic()
        lane = await self._enter(placed.engine, [one.lane for one in placed.instances])
        self._numbers += 1
        number = self._numbers
        try:
            loaded = await lane.load(number, placed.source, placed.limits)
        except BaseException:
            await self._leave(lane)
            raise
        placed.instances.append(Instance(lane, number))
        self._recorder.loaded(self._clock.monotonic() - started)
        return loaded

    async def _end(self, instance: Instance) -> None:
        try:
            await instance.lane.unload(instance.number)
        finally:
            await self._leave(instance.lane)

    async def _enter(self, engine: Engine, without: Collection[Lane] = ()) -> Lane:
        """An executor that takes one instance more, started if need be. To be left with `_leave`."""
        lane = self._emptiest(engine, without)
        if lane is None:
            async with self._hiring:
                lane = self._emptiest(engine, without) or await self._hire(engine)  # somebody may have started one
        lane.tenants += 1
        return lane

    def _emptiest(self, engine: Engine, without: Collection[Lane]) -> Lane | None:
        crew = [lane for lane in self._crews.get(engine, ()) if lane not in without] if engine.shared else []
        return min(crew, key=lambda lane: (bool(lane.problem), lane.tenants, lane.waiting), default=None)

    async def _hire(self, engine: Engine) -> Lane:
        lane = Lane(engine, self._clock)
        try:
            await lane.start()
            if self._stopped:
                raise Unavailable("the function platform is stopping")
        except BaseException:
            await lane.stop()
            raise
        self._crews.setdefault(engine, []).append(lane)
        return lane

    async def _leave(self, lane: Lane) -> None:
        """One instance less."""
        lane.tenants -= 1
        if not lane.engine.shared:
            await self._dismiss(lane)
        elif not lane.tenants:
            self._thin_out(lane.engine)

    def _thin_out(self, engine: Engine) -> None:
        """End executors that nobody needs, after a while."""
        if engine != self._first and not self._stopped:
            task = asyncio.get_running_loop().create_task(self._thin_out_later(engine))
            self._lingering.add(task)
            task.add_done_callback(self._lingering.discard)

    async def _thin_out_later(self, engine: Engine) -> None:
        await self._clock.sleep(LINGER)
        keep = int(any(placed.engine == engine for placed in self._placed.values()))
        idle = [lane for lane in self._crews.get(engine, ()) if not lane.tenants]
        in_use = len(self._crews.get(engine, ())) - len(idle)
        for lane in idle[max(0, keep - in_use) :]:
            await self._dismiss(lane)

    async def _dismiss(self, lane: Lane) -> None:
        crew = self._crews.get(lane.engine, [])
        if lane.tenants or lane not in crew:
            return  # it is needed again, or somebody has ended it
        crew.remove(lane)
        if not crew:
            del self._crews[lane.engine]
        await lane.stop()
