"""All flows of the gateway: installed, replaced, removed and controlled while events keep coming."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, NotFound, StorageError, nearest
from edge_runtime.flows.feed import Feed
from edge_runtime.flows.flow import Checkpointed, Flow
from edge_runtime.flows.limiter import Limiter
from edge_runtime.flows.position import SLOTS, Position
from edge_runtime.flows.runner import Runner
from edge_runtime.flows.states import StateTable, put_back
from edge_runtime.flows.stats import FlowStats
from edge_runtime.journal.interface import Journal, Tables
from edge_runtime.journal.records import REMOVED_KEPT, FlowState, Rewriting, Stored, Trimmed

SAVE_EVERY = 1_000_000
"""Progress that came with no effects is committed at least this often, microseconds."""
RETRY = 1_000_000
"""Pause before what a flow keeps is tried to be put back again, microseconds."""
PATIENCE = 2_000_000
"""How long a batch may go on when its flow is replaced or the gateway stops, microseconds."""

Choice = Literal["kept", "reset", "restored"]
"""What becomes of what a flow keeps when it is rewound."""

_log = logging.getLogger("edge.flows")


class Flows:
    """Owns the feed and the runners. `tables` is the journal's state when the gateway starts."""

    def __init__(self, journal: Journal, tables: Tables, clock: Clock, rng: random.Random) -> None:
        self._journal = journal
        self._clock = clock
        self._rng = rng
        self._states = dict(tables.flows)
        self._stats: dict[str, FlowStats] = {}
        self._changing = asyncio.Lock()
        self.first = tables.first
        """The oldest record that is kept."""
        self.feed = Feed(journal, tables.head)
        self.states = StateTable(journal, tables.stateful)
        self._rewriting: dict[str, asyncio.Task[None]] = {}
        self.runners: dict[str, Runner] = {}
        journal.listen(self._hear, events=False)

    # Installing

    async def install(self, flow: Flow, *, resume: bool = False) -> None:
        """Start a flow, or let it take over from the one of the same name, where that one stands.

        `resume`: nobody else can hold this flow (the gateway has just started), so its generation goes on.
        A flow that is new begins where it says.
        """
        async with self._changing:
            old = await self._halt(flow.name)
            state = self._states.get(flow.name)
            try:
                if state is None or self._forgotten(state):
                    cursor = self.first - 1 if flow.start == "earliest" else self.feed.head
                    epoch = 0 if state is None else state.epoch + 1
                    self.states.forget(flow.name)  # The journal has, or will have, as it was removed for so long.
                    anew = Rewriting(-1, self.feed.head) if await self.states.any(flow.name) else None
                    state = await self._enter(FlowState(flow.name, 1, epoch, cursor, rewriting=anew))
                elif not resume or state.removed:
                    state = await self._enter(msgspec.structs.replace(state, removed=0))
            except StorageError:
                if old is not None and state is not None:
                    self._run(old, state)
                raise
            self._run(flow, state)

    async def remove(self, name: str) -> None:
        """Stop a flow whose trigger is gone; its progress is kept for a week, should it come back."""
        async with self._changing:
            await self._halt(name)
            self.runners.pop(name, None)
            state = self._states.get(name)
            if state is not None and not state.removed:
                await self._enter(msgspec.structs.replace(state, removed=self._clock.now()))

    def known(self, app: str) -> list[str]:
        """The flows of an app that have a state and were not removed, whether they run or not."""
        return [name for name, state in self._states.items() if name.startswith(f"{app}.") and not state.removed]

    def _forgotten(self, state: FlowState) -> bool:
        return state.removed > 0 and self._clock.now() - state.removed > REMOVED_KEPT

    # Control

    async def pause(self, name: str) -> None:
        """Stop taking events, until `resume`; over restarts too."""
        await self._change(name, lambda state: msgspec.structs.replace(state, paused=True))

    async def resume(self, name: str) -> None:
        """Go on where the flow was paused or has stopped itself."""
        await self._change(name, lambda state: msgspec.structs.replace(state, paused=False))

    async def rewind(self, name: str, cursor: int, *, quiet: bool = True, state: Choice | None = None) -> FlowState:
        """Take everything behind `cursor` again, in a new epoch.

        With `quiet`, commands and deliveries to the outside are withheld until the flow has come to where the journal
        ends now. `state` says what becomes of what the flow keeps: it stays (`kept`), begins with nothing (`reset`), or
        becomes what it was when the flow stood at `cursor` (`restored`); the flow goes on once that is done. Raises
        EdgeError if it keeps something and there is no choice, if records behind `cursor` have been removed by
        retention, or it is ahead.
        """
        if self.find(name).state.rewriting is not None:
            raise EdgeError(
                f"'{name}' is being rewound: what it keeps is not back yet",
                hint="Ask again once `edge flow list` shows that it runs.",
            )
        if state is None and await self.states.any(name):
            raise EdgeError(
                f"'{name}' keeps state, and events that it takes again would change it twice",
                hint="Say what is to become of it: --state restored (to what it was then), reset, or kept.",
            )
        if cursor < self.first - 1:
            raise EdgeError(
                f"record {cursor + 1} is not kept any more; the oldest is {self.first}",
                hint=f"The earliest possible is: edge flow rewind {name} --to {self.first}",
            )
        if cursor > self.feed.head:
            raise EdgeError(f"the journal ends at record {self.feed.head}")

        def rewound(now: FlowState) -> FlowState:
            # Of now, when the flow stands still: what it has committed until here belongs to the old epoch.
            head = self.feed.head
            rewriting = None
            if state in ("reset", "restored") and self.states.keeps(name):
                rewriting = Rewriting(cursor if state == "restored" else -1, head)
            return msgspec.structs.replace(
                now,
                rewriting=rewriting,
                epoch=now.epoch + 1,
                cursor=cursor,
                slots={},
                held={},
                quiet_until=head if quiet else -1,
                again_after=cursor,
                again_until=head,
                # What was taken before an earlier rewind stays taken, however far the flow has come since.
                again_done=max(now.again_done, Position.of(now).lowest),
            )

        return await self._change(name, rewound)

    async def scale(self, name: str, lanes: int) -> None:
        """Let so many batches of the flow be under way at a time (1 to 64)."""
        if not 1 <= lanes <= SLOTS:
            raise EdgeError(f"a flow has 1 to {SLOTS} lanes")
        await self._change(name, lambda state: msgspec.structs.replace(state, lanes=lanes))

    async def limit(self, name: str, rate: float | None) -> None:
        """Let at most `rate` events a second through the flow; None for no limit."""
        if rate is not None and rate <= 0:
            raise EdgeError("a rate is a number of events a second, above 0")
        await self._change(name, lambda state: msgspec.structs.replace(state, rate=rate))

    def release(self, name: str, key: str) -> None:
        """Try a held partition key again."""
        runner = self.find(name)
        if not runner.release(key):
            raise NotFound(f"{name} does not hold '{key}' back", hint=nearest(key, runner.held))

    # Running

    async def run(self) -> None:
        """Commit put-off progress, and pause flows that have stopped themselves, until cancelled."""
        while True:
            await self._clock.sleep(SAVE_EVERY)
            for name, runner in list(self.runners.items()):
                if runner.halted and not runner.state.paused:
                    try:
                        await self.pause(name)
                    except NotFound:
                        pass  # It was removed in this moment.
                    except StorageError as error:
                        _log.warning("flow %s has stopped; that could not be stored yet: %s", name, error)
                elif runner.lost:
                    await self._again(name)
                else:
                    await runner.save()
                runner.stats.sample(self._clock.monotonic())

    async def _again(self, name: str) -> None:
        """Let a flow that has lost its memory go on from its last commit."""
        _log.warning("flow %s has lost what it held in memory, and goes on from its last commit", name)
        with contextlib.suppress(NotFound, StorageError):  # It was removed in this moment, or is tried again.
            await self._change(name, lambda state: state)

    async def stop(self) -> None:
        """Stop every flow; batches at hand may end."""
        async with self._changing:
            await asyncio.gather(*(self._halt(name) for name in list(self.runners)))
            self.runners.clear()

    def find(self, name: str) -> Runner:
        """The runner of a flow; raises NotFound, which names the nearest one."""
        runner = self.runners.get(name)
        if runner is None:
            raise NotFound(f"there is no flow '{name}'", hint=nearest(name, self.runners))
        return runner

    def _hear(self, stored: Sequence[Stored]) -> None:
        for item in stored:
            if type(item.record) is Trimmed:
                self.first = max(self.first, item.record.upto + 1)

    async def _halt(self, name: str) -> Flow | None:
        """Stop a flow's runner. It stays to be seen, as it stands, until another takes its place."""
        runner = self.runners.get(name)
        if runner is None:
            return None
        rewriting = self._rewriting.pop(name, None)
        if rewriting is not None:
            rewriting.cancel()
            await asyncio.gather(rewriting, return_exceptions=True)
        await runner.stop(PATIENCE)
        at = runner.handed_over
        if isinstance(runner.flow, Checkpointed):
            runner.flow.let_go()
        self._states[name] = msgspec.structs.replace(runner.state, cursor=at.cursor, slots=at.slots, held=at.held)
        return runner.flow

    async def _change(self, name: str, change: Callable[[FlowState], FlowState]) -> FlowState:
        """Stop the flow, give it a new generation with a change, and let it go on."""
        async with self._changing:
            self.find(name)
            flow = await self._halt(name)
            assert flow is not None
            before = self._states[name]
            try:
                state = await self._enter(change(before))
            except StorageError:
                self._run(flow, before)
                raise
            self._run(flow, state)
            return state

    async def _enter(self, state: FlowState) -> FlowState:
        """Record a state under the flow's next generation."""
        known = self._states.get(state.flow)
        if known is not None:
            state = msgspec.structs.replace(state, generation=known.generation + 1)
        await self._journal.append([state])
        self._states[state.flow] = state
        return state

    def _run(self, flow: Flow, state: FlowState) -> None:
        runner = Runner(
            flow,
            state,
            journal=self._journal,
            feed=self.feed,
            clock=self._clock,
            rng=self._rng,
            lanes=state.lanes,
            limiter=Limiter(self._clock, state.rate),
            stats=self._stats.setdefault(flow.name, FlowStats()),
            states=self.states,
        )
        self.runners[flow.name] = runner
        if state.rewriting is not None:
            runner.stats.waiting = "what it keeps is being put back to an earlier time"
            self._rewriting[flow.name] = asyncio.create_task(self._put_back(flow, state, state.rewriting))
        elif not state.paused:
            runner.start()

    async def _put_back(self, flow: Flow, state: FlowState, rewriting: Rewriting) -> None:
        """Put back what a flow keeps, and then let it run; again and again, whatever is in the way."""
        name = flow.name
        while True:
            try:
                await put_back(self._journal, name, state.cursor, rewriting)
                cursor = state.cursor
                if rewriting.after >= 0 and isinstance(flow, Checkpointed):
                    # Its state is as of a checkpoint, which may lie before what was asked for.
                    reached = await flow.reached(self.states)
                    cursor = cursor if reached is None else min(cursor, max(reached, self.first - 1))
                async with self._changing:
                    now = self._states[name]
                    done = await self._enter(msgspec.structs.replace(now, rewriting=None, cursor=cursor))
                    del self._rewriting[name]
                    self._run(flow, done)
                    return
            except StorageError as error:
                self.runners[name].stats.waiting = f"what it keeps cannot be put back: {error}"
            await self._clock.sleep(RETRY)
