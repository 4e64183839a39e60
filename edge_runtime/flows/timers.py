"""Events that come later: those that functions have deferred, and the ticks of schedules. One mechanism for both.

A timer is a record; when it is due, one append holds its end and its event. A schedule is a chain of timers: that
append then holds the next one, too. Whatever happens in between, an event comes once (ADR 0015).

Delays count the time that the gateway runs, by the monotonic clock. Over a restart they go by the wall clock, but only
where it could be trusted when the timer was set and can be now; so a clock that is set changes no delay, and a delay is
never cut short by one. Moments of the calendar wait for a clock that can be trusted.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from edge_runtime.clock import TRUSTED_AFTER, Clock
from edge_runtime.cron import Cron, zone_of
from edge_runtime.errors import StorageError
from edge_runtime.events import GATEWAY, Event
from edge_runtime.journal.interface import Journal, Tables
from edge_runtime.journal.records import (
    ClockSet,
    FlowState,
    Record,
    Stored,
    Timer,
    TimerCancelled,
    TimerFired,
)
from edge_runtime.journal.timers import Pending
from edge_runtime.manifest import Schedule
from edge_runtime.size import rough

MAX_PENDING = 10_000
"""Deferred events of a flow that wait at a time: some megabytes of every snapshot."""
MAX_PENDING_BYTES = 8 << 20
"""What they may hold together, about."""
LONGEST_SLEEP = 1_000_000
"""How often the wall clock is looked at, microseconds: it may be set at any moment."""
STEP = 2_000_000
"""By how much the wall clock must be off for it to have been set; less is a clock that is being steered."""
GRACE = 60_000_000
"""A moment is missed when it is past by more: a restart or an upgrade takes less."""
TURNED_BACK = 86_400_000_000
"""A clock that is set back by more than a day lets the calendar's moments come again; by less, none comes twice."""
AT_ONCE = 200
AT_ONCE_BYTES = 4 << 20
"""Timers that fire in one append, and about how much they may hold."""
KEY = "$schedule"
"""The key under which a flow's next tick is pending; no function can use it."""

_log = logging.getLogger("edge.timers")


class Timers:
    """Keeps what the journal's timers promise.

    `done` tells whether a flow has dealt with the event at an offset, `draw` gives 8 random bytes for each new chain.
    """

    def __init__(
        self,
        journal: Journal,
        tables: Tables,
        clock: Clock,
        *,
        done: Callable[[str, int], bool],
        draw: Callable[[], bytes],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._done = done
        self._draw = draw
        self._pending = Pending(tables.timers, tables.ticks)
        self._wall, self._monotonic = clock.now(), clock.monotonic()
        """The wall clock as it was last seen, and when."""
        self._queue: list[tuple[int, str]] = []
        self._due: dict[str, int] = {}
        """Of timers with a delay: when they are due, by the monotonic clock."""
        self._missed: set[str] = set()
        """Ticks that were due while the gateway was off."""
        self._schedules: dict[str, Schedule] = {}
        self._writing = asyncio.Lock()
        self._news = asyncio.Event()
        self.fired = 0
        self.waiting_for = ""
        """Why timers that are due do not fire just now."""
        self._new = True
        self._recover()
        journal.listen(self._hear, events=False)

    # For flows

    def now(self) -> int:
        """The wall clock as timers see it: it goes on evenly until its being set is a record."""
        return self._wall + self._clock.monotonic() - self._monotonic

    def full(self, flow: str, more: int, size: int) -> bool:
        """Whether a flow has too many pending to defer so many more, of so many bytes together."""
        waiting = self._pending
        return waiting.count(flow) + more > MAX_PENDING or waiting.bytes(flow) + size > MAX_PENDING_BYTES

    def waits(self, flow: str, device: str, key: str) -> bool:
        """Whether a flow's event for a device is still to come under this key."""
        return self._pending.under(flow, device, key) is not None

    def __len__(self) -> int:
        return len(self._pending.timers)

    # For schedules

    async def install(self, flow: str, schedule: Schedule) -> None:
        """Let a flow have a schedule, in place of the one that it has. One with the same moments goes on as it is.

        Raises StorageError.
        """
        async with self._writing:
            old = self._pending.under(flow, GATEWAY, KEY)
            if old is None or old.repeats != schedule.words:
                first = self._first(flow, schedule)
                if first is not None:
                    await self._journal.append([first])
                elif old is not None:
                    await self._journal.append([TimerCancelled(flow, GATEWAY, KEY)])
            elif not old.moment:
                self._due_at(old, self._due[old.id])
                if self._clock.monotonic() - self._due[old.id] > GRACE:
                    self._missed.add(old.id)  # The app did not run.
            self._schedules[flow] = schedule
        self._news.set()

    async def follow(self, app: str, schedules: Mapping[str, Schedule]) -> None:
        """Let the flows of an app have these schedules, by flow, and no others. Raises StorageError."""
        for flow, schedule in schedules.items():
            await self.install(flow, schedule)
        known = {timer.flow for timer in self._pending.timers.values() if timer.repeats}.union(self._schedules)
        for flow in known:
            if flow.startswith(f"{app}.") and flow not in schedules:
                await self.remove(flow)

    async def remove(self, flow: str) -> None:
        """Let a flow have no schedule any more. Raises StorageError."""
        async with self._writing:
            self._schedules.pop(flow, None)
            if self._pending.under(flow, GATEWAY, KEY) is not None:
                await self._journal.append([TimerCancelled(flow, GATEWAY, KEY)])

    def _first(self, flow: str, schedule: Schedule) -> Timer | None:
        """The beginning of a chain; None for one that has to wait for the time of day."""
        event = Event(GATEWAY, self._draw(), 0, schedule.kind, 0, 0, {})
        if schedule.every:
            return Timer(flow, event, self.now(), schedule.every, KEY, repeats=schedule.words)
        if not _trusted(self._clock.now()):
            return None
        return self._by_calendar(flow, event, schedule)

    def _by_calendar(self, flow: str, event: Event, schedule: Schedule) -> Timer | None:
        now = self._clock.now()
        moment = Cron.parse(schedule.cron).next_after(now, zone_of(schedule.tz))
        return None if moment is None else Timer(flow, event, now, 0, KEY, moment=moment, repeats=schedule.words)

    # Running

    async def run(self) -> None:
        """Fire what is due, until cancelled."""
        while True:
            self._news.clear()
            pause = await self.look()
            sleeping = [asyncio.ensure_future(self._clock.sleep(pause)), asyncio.ensure_future(self._news.wait())]
            try:
                await asyncio.wait(sleeping, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in sleeping:
                    one.cancel()

    async def look(self) -> int:
        """Fire what is due now; answers after how many microseconds to look again."""
        try:
            async with self._writing:
                await self._follow_clock()
                await self._begin_chains()
                while await self._fire():
                    await asyncio.sleep(0)
            self.waiting_for = ""
        except StorageError as error:
            if not self.waiting_for:
                _log.warning("events that are due wait until they can be stored: %s", error)
            self.waiting_for = str(error)
            return LONGEST_SLEEP
        return max(1, min(LONGEST_SLEEP, self._next()))

    async def _follow_clock(self) -> None:
        """Notice that the wall clock was set: what it has dated is dated anew, so that a restart counts rightly."""
        before, after = self.now(), self._clock.now()
        if abs(after - before) >= STEP:
            if self._pending.timers:
                await self._journal.append([ClockSet(before, after)])
            _log.info("the clock was set by %+.0f s", (after - before) / 1e6)
        elif self._new and _trusted(after) and any(t.set > after + STEP for t in self._delays()):
            await self._journal.append([ClockSet(after, after)])  # It was set back while the gateway was off.
        self._new = False
        self._wall, self._monotonic = after, self._clock.monotonic()
        if _trusted(after) and not _trusted(before):
            self._recover()

    async def _begin_chains(self) -> None:
        """Schedules by the calendar that wait for the time of day, or whose moment was reckoned with a wrong one."""
        now = self._clock.now()
        if not _trusted(now):
            return
        for flow, schedule in self._schedules.items():
            timer = self._pending.under(flow, GATEWAY, KEY)
            if timer is None:
                timer = self._first(flow, schedule)
            elif timer.moment and timer.set > now + TURNED_BACK:
                timer = self._by_calendar(flow, timer.event, schedule)
            else:
                continue
            if timer is not None:
                await self._journal.append([timer])

    async def _fire(self) -> bool:
        """Fire some of what is due; false if nothing is."""
        records: list[Record] = []
        now = self._clock.now()
        moments = [timer for timer in self._ticks() if timer.moment and timer.moment <= now] if _trusted(now) else []
        for timer in moments[:AT_ONCE]:
            late = now - timer.moment > GRACE and not self.waiting_for
            records += self._tick(
                timer, timer.moment, late, self._by_calendar(timer.flow, timer.event, self._schedules[timer.flow])
            )
        delays = self._pop(AT_ONCE - len(records) // 3)
        for timer in delays:
            records += self._delayed(timer, now)
        if not records:
            return False
        try:
            await self._journal.append(records)
        except BaseException:
            for timer in delays:
                if timer.id in self._due:  # else it was replaced meanwhile
                    self._due_at(timer, self._due[timer.id])
            raise
        self.fired += sum(type(record) is TimerFired for record in records)
        return True

    def _delayed(self, timer: Timer, now: int) -> list[Record]:
        if not timer.repeats:
            return [TimerFired(timer.id), msgspec.structs.replace(timer.event, time=now, received=now)]
        missed = timer.id in self._missed
        due = timer.set + timer.after
        if due > now or _trusted(timer.set) != _trusted(now):  # It was set by a clock that said something else.
            due = now - (self._clock.monotonic() - self._due[timer.id])
        newest = due + max(0, now - due) // timer.after * timer.after
        return self._tick(timer, due, missed, msgspec.structs.replace(timer, set=newest))

    def _tick(self, timer: Timer, due: int, missed: bool, following: Timer | None) -> list[Record]:
        """The tick that was due, unless it is not wanted or the last one still waits; and the next one."""
        waits = self._pending.ticks.get(timer.flow)
        if (missed and self._schedules[timer.flow].missed != "once") or (
            waits is not None and not self._done(timer.flow, waits)
        ):
            return [TimerCancelled(timer.flow, GATEWAY, KEY) if following is None else following]
        now = self._clock.now()
        event = msgspec.structs.replace(timer.event, time=due, received=now, data={"due": due})
        if following is None:
            return [TimerFired(timer.id), event]
        later = msgspec.structs.replace(timer.event, seq=timer.event.seq + 1)
        return [TimerFired(timer.id), event, msgspec.structs.replace(following, event=later)]

    # What is due

    def _ticks(self) -> list[Timer]:
        found = (self._pending.under(flow, GATEWAY, KEY) for flow in self._schedules)
        return [timer for timer in found if timer is not None]

    def _delays(self) -> Iterator[Timer]:
        return (timer for timer in self._pending.timers.values() if not timer.moment)

    def _recover(self) -> None:
        """Reckon when timers are due that may have been set before this start."""
        now, monotonic = self.now(), self._clock.monotonic()
        for timer in self._delays():
            left = timer.after
            if _trusted(timer.set) and _trusted(now):
                passed = now - timer.set
                left -= min(max(passed, 0), left)
                if timer.repeats and passed - timer.after > GRACE:
                    self._missed.add(timer.id)
            self._due_at(timer, min(monotonic + left, self._due.get(timer.id, monotonic + left)))

    def _due_at(self, timer: Timer, due: int) -> None:
        self._due[timer.id] = due
        heapq.heappush(self._queue, (due, timer.id))

    def _next(self) -> int:
        """Microseconds until something is due."""
        found = [self._queue[0][0] - self._clock.monotonic()] if self._queue else []
        now = self._clock.now()
        if _trusted(now):
            found += [timer.moment - now for timer in self._ticks() if timer.moment]
        return min(found, default=2**62)

    def _pop(self, most: int) -> list[Timer]:
        """Timers with a delay that are due."""
        found: dict[str, Timer] = {}
        size = 0
        while self._queue and self._queue[0][0] <= self._clock.monotonic() and len(found) < most:
            if size > AT_ONCE_BYTES:
                break
            due, identity = heapq.heappop(self._queue)
            timer = self._pending.timers.get(identity)
            if timer is None or self._due.get(identity) != due:
                continue  # It has ended, or is due at another time.
            if not timer.repeats or timer.flow in self._schedules:
                found[identity] = timer
                size += rough(timer.event)
        return list(found.values())

    # Following the journal

    def _hear(self, stored: Sequence[Stored]) -> None:
        for item in stored:
            record = item.record
            if not isinstance(record, Timer | TimerFired | TimerCancelled | ClockSet | FlowState):
                continue
            for gone in self._pending.apply(record, item.offset):
                if gone.id not in self._pending.timers:
                    self._due.pop(gone.id, None)
                    self._missed.discard(gone.id)
            if type(record) is Timer and not record.moment:
                self._missed.discard(record.id)
                passed = self.now() - record.set
                if not record.repeats and not 0 <= passed <= GRACE:
                    passed = 0  # The clock was set while it was on its way.
                self._due_at(record, self._clock.monotonic() + max(0, record.after - passed))
                self._news.set()


def _trusted(moment: int) -> bool:
    return moment > TRUSTED_AFTER
