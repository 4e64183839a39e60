"""Any history of appends, failures, crashes, redeploys and rewinds, on both journals: once, in order, none missing."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_runtime.clock import ManualClock
from edge_runtime.errors import EdgeError
from edge_runtime.events import Event
from edge_runtime.flows.flow import Policy
from edge_runtime.flows.flows import Choice, Flows
from edge_runtime.flows.runner import LONGEST_WAIT
from edge_runtime.journal.interface import Appended, Journal
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Command, DeadLetter, FlowState, Progress, Record, State, StateChange, Stored
from edge_runtime.journal.sqlite.client import SqliteJournal
from tests.flows.conftest import BOOT, Keeping, turns

T = TypeVar("T")
Write = Callable[[], Coroutine[Any, Any, Appended]]
NAME = "app.f"
DEVICES = ("a", "b", "c", "d", "e")


class SlowJournal(MemoryJournal):
    """As a journal with a disk: a write takes its time, and goes on when whoever asked for it has gone."""

    def __init__(self, records: Sequence[Record] = ()) -> None:
        super().__init__(records)
        self._queue = asyncio.Lock()
        self._under_way: set[asyncio.Task[Appended]] = set()

    def append(self, records: Sequence[Record]) -> Coroutine[Any, Any, Appended]:
        return self._later(partial(super().append, records))

    def commit(self, progress: Progress, effects: Sequence[Record]) -> Coroutine[Any, Any, Appended]:
        return self._later(partial(super().commit, progress, effects))

    async def read(self, after: int, limit: int) -> list[Stored]:
        await turns(2)
        return await super().read(after, limit)

    async def _later(self, work: Write) -> Appended:
        task = asyncio.ensure_future(self._in_turn(work))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _in_turn(self, work: Write) -> Appended:
        async with self._queue:
            await turns(3)
            return await work()

    async def crash(self) -> list[Record]:
        """What is on the disk at this moment; what is under way never arrives there."""
        records = self.records()
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        return records


class History(RuleBasedStateMachine):
    """The house with the journal in memory. What has been acknowledged is remembered here, outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.acknowledged: list[Event] = []
        self.broken: set[int] = set()
        self.seq = 0
        self.crashes = 0

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    # The journal

    async def open_journal(self) -> Journal:
        return SlowJournal()

    async def crashed_journal(self) -> Journal:
        assert isinstance(self.journal, SlowJournal)
        return SlowJournal(await self.journal.crash())

    async def close_journal(self) -> None:
        pass

    # What happens

    @initialize(retries=st.integers(0, 2), lanes=st.sampled_from([1, 3]))
    def begin(self, retries: int, lanes: int) -> None:
        self.policy = Policy(retries=retries)
        self.lanes = lanes
        self.do(self._begin())

    async def _begin(self) -> None:
        self.journal = await self.open_journal()
        await self._open()

    async def _open(self) -> None:
        self.flows = Flows(self.journal, await self.journal.tables(), self.clock, random.Random(7))
        await self.flows.install(self._flow(), resume=True)
        if self.lanes > 1:
            await self.flows.scale(NAME, self.lanes)

    def _flow(self) -> Keeping:
        flow = Keeping(NAME, policy=self.policy)
        flow.broken = lambda item: item.seq in self.broken
        return flow

    @rule(devices=st.lists(st.sampled_from(DEVICES), min_size=1, max_size=12), again=st.booleans())
    def append(self, devices: list[str], again: bool) -> None:
        events = []
        for device in devices:
            events.append(Event(device, BOOT, self.seq, "climate", 0, 0, {}))
            self.seq += 1
        self.do(self._append(events))
        if again:
            self.do(self._append(events))

    async def _append(self, events: list[Event]) -> None:
        await self.journal.append(events)
        known = {event.id for event in self.acknowledged}
        self.acknowledged += [event for event in events if event.id not in known]

    @rule(count=st.integers(1, 6))
    def some_turns(self, count: int) -> None:
        self.do(turns(count))

    @rule()
    def time_passes(self) -> None:
        self.clock.advance(LONGEST_WAIT)
        self.do(turns(40))

    @rule(ahead=st.sets(st.integers(-5, 12), max_size=5))
    def break_some(self, ahead: set[int]) -> None:
        self.broken = {self.seq + number for number in ahead}

    @rule()
    def crash(self) -> None:
        self.crashes += 1
        self.do(self._crash())

    async def _crash(self) -> None:
        journal = await self.crashed_journal()
        for runner in self.flows.runners.values():
            tasks = [*runner._tasks(), *runner._settling]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.journal = journal
        await self._open()

    @rule()
    def redeploy(self) -> None:
        self.do(self._with_time(self.flows.install(self._flow())))

    @rule(lanes=st.sampled_from([1, 2, 5]))
    def scale(self, lanes: int) -> None:
        self.lanes = lanes
        self.do(self._with_time(self.flows.scale(NAME, lanes)))

    @rule(share=st.floats(0, 1), state=st.sampled_from(["kept", "reset", "restored"]))
    def rewind(self, share: float, state: Choice) -> None:
        cursor = round(self.flows.feed.head * share) - 1
        if self.flows.find(NAME).state.rewriting is not None:
            with pytest.raises(EdgeError, match="is being rewound"):
                self.do(self.flows.rewind(NAME, max(-1, cursor), state=state))
            return
        self.do(self._with_time(self.flows.rewind(NAME, max(-1, cursor), quiet=False, state=state)))

    @precondition(lambda self: self.acknowledged)
    @rule()
    def pause_and_resume(self) -> None:
        self.do(self._with_time(self.flows.pause(NAME)))
        self.do(self._with_time(self.flows.resume(NAME)))

    async def _with_time(self, work: Coroutine[Any, Any, Any]) -> None:
        """A hand-over may wait for a batch that waits for the clock."""
        task = asyncio.ensure_future(work)
        while not task.done():
            self.clock.advance(LONGEST_WAIT)
            await turns(5)
        await task

    # What must hold

    @invariant()
    def nothing_twice(self) -> None:
        if not hasattr(self, "journal"):
            return
        ids = Counter(item.record.id for item in self.do(self._records()) if isinstance(item.record, Command))
        assert not [identity for identity, times in ids.items() if times > 1]

    async def _records(self) -> list[Stored]:
        found: list[Stored] = []
        while batch := await self.journal.read(found[-1].offset if found else -1, 1000):
            found += batch
        return found

    def teardown(self) -> None:
        try:
            if hasattr(self, "flows"):
                self._finish()
                self.do(self._with_time(self.flows.stop()))
                self.do(self.close_journal())
        finally:
            self.loop.close()

    async def _quiet(self) -> None:
        """Let time pass until nothing is left to do."""
        async with asyncio.timeout(60):
            while True:
                self.clock.advance(LONGEST_WAIT)
                await turns(40)
                runner = self.flows.runners[NAME]
                if runner.lag == 0 and not runner.held and runner.state.rewriting is None:
                    return
                await asyncio.sleep(0.001)

    def _finish(self) -> None:
        self.broken = set()
        self.do(self._quiet())
        records = self.do(self._records())
        stored = [item for item in records if isinstance(item.record, Event)]
        assert [e.id for e in self.acknowledged] == [s.record.id for s in stored if isinstance(s.record, Event)]
        epoch = self.flows.runners[NAME].state.epoch
        states = [s for s in records if isinstance(s.record, FlowState) and s.record.epoch == epoch]
        began, state = states[0].offset, states[0].record
        assert isinstance(state, FlowState)
        effects = []
        for item in records:
            record = item.record
            if item.offset > began:
                if isinstance(record, Command) and record.origin.epoch == epoch:
                    effects.append(record.origin.cause)
                elif isinstance(record, DeadLetter) and record.event is not None:
                    effects.append(record.event.id)
        wanted = [s.record.id for s in stored if s.offset > state.cursor and isinstance(s.record, Event)]
        for device in DEVICES:
            mine = [cause for cause in effects if cause.startswith(f"{device}/")]
            assert mine == [identity for identity in wanted if identity.startswith(f"{device}/")]
        self._check_states(records)

    async def _kept(self) -> tuple[list[str], dict[str, State]]:
        return await self.journal.state_keys(NAME, "", 100), await self.journal.states(NAME, DEVICES)

    def _check_states(self, records: Sequence[Stored]) -> None:
        """What is kept follows from the events one by one, whatever was put back to whenever in between."""
        now: dict[str, list[int]] = {}
        past: list[tuple[int, str, list[int]]] = []
        wanted: dict[str, list[int]] | None = None
        for item in records:
            record = item.record
            if isinstance(record, Command):
                assert record.args == [*now.get(record.device, []), int(record.origin.cause.rpartition("/")[2])]
            elif isinstance(record, StateChange):
                entry, before = record.entries["seen"], record.before["seen"]
                assert json.loads(before[0] if before else "[]") == now.get(record.key, [])
                now[record.key] = json.loads(entry[0] if entry else "[]")
                past.append((record.at, record.key, now[record.key]))
            elif isinstance(record, FlowState):
                if wanted is not None and record.rewriting is None:
                    assert {key: seen for key, seen in now.items() if seen} == wanted
                    wanted = None
                if record.rewriting is not None and record.rewriting.until == item.offset - 1:
                    then = {key: seen for at, key, seen in past if at <= record.rewriting.after}
                    wanted = {key: seen for key, seen in then.items() if seen}
        assert wanted is None
        keys, states = self.do(self._kept())
        assert keys == sorted(states) == sorted(key for key, seen in now.items() if seen)
        assert {key: json.loads(state["seen"][0]) for key, state in states.items()} == {
            k: v for k, v in now.items() if v
        }


class SqliteHistory(History):
    """The same with the real journal: a crash is a SIGKILL of its writer."""

    async def open_journal(self) -> Journal:
        self.folder = tempfile.TemporaryDirectory()
        return await SqliteJournal.open(Path(self.folder.name) / "journal.db")

    async def crashed_journal(self) -> Journal:
        await self._kill()
        return await SqliteJournal.open(Path(self.folder.name) / "journal.db")

    async def close_journal(self) -> None:
        assert isinstance(self.journal, SqliteJournal)
        await self.journal.close()
        self.folder.cleanup()

    async def _kill(self) -> None:
        assert isinstance(self.journal, SqliteJournal)
        process = self.journal._process
        assert process is not None
        process.kill()
        await self.journal.close()


TestInMemory = pytest.mark.timeout(900)(History.TestCase)  # minutes where both cores have other work
TestInMemory.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOnDisk = pytest.mark.timeout(900)(SqliteHistory.TestCase)
TestOnDisk.settings = settings(
    max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
