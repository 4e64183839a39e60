"""All executors, and which of them runs what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_runtime.events import Event
from edge_runtime.flows.ports import Given, Outcome, Unavailable
from edge_runtime.functions.lane import Lane
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.sandbox.protocol import Loaded
from edge_runtime.manifest import FunctionRef

Key = tuple[str, str]
"""An app and its version."""


class Placed(msgspec.Struct, frozen=True):
    """Where an app's version runs."""

    lane: int
    number: int
    limits: Limits


class Pool:
    """All executors; apps are spread over them."""

    def __init__(self, compiled: Path, executors: int, stock: int) -> None:
        self.lanes = [Lane(compiled, stock) for _ in range(executors)]
        self._placed: dict[Key, Placed] = {}
        self._numbers = 0

    async def start(self) -> None:
        """Start all executors. Raises `EdgeError`."""
        results = await asyncio.gather(*(lane.start() for lane in self.lanes), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                await self.stop()
                raise result

    async def stop(self) -> None:
        """End all executors."""
        await asyncio.gather(*(lane.stop() for lane in self.lanes))

    async def try_load(self, source: str, limits: Limits) -> Loaded:
        """Load an app to see whether it loads, and forget it. Raises `LoadFailed` or `Unavailable`."""
        lane = min(self.lanes, key=lambda lane: (lane.waiting, lane.apps))
        self._numbers += 1
        number = self._numbers
        loaded = await lane.load(number, source, limits)
        await lane.unload(number)
        return loaded

    async def load(self, key: Key, source: str, limits: Limits) -> Loaded | None:
        """Load an app's version into the executor with the fewest; None where it is loaded already."""
        if key in self._placed:
            return None
        index = min(range(len(self.lanes)), key=lambda index: self.lanes[index].apps)
        self._numbers += 1
        placed = Placed(index, self._numbers, limits)
        loaded = await self.lanes[index].load(placed.number, source, limits)
        self._placed[key] = placed
        return loaded

    async def unload(self, key: Key) -> None:
        """Forget an app's version; nothing where it is not loaded."""
        placed = self._placed.pop(key, None)
        if placed is not None:
            await self.lanes[placed.lane].unload(placed.number)

    async def run(self, function: FunctionRef, events: Sequence[Event], given: Given) -> list[Outcome]:
        """Run a function over events. Raises `Unavailable`."""
        placed = self._placed.get((function.app, function.version))
        if placed is None:
            raise Unavailable(f"version {function.version} of the app '{function.app}' is not loaded")
        lane = self.lanes[placed.lane]
        if lane.problem:
            raise Unavailable(f"the sandbox does not start: {lane.problem}")
        return await lane.run(placed.number, function.name, events, given, placed.limits)
