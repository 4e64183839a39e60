"""Takes one flow through the journal: reads, lets the flow work, commits its effects together with its progress."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterator, Mapping, Sequence, Set

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import StaleGeneration, StorageError
from edge_runtime.events import Event
from edge_runtime.flows.feed import Feed
from edge_runtime.flows.flow import Checkpointed, Done, Failed, Flow, StateLost, Taken, Turn
from edge_runtime.flows.lane import BATCH, Item, Lane
from edge_runtime.flows.limiter import Limiter
from edge_runtime.flows.position import SLOTS, Position, position, slot_of
from edge_runtime.flows.states import NoStates, States
from edge_runtime.flows.stats import FlowStats
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import (
    Command,
    DeadLetter,
    FlowState,
    Progress,
    Record,
    Retry,
    StateChange,
    Stored,
    Timer,
)
from edge_runtime.size import rough

LAZY_RECORDS = 10_000
"""Progress without effects is committed after so many records, or at the next `save`."""
MAX_EFFECTS = 900
"""Effects in one commit, if more than one event has some: a commit is one append of at most 1,000 records."""
MAX_EFFECT_BYTES = 4 << 20
"""Of effects in one commit, about, if more than one event has some: the journal takes only so much at a time."""
MAX_HELD = 8192
"""Events of held keys in memory, all keys together: beyond it they are read again when their turn comes."""
FIRST_WAIT = 100_000
LONGEST_WAIT = 30_000_000
"""Pause while something is out of reach, and between retries, microseconds: doubled each time, with jitter."""

_log = logging.getLogger("edge.flows")


class Runner:
    """Runs one generation of one flow.

    `state` is where it stands in the journal. `lanes` batches may be under way at a time: the hash slots are dealt out
    to them, so events with one partition key are always in one lane. A key on which the flow has failed gets a lane of
    its own until it is dealt with; the others go on.
    """

    def __init__(
        self,
        flow: Flow,
        state: FlowState,
        *,
        journal: Journal,
        feed: Feed,
        clock: Clock,
        rng: random.Random,
        lanes: int = 1,
        limiter: Limiter | None = None,
        stats: FlowStats | None = None,
        states: States | None = None,
    ) -> None:
        self.flow = flow
        self.state = state
        self.stats = stats or FlowStats()
        self.stats.waiting = ""
        self.limiter = limiter or Limiter(clock)
        self.halted = False
        """The flow's own policy has stopped it."""
        self.lost = False
        """What the flow held in memory is gone: it is to go on from where it was committed."""
        self._checkpointed = flow if isinstance(flow, Checkpointed) else None
        self._journal = journal
        self._feed = feed
        self._clock = clock
        self._rng = rng
        self._states = states or NoStates()
        self._start = self._committed = Position.of(state)
        self._read = self._start.lowest
        self._floor = [self._start.slots.get(slot, self._start.cursor) for slot in range(SLOTS)]
        self._lanes = [Lane(self._read) for _ in range(lanes)]
        self._held = {key: Lane(at, key) for key, at in self._start.held.items()}
        self._saved = self._read
        self._dirty = False
        self._committing = asyncio.Lock()
        self._settling: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._working = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    # For its owner

    def start(self) -> None:
        """Begin to run, in tasks of its own."""
        self._task = asyncio.create_task(self._dispatch(), name=f"flow {self.flow.name}")
        for lane in self._all():
            self._launch(lane)

    async def stop(self, patience: int) -> None:
        """Let the batches at hand end (at most `patience` microseconds), stop, and commit the progress."""
        self._closing = True
        if self._task is not None:
            ending = [asyncio.ensure_future(self._clock.sleep(patience)), asyncio.ensure_future(self._rest())]
            await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
            await _cancel([*ending, *self._tasks()])
            self._task = None
            # A commit that is on its way is not taken back: who comes next must know of it.
            await asyncio.gather(*self._settling, return_exceptions=True)
        await self.save()

    async def save(self) -> None:
        """Commit progress that was put off, if there is any. What cannot be committed now is read again later."""
        async with self._committing:
            if self._dirty:
                try:
                    await self._commit(self.position(), [])
                except (StorageError, StaleGeneration) as error:
                    self.stats.waiting = str(error)
                except StateLost:
                    self._lose()

    def position(self) -> Position:
        """How far the flow has come, commits that were put off included."""
        return self._position(None, frozenset(), frozenset())

    @property
    def handed_over(self) -> Position:
        """Where whoever comes next goes on: of what is only in a checkpointed flow's memory, nothing counts."""
        return self.position() if self._checkpointed is None else self._committed

    @property
    def lag(self) -> int:
        """Records between the newest one and what this flow has dealt with; held keys do not count."""
        return max(0, self._feed.head - min(lane.at() for lane in self._lanes))

    @property
    def waits(self) -> Event | None:
        """The oldest event that it has read and not dealt with."""
        first = [lane.pending[0] for lane in self._all() if lane.pending]
        return min(first, key=lambda item: item.offset).event if first else None

    @property
    def held(self) -> dict[str, bool]:
        """The partition keys that are held back; True for those that wait for an operator."""
        return {key: lane.parked for key, lane in self._held.items()}

    def release(self, key: str) -> bool:
        """Try a held key again, from the event on which the flow failed; False if it is not held."""
        lane = self._held.get(key)
        if lane is None:
            return False
        lane.parked = False
        lane.attempts = 0
        lane.wake()
        return True

    # Reading

    async def _dispatch(self) -> None:
        while True:
            try:
                batch = await self._feed.after(self._read, BATCH)
                # All before any is queued: should one of them fail, the batch is looked at again as a whole.
                items = [item for item in map(self._item, batch) if item is not None]
            except Exception as error:
                self._report(error)
                await self._clock.sleep(FIRST_WAIT)
                continue
            crowded = sum(len(lane.pending) for lane in self._held.values()) >= MAX_HELD
            for item in items:
                if not self._start.done(item.offset, item.key):
                    lane = self._lane_of(item.key)
                    if crowded and lane.key is not None:
                        lane.leave(item)
                    else:
                        lane.add(item)
            self._read = batch[-1].offset
            for lane in self._all():
                lane.reached = max(lane.reached, self._read)
                lane.wake()
            # Bookkeeping records do not count: flows that commit progress must not keep each other awake with it.
            self._dirty = self._dirty or any(type(stored.record) is Event for stored in batch)
            if self._dirty and self._read - self._saved >= LAZY_RECORDS:
                await self.save()
            while any(lane.full for lane in self._lanes):
                self._room.clear()
                await self._room.wait()

    def _item(self, stored: Stored) -> Item | None:
        record = stored.record
        if type(record) is Event:
            if not self.flow.wants(record):
                return None
            return Item(stored.offset, record, self.flow.key(record), rough(record), stored.offset)
        if type(record) is Retry and record.flow == self.flow.name and not self._void(stored.offset, record):
            return Item(stored.offset, record.event, self.flow.key(record.event), rough(record.event), record.at)
        return None

    def _void(self, offset: int, retry: Retry) -> bool:
        """Whether a rewind makes a retry void: it was taken before, or its event itself is taken again instead."""
        state = self.state
        return offset <= state.again_done or (retry.letter <= state.again_until and retry.at > state.again_after)

    def _lane_of(self, key: str) -> Lane:
        return self._held.get(key) or self._lanes[slot_of(key) % len(self._lanes)]

    def _all(self) -> list[Lane]:
        return [*self._lanes, *self._held.values()]

    # Working

    def _launch(self, lane: Lane) -> None:
        lane.task = asyncio.create_task(self._work(lane), name=f"flow {self.flow.name} lane")

    async def _work(self, lane: Lane) -> None:
        wait = FIRST_WAIT
        pause = lane.attempts > 0
        while True:
            if pause:
                await self._clock.sleep(self._rng.randint(wait // 2, wait))
                wait = min(wait * 2, LONGEST_WAIT)
            else:
                wait = FIRST_WAIT
            pause = False
            try:
                if not lane.pending and lane.key is not None and await self._drained(lane):
                    del self._held[lane.key]
                    return
                if not lane.pending or lane.parked or self._closing or self.halted:
                    await lane.news()
                    continue
                items = lane.head(self._quiet)
                await self.limiter.pass_(len(items))
                with self._at_work():
                    pause = await self._turn(lane, items)
            except StaleGeneration as error:
                _log.info("flow %s hands over: %s", self.flow.name, error)
                self._end(lane)
                return
            except StateLost:
                self._lose()
                self._end(lane)
                return
            except Exception as error:
                self._report(error)
                pause = True

    def _lose(self) -> None:
        self.lost = True
        self.stats.waiting = "what it held in memory is lost; it goes on from its last commit"

    def _report(self, error: Exception) -> None:
        """Say why the flow does not go on just now; it will be tried again."""
        if isinstance(error, StorageError):
            self.stats.waiting = str(error)
        else:
            # A defect of ours: nothing is lost by trying again, and it must not go unseen.
            self.stats.waiting = f"internal error: {error!r}"
            _log.error("flow %s failed inside the gateway; it will be tried again", self.flow.name, exc_info=error)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        self._working += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()

    async def _turn(self, lane: Lane, items: list[Item]) -> bool:
        """Take a batch and commit what became of it; True if a pause is due before the next."""
        started = self._clock.monotonic()
        quiet = self._quiet(items[0])
        turn = Turn(self.state.epoch, quiet, states=self._states)
        taken = await self.flow.take([item.event for item in items], turn)
        settled, effects, failed = self._sort(lane, items, taken, quiet)
        if settled or failed:
            await self._settle(lane, settled, turn, effects, failed, now=taken.commit)
        self.stats.waiting = "" if taken.waiting is None else str(taken.waiting)
        self.stats.took(len(settled), effects, self._clock.monotonic() - started)
        self._room.set()
        return lane.attempts > 0 or (taken.waiting is not None and not settled)

    def _quiet(self, item: Item) -> bool:
        return item.offset <= self.state.quiet_until or item.event.quiet

    def _sort(
        self, lane: Lane, items: Sequence[Item], taken: Taken, quiet: bool
    ) -> tuple[list[Item], list[Record], dict[str, bool]]:
        """What can be committed, its effects, and the keys on which the flow failed: True for those given up."""
        settled: list[Item] = []
        effects: list[Record] = []
        failed: dict[str, bool] = {}
        size = 0
        lane.more()
        for item, result in zip(items, taken.results, strict=False):
            if item.key in failed:
                continue  # It was taken behind one that failed: again, once that one has been dealt with.
            new: list[Record]
            if isinstance(result, Done):
                lane.hopeless = False
                new = [_placed(record, item) for record in result.effects if not (quiet and type(record) is Command)]
            else:
                letter = self._judge(lane, item, result)
                if letter is None or self.flow.policy.on_error != "skip":
                    failed[item.key] = letter is not None
                    effects += [] if letter is None else [letter]
                    continue
                # Where everything fails, retries would only build up a queue of what will fail as well.
                lane.hopeless = lane.key is not None
                new = [letter]
            size += sum(map(effect_size, new))
            too_much = len(effects) + len(new) > MAX_EFFECTS or size > MAX_EFFECT_BYTES
            if effects and too_much and self._checkpointed is None:
                lane.fewer(len(settled))  # What is left out is worked on again: there should be little of it.
                break
            effects += new
            settled.append(item)
        return settled, effects, failed

    def _judge(self, lane: Lane, item: Item, result: Failed) -> DeadLetter | None:
        """The dead letter of an event on which the flow has failed for the last time; None if it is tried again."""
        attempts = lane.attempts + 1
        if result.retry and not lane.hopeless and attempts <= self.flow.policy.retries:
            self.stats.retries += 1
            return None
        return msgspec.structs.replace(result.letter, attempts=attempts, at=item.at)

    async def _settle(
        self,
        lane: Lane,
        settled: Sequence[Item],
        turn: Turn,
        effects: Sequence[Record],
        failed: Mapping[str, bool],
        *,
        now: bool,
    ) -> None:
        """Commit, and only then believe it; in one piece, even if the lane is cancelled meanwhile.

        Without effects the commit is put off, unless it is to be `now`.
        """
        task = asyncio.create_task(self._settle_now(lane, settled, turn, effects, failed, now=now))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        await asyncio.shield(task)

    async def _settle_now(
        self,
        lane: Lane,
        settled: Sequence[Item],
        turn: Turn,
        effects: Sequence[Record],
        failed: Mapping[str, bool],
        *,
        now: bool,
    ) -> None:
        offsets = frozenset(item.offset for item in settled)
        async with self._committing:
            if effects or now:
                where = self._position(lane, offsets, failed.keys())
                if not await self._commit(where, effects, [item.event for item in settled]):
                    raise AssertionError(f"{self.flow.name} has taken events that are not to be committed")
            else:
                self._dirty = True
            self.flow.settled([item.event for item in settled], turn)
            lane.drop(offsets)
            for key, given_up in failed.items():
                self._fail(lane, key, given_up)
            if settled and not failed:
                lane.attempts = 0
        for other in self._held.values():
            other.wake()  # One that is drained may end now that its slot has come as far.

    def _fail(self, lane: Lane, key: str, given_up: bool) -> None:
        if lane.key is None:
            moved = lane.give(key)
            lane = self._held[key] = Lane(lane.reached, key)
            for item in moved:
                lane.put(item)
            self._launch(lane)
        lane.attempts = 0 if given_up else lane.attempts + 1
        lane.parked = given_up
        self.halted = self.halted or (given_up and self.flow.policy.on_error == "stop")

    def _end(self, lane: Lane) -> None:
        """Another generation has taken over: nothing of this one may go on."""
        for task in self._tasks():
            if task is not lane.task:
                task.cancel()

    async def _rest(self) -> None:
        await self._idle.wait()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for task in (self._task, *(lane.task for lane in self._all())) if task is not None]

    # Held keys

    async def _drained(self, lane: Lane) -> bool:
        """Whether a held key needs no lane of its own any more. Reads again what it had no room for."""
        assert lane.key is not None
        while lane.missing_after is not None and not lane.pending:
            if lane.missing_after >= self._read:
                lane.missing_after = None
                break
            batch = await self._journal.read(lane.missing_after, BATCH)
            for stored in batch:
                if stored.offset > self._read or len(lane.pending) >= BATCH or lane.full:
                    break
                item = self._item(stored)
                if item is not None and item.key == lane.key and not self._start.done(item.offset, item.key):
                    lane.put(item)
                lane.missing_after = stored.offset
            if not batch:
                lane.missing_after = None
        if lane.pending or lane.missing_after is not None:
            return False
        if self._read < self._start.highest:
            return False  # Until it has read that far, only this lane knows how far its key has come.
        slots = self._lanes[slot_of(lane.key) % len(self._lanes)]
        return slots.at() >= lane.reached

    # Committing

    def _position(self, lane: Lane | None, settled: frozenset[int], failing: Set[str]) -> Position:
        """Where the flow stands once `settled` of `lane` are dealt with and the `failing` keys are held."""
        held = {key: one.at(settled) if one is lane else one.at() for key, one in self._held.items()}
        without = settled
        if lane is not None and lane.key is None and failing:
            moved = [item for item in lane.pending if item.key in failing and item.offset not in settled]
            for item in reversed(moved):
                held[item.key] = item.offset - 1
            without = settled.union(item.offset for item in moved)
        reached = [one.at(without) if one is lane else one.at() for one in self._lanes]
        return position([max(floor, reached[slot % len(reached)]) for slot, floor in enumerate(self._floor)], held)

    async def _commit(self, where: Position, effects: Sequence[Record], settling: Sequence[Event] = ()) -> bool:
        """Commit; False if a checkpointed flow is in the middle of something."""
        if self._checkpointed is not None:
            kept = await self._checkpointed.checkpoint(settling, where.cursor)
            if kept is None:
                return False
            effects = [*effects, *(msgspec.structs.replace(change, at=where.cursor) for change in kept)]
        progress = Progress(self.flow.name, self.state.generation, where.cursor, where.slots, where.held)
        await self._journal.commit(progress, effects)
        if self._checkpointed is not None:
            self._checkpointed.checkpointed()
        self._saved = where.cursor
        self._committed = where
        self._dirty = False
        return True


def effect_size(record: Record) -> int:
    """Bytes of an effect, about."""
    if type(record) is StateChange:
        kept = (*record.entries.values(), *record.before.values())
        return sum(len(entry[0]) + 60 for entry in kept if entry)
    return rough(record)


def _placed(record: Record, item: Item) -> Record:
    """A change of state, or a timer, knows the event at which it was made."""
    if type(record) is StateChange:
        return msgspec.structs.replace(record, at=item.offset)
    return msgspec.structs.replace(record, at=item.at) if type(record) is Timer else record


async def _cancel(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
