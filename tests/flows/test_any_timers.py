"""Deferred events through any history of crashes, clocks that are set, and full disks: once, never early, none lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_runtime.clock import TRUSTED_AFTER
from edge_runtime.events import Event
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Timer, TimerCancelled
from tests.flows.conftest import turns
from tests.flows.test_any_history import SlowJournal
from tests.flows.test_timers import DAY, FLOW, HOUR, MINUTE, NOW, SECOND, UNSET, House, every

T = TypeVar("T")
AFTER = (SECOND, 30 * SECOND, 10 * MINUTE, HOUR, DAY)
KEYS = ("", "", "silence", "check")


class History(RuleBasedStateMachine):
    """The timers' service over a journal that takes its time. True time is kept here, whatever the clock says."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.true = 0
        self.number = 0
        self.promised: dict[str, int] = {}
        """Until when, in true time, each may not come."""
        self.keyed: dict[str, str] = {}
        self.void: set[str] = set()
        """Those that were replaced or cancelled before they came."""
        self.arrived: dict[str, int] = {}
        self.ahead = 0
        """By how much the wall clock is wrong."""

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize(trusted=st.booleans())
    def begin(self, trusted: bool) -> None:
        self.house = self.do(self._open(NOW if trusted else UNSET, SlowJournal()))

    async def _open(self, now: int, journal: MemoryJournal) -> House:
        house = await House(now, journal).open()
        journal.listen(lambda stored: self._note([item.record for item in stored]))
        await house.timers.install("app.g", every(7 * MINUTE))
        return house

    def _note(self, records: list[object]) -> None:
        for record in records:
            if isinstance(record, Timer) and record.key and not record.repeats:
                self._end(record.key)
                self.keyed[record.key] = record.id
            elif isinstance(record, TimerCancelled):
                self._end(record.key)
            elif isinstance(record, Event):
                assert record.id not in self.arrived, "twice"
                assert record.id not in self.void, "though it was taken back"
                assert self.true >= self.promised.get(record.id, 0), "too early"
                self.arrived[record.id] = self.true

    def _end(self, key: str) -> None:
        old = self.keyed.pop(key, None)
        if old is not None and old not in self.arrived:
            self.void.add(old)

    # What happens

    @rule(after=st.sampled_from(AFTER), key=st.sampled_from(KEYS))
    def defer(self, after: int, key: str) -> None:
        self.number += 1
        timer = self.house.timer(self.number, after, key)
        self.promised[timer.id] = self.true + after - SECOND
        self.do(self.house.journal.append([timer]))

    @rule(key=st.sampled_from(KEYS[2:]))
    def cancel(self, key: str) -> None:
        self.do(self.house.journal.append([TimerCancelled(FLOW, "gh-1", key)]))

    @rule(length=st.sampled_from([SECOND, 5 * MINUTE, HOUR]))
    def time_passes(self, length: int) -> None:
        self.true += length
        self.house.clock.advance(length)
        self.do(self.house.timers.look())

    @rule(pause=st.integers(0, 6))
    def fire_while_a_function_replaces_it(self, pause: int) -> None:
        self.defer(after=SECOND, key="silence")

        async def both() -> None:
            self.true += SECOND
            self.house.clock.advance(SECOND)
            looking = asyncio.ensure_future(self.house.timers.look())
            await turns(pause)
            self.number += 1
            timer = self.house.timer(self.number, HOUR, "silence")
            self.promised[timer.id] = self.true + HOUR - SECOND
            await self.house.journal.append([timer])
            await looking

        self.do(both())

    @rule(step=st.sampled_from([3 * SECOND, -HOUR, 400 * DAY, -100 * DAY]))
    def the_clock_is_set(self, step: int) -> None:
        """While it runs. A clock that had begun anew is set to what it would have said."""
        clock = self.house.clock
        if clock.now() > TRUSTED_AFTER:
            clock.step(step)
            self.ahead += step
        else:
            clock.step(NOW + self.true + self.ahead - clock.now())
        self.do(self.house.timers.look())

    @rule(
        off=st.sampled_from([0, SECOND, HOUR, 3 * DAY]),
        lost=st.booleans(),
        pause=st.integers(0, 8),
    )
    def crash(self, off: int, lost: bool, pause: int) -> None:
        """In the middle of a look; off for a while; `lost`: the clock begins anew, as one without a battery."""

        async def crash() -> None:
            self.house.clock.advance(SECOND)
            self.true += SECOND
            looking = asyncio.ensure_future(self.house.timers.look())
            await turns(pause)
            looking.cancel()
            assert isinstance(self.house.journal, SlowJournal)
            journal = SlowJournal(await self.house.journal.crash())
            await asyncio.gather(looking, return_exceptions=True)
            self.true += off
            self.house = await self._open(UNSET if lost else self.house.clock.now() + off, journal)

        self.do(crash())

    @rule()
    def the_disk_is_full_for_a_while(self) -> None:
        self.house.journal.full = True
        self.true += HOUR
        self.house.clock.advance(HOUR)
        self.do(self.house.timers.look())
        self.house.journal.full = False

    # What must hold

    @invariant()
    def no_backlog(self) -> None:
        if hasattr(self, "house"):
            assert len(self.house.timers) <= self.number + 1

    def teardown(self) -> None:
        try:
            if hasattr(self, "house"):
                self._finish()
        finally:
            self.loop.close()

    def _finish(self) -> None:
        for length in (SECOND, 2 * DAY, SECOND):
            self.time_passes(length)
        ids = Counter(event.id for event in self.house.events())
        assert set(ids.values()) <= {1}
        assert set(self.promised) == {identity for identity in ids if "/" not in identity} | self.void
        ticks = [event for event in self.house.events() if event.kind.startswith("$")]
        assert len(ticks) * 7 * MINUTE <= self.true + 7 * MINUTE, "not more of them than fit into the time"


TestAnyTimers = pytest.mark.timeout(900)(History.TestCase)
TestAnyTimers.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
