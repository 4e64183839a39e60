"""All flows of the gateway: installed, replaced and removed while events keep coming."""

from __future__ import annotations

import asyncio
import random

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.flows.feed import Feed
from edge_runtime.flows.flow import Flow
from edge_runtime.flows.runner import Runner
from edge_runtime.journal.interface import Journal, Tables
from edge_runtime.journal.records import FlowState

SAVE_EVERY = 1_000_000
"""Progress that came with no effects is committed at least this often, microseconds."""
PATIENCE = 2_000_000
"""How long a batch may go on when its flow is replaced or the gateway stops, microseconds."""


class Flows:
    """Owns the feed and the runners. `tables` is the journal's state when the gateway starts."""

    def __init__(self, journal: Journal, tables: Tables, clock: Clock, rng: random.Random) -> None:
        self._journal = journal
        self._clock = clock
        self._rng = rng
        self._states = dict(tables.flows)
        self.feed = Feed(journal, tables.head)
        self.runners: dict[str, Runner] = {}

    async def install(self, flow: Flow, *, resume: bool = False) -> None:
        """Start a flow, or let it take over from the one of the same name, where that one stands.

        `resume`: nobody else can hold this flow (the gateway has just started), so its generation goes on.
        A flow that is new begins where it says.
        """
        old = self.runners.pop(flow.name, None)
        if old is not None:
            await old.stop(PATIENCE)
            self._states[flow.name] = msgspec.structs.replace(old.state, cursor=old.cursor)
        state = self._states.get(flow.name)
        if state is None or not resume:
            if state is None:
                cursor = -1 if flow.start == "earliest" else self.feed.head
                state = FlowState(flow.name, 1, 0, cursor)
            else:
                state = msgspec.structs.replace(state, generation=state.generation + 1)
            await self._journal.append([state])
            self._states[flow.name] = state
        runner = Runner(flow, state, journal=self._journal, feed=self.feed, clock=self._clock, rng=self._rng)
        self.runners[flow.name] = runner
        runner.start()

    async def remove(self, name: str) -> None:
        """Stop a flow; its progress is kept, should it come back."""
        runner = self.runners.pop(name, None)
        if runner is not None:
            await runner.stop(PATIENCE)
            self._states[name] = msgspec.structs.replace(runner.state, cursor=runner.cursor)

    async def run(self) -> None:
        """Commit put-off progress now and then, until cancelled."""
        while True:
            await self._clock.sleep(SAVE_EVERY)
            for runner in list(self.runners.values()):
                await runner.save()

    async def stop(self) -> None:
        """Stop every flow; batches at hand may end."""
        await asyncio.gather(*(self.remove(name) for name in list(self.runners)))
