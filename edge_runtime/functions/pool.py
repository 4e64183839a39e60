"""All executors, and which of them runs what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from edge_runtime.events import Event
from edge_runtime.flows.ports import Given, Outcome, Unavailable
from edge_runtime.functions.engines import Engine
from edge_runtime.functions.lane import Lane
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.sandbox.protocol import Loaded
from edge_runtime.manifest import FunctionRef

Key = tuple[str, str]
"""An app and its version."""


class Placed(msgspec.Struct, frozen=True):
    """Where an app's version runs."""

    lane: Lane
    number: int
    limits: Limits


class Pool:
    """All executors; apps are spread over them.

    Those of the `first` engine run from the start. Any other's are started with its first app, and end with its last.
    """

    def __init__(self, first: Engine, executors: int) -> None:
        self._first = first
        self._crews: dict[Engine, list[Lane]] = {first: [Lane(first) for _ in range(executors)]}
        self._hiring = asyncio.Lock()
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
        """Load an app's version into the executor with the fewest; None where it is loaded already.

        Raises as `try_load` does.
        """
        if key in self._placed:
            return None
        lane = await self._enter(engine)
        self._numbers += 1
        placed = Placed(lane, self._numbers, limits)
        try:
            loaded = await lane.load(placed.number, source, limits)
        except BaseException:
            await self._leave(lane)
            raise
        self._placed[key] = placed
        return loaded

    async def unload(self, key: Key) -> None:
        """Forget an app's version; nothing where it is not loaded."""
        placed = self._placed.pop(key, None)
        if placed is not None:
            try:
                await placed.lane.unload(placed.number)
            finally:
                await self._leave(placed.lane)

    async def run(self, function: FunctionRef, events: Sequence[Event], given: Given) -> list[Outcome]:
        """Run a function over events. Raises `Unavailable`."""
        placed = self._placed.get((function.app, function.version))
        if placed is None:
            raise Unavailable(f"version {function.version} of the app '{function.app}' is not loaded")
        if placed.lane.problem:
            raise Unavailable(f"the sandbox does not start: {placed.lane.problem}")
        return await placed.lane.run(placed.number, function.name, events, given, placed.limits)

    async def _enter(self, engine: Engine) -> Lane:
        """The executor that takes one instance more, started where it is not there yet. To be left with `_leave`."""
        lane = self._emptiest(engine)
        if lane is None:
            async with self._hiring:
                lane = self._emptiest(engine) or await self._hire(engine)  # somebody else may have started one
        lane.tenants += 1
        return lane

    def _emptiest(self, engine: Engine) -> Lane | None:
        crew = self._crews.get(engine)
        return min(crew, key=lambda lane: (lane.tenants, lane.waiting)) if crew and engine.shared else None

    async def _hire(self, engine: Engine) -> Lane:
        lane = Lane(engine)
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
        """One instance less; an executor that was started for instances ends with its last."""
        lane.tenants -= 1
        if lane.tenants or lane.engine == self._first:
            return
        crew = self._crews[lane.engine]
        crew.remove(lane)
        if not crew:
            del self._crews[lane.engine]
        await lane.stop()
