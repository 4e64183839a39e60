"""Takes one flow through the journal: reads, lets the flow work, commits its effects together with its progress."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

from edge_runtime.clock import Clock
from edge_runtime.errors import StaleGeneration, StorageError
from edge_runtime.events import Event
from edge_runtime.flows.feed import Feed
from edge_runtime.flows.flow import Flow, Taken
from edge_runtime.flows.stats import FlowStats
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import FlowState, Progress, Record, Stored

BATCH = 256
"""Records taken at a time: enough to pay for a call into the sandbox, few enough to wait for."""
LAZY_RECORDS = 10_000
"""Progress without effects is committed after so many records, or at the next `save`."""
FIRST_WAIT = 100_000
LONGEST_WAIT = 30_000_000
"""Back-off while something is out of reach, microseconds: doubled from the first to the longest, with jitter."""

_log = logging.getLogger("edge.flows")


class Runner:
    """Runs one generation of one flow. `state` is where it stands in the journal."""

    def __init__(
        self, flow: Flow, state: FlowState, *, journal: Journal, feed: Feed, clock: Clock, rng: random.Random
    ) -> None:
        self.flow = flow
        self.stats = FlowStats()
        self.state = state
        self.cursor = state.cursor
        """Everything up to here has been dealt with, though perhaps not yet committed."""
        self._committed = state.cursor
        self._dirty = False
        self._journal = journal
        self._feed = feed
        self._clock = clock
        self._rng = rng
        self._committing = asyncio.Lock()
        self._busy = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to run, in a task of its own."""
        self._task = asyncio.create_task(self._run(), name=f"flow {self.flow.name}")

    async def stop(self, patience: int) -> None:
        """Let the batch at hand end (at most `patience` microseconds), stop, and commit the progress."""
        if self._task is not None:
            waiting = [
                asyncio.ensure_future(self._clock.sleep(patience)),
                asyncio.ensure_future(self._busy.acquire()),
                self._task,
            ]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            self._task = None
        await self.save()

    async def save(self) -> None:
        """Commit progress that was put off, if there is any. What cannot be committed now is read again later."""
        async with self._committing:
            if self._dirty:
                try:
                    await self._commit(self.cursor, [])
                except (StorageError, StaleGeneration) as error:
                    self.stats.waiting = str(error)

    @property
    def lag(self) -> int:
        """Records between the newest one and what this flow has dealt with."""
        return max(0, self._feed.head - self.cursor)

    async def _run(self) -> None:
        wait = FIRST_WAIT
        while True:
            try:
                batch = await self._feed.after(self.cursor, BATCH)
                async with self._busy:
                    taken = await self._take(batch)
                self.stats.waiting = "" if taken.waiting is None else str(taken.waiting)
                if taken.waiting is None:
                    wait = FIRST_WAIT
                    continue
                if taken.done:
                    wait = FIRST_WAIT
            except StaleGeneration as error:
                _log.info("flow %s hands over: %s", self.flow.name, error)
                return
            except StorageError as error:
                self.stats.waiting = str(error)
            except Exception as error:
                # A defect of ours: nothing is lost by trying again, and it must not go unseen.
                self.stats.waiting = f"internal error: {error!r}"
                _log.exception("flow %s failed inside the gateway; it will be tried again", self.flow.name)
            await self._clock.sleep(self._rng.randint(wait // 2, wait))
            wait = min(wait * 2, LONGEST_WAIT)

    async def _take(self, batch: Sequence[Stored]) -> Taken:
        events: list[Event] = []
        offsets: list[int] = []
        any_event = False
        for item in batch:
            record = item.record
            if type(record) is Event:
                any_event = True
                if self.flow.wants(record):
                    events.append(record)
                    offsets.append(item.offset)
        if not events:
            # Bookkeeping records do not count: flows that commit progress must not keep each other awake with it.
            await self._advance(batch[-1].offset, any_event)
            return Taken([], 0)
        started = self._clock.monotonic()
        taken = await self.flow.take(events, self.state.epoch)
        end = batch[-1].offset if taken.done == len(events) else offsets[taken.done] - 1
        if taken.effects:
            async with self._committing:
                await self._commit(end, taken.effects)
                self.cursor = end
        elif end > self.cursor:
            await self._advance(end, events=True)
        self.stats.took(taken, self._clock.monotonic() - started)
        return taken

    async def _advance(self, cursor: int, events: bool) -> None:
        self.cursor = cursor
        self._dirty = self._dirty or events
        if self._dirty and cursor - self._committed >= LAZY_RECORDS:
            await self.save()

    async def _commit(self, cursor: int, effects: Sequence[Record]) -> None:
        await self._journal.commit(Progress(self.flow.name, self.state.generation, cursor), effects)
        self._committed = cursor
        self._dirty = False
