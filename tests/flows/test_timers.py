"""Events that come later: once, at their time by a clock that may be wrong, set, or not set at all."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime

import msgspec
import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.events import GATEWAY, Event, Origin
from edge_runtime.flows.timers import GRACE, KEY, Timers
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import ClockSet, Record, Timer, TimerCancelled, TimerFired
from edge_runtime.manifest import Schedule
from tests.flows.conftest import turns

SECOND, MINUTE, HOUR, DAY = 10**6, 60 * 10**6, 3600 * 10**6, 86400 * 10**6
YEAR = 365 * DAY
UNSET = 1_000_000
"""Where a clock without a battery begins: seconds after 1970."""
FLOW = "app.f"


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


NOW = at("2026-11-22 12:00")


def every(length: int, missed: str = "skip") -> Schedule:
    return Schedule("f", "$schedule.app.f", every=length, missed=missed)


def cron(text: str, missed: str = "skip", tz: str = "UTC") -> Schedule:
    return Schedule("f", "$schedule.app.f", cron=text, tz=tz, missed=missed)


class House:
    """Timers over the restricted journal. Time goes on only in `run`, in steps that a second divides."""

    def __init__(self, now: int = NOW, journal: MemoryJournal | None = None) -> None:
        self.clock = ManualClock(now)
        self.journal = journal or MemoryJournal()
        self.dealt = -1
        """The flow has dealt with everything up to here; with -1, with everything."""
        self.numbers = itertools.count()

    async def open(self) -> House:
        self.timers = Timers(
            self.journal,
            await self.journal.tables(),
            self.clock,
            done=lambda _flow, offset: self.dealt < 0 or offset <= self.dealt,
            draw=lambda: (len(self.journal.records()) * 1000 + next(self.numbers)).to_bytes(8, "big"),
        )
        return self

    async def again(self, off: int = 0, *, now: int | None = None) -> House:
        """After a crash, and having been off for so long; `now`: what the clock says then."""
        house = House(self.clock.now() + off if now is None else now, MemoryJournal(self.journal.records()))
        return await house.open()

    def timer(self, number: int, after: int, key: str = "", device: str = "gh-1") -> Timer:
        origin = Origin(FLOW, 0, f"cause/{number}", 0)
        event = Event(device, b"", 0, "later", 0, 0, {"n": number}, 1, origin)
        return Timer(FLOW, event, self.timers.now(), after, key)

    async def defer(self, number: int, after: int, key: str = "") -> Timer:
        timer = self.timer(number, after, key)
        await self.journal.append([timer])
        return timer

    async def run(self, length: int) -> None:
        """Let time pass, looking whenever there may be something to do."""
        end = self.clock.monotonic() + length
        while True:
            await self.timers.look()
            left = end - self.clock.monotonic()
            if left <= 0:
                return
            # It would look every second; in between nothing can happen.
            self.clock.advance(min(left, max(SECOND, self.timers._next())))

    def events(self) -> list[Event]:
        return [record for record in self.journal.records() if isinstance(record, Event)]

    def came(self) -> list[tuple[int, int]]:
        """What has come: its number, and how long after noon."""
        return [(event.data["n"], event.received - NOW) for event in self.events()]

    def ticks(self) -> list[str]:
        """The moments of the ticks that have come."""
        found = [datetime.fromtimestamp(event.data["due"] / 1e6, UTC) for event in self.events()]
        return [moment.strftime("%m-%d %H:%M:%S") for moment in found]

    def of(self, kind: type[Record]) -> int:
        return sum(isinstance(record, kind) for record in self.journal.records())


@pytest.fixture
async def house() -> House:
    return await House().open()


# Deferred events


async def test_it_comes_when_it_is_due_and_once(house: House) -> None:
    timer = await house.defer(1, 90 * SECOND)
    await house.defer(2, 30 * SECOND)
    await house.run(HOUR)
    assert house.came() == [(2, 30 * SECOND), (1, 90 * SECOND)]
    event = house.events()[1]
    assert (event.id, event.device, event.kind, event.hops) == (timer.id, "gh-1", "later", 1)
    assert event.time == event.received == NOW + 90 * SECOND
    assert (len(house.timers), house.timers.fired) == (0, 2)


async def test_of_those_with_a_key_the_newest_comes(house: House) -> None:
    for number in range(5):
        await house.defer(number, MINUTE, key="silence")
        await house.run(30 * SECOND)
    await house.run(HOUR)
    assert house.came() == [(4, 180 * SECOND)]


async def test_a_cancelled_one_does_not_come(house: House) -> None:
    await house.defer(1, MINUTE, key="silence")
    await house.run(59 * SECOND)
    await house.journal.append([TimerCancelled(FLOW, "gh-1", "silence")])
    await house.run(HOUR)
    assert house.came() == []


async def test_run_wakes_for_a_nearer_one(house: House) -> None:
    running = asyncio.ensure_future(house.timers.run())
    await turns()
    await house.defer(1, 250_000)
    await turns()
    house.clock.advance(250_000)
    await turns()
    assert house.came() == [(1, 250_000)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_time_off_counts_where_the_clock_can_be_trusted(house: House) -> None:
    await house.defer(1, HOUR)
    await house.defer(2, DAY)
    await house.run(10 * MINUTE)
    house = await house.again(off=20 * MINUTE)
    await house.run(DAY)
    assert house.came() == [(1, HOUR), (2, DAY)]


async def test_what_was_due_while_it_was_off_comes_at_the_start(house: House) -> None:
    await house.defer(1, HOUR)
    house = await house.again(off=3 * HOUR)
    await house.run(SECOND)
    assert house.came() == [(1, 3 * HOUR)]


async def test_a_clock_that_is_set_while_it_runs_changes_nothing(house: House) -> None:
    await house.defer(1, HOUR)
    await house.run(MINUTE)
    for step in (YEAR, -2 * YEAR, YEAR):
        house.clock.step(step)
        await house.run(10 * MINUTE)
        assert house.came() == []
    await house.run(28 * MINUTE)
    assert house.came() == []
    await house.run(MINUTE)
    assert house.came() == [(1, HOUR)]


@pytest.mark.parametrize("step", [YEAR, -YEAR // 2, 3 * HOUR, -3 * HOUR])
async def test_a_clock_that_was_set_is_no_time_that_has_passed_over_a_restart(house: House, step: int) -> None:
    await house.defer(1, DAY)
    await house.run(HOUR)
    house.clock.step(step)
    await house.run(2 * SECOND)
    await house.defer(2, DAY)
    await house.run(HOUR)
    house = await house.again(off=HOUR)
    await house.run(DAY)
    assert house.came() == [(1, step + DAY), (2, step + DAY + HOUR + 2 * SECOND)]


async def test_a_gateway_without_the_time_counts_its_running_time() -> None:
    house = await House(UNSET).open()
    await house.defer(1, HOUR)
    await house.run(30 * MINUTE)
    house = await house.again(now=UNSET)
    await house.run(59 * MINUTE)
    assert house.came() == [], "how long it was off nobody knows"
    await house.run(MINUTE)
    assert [number for number, _ in house.came()] == [1]


async def test_what_was_set_before_the_time_was_known_is_dated_when_it_is() -> None:
    house = await House(UNSET).open()
    await house.defer(1, DAY)
    await house.run(HOUR)
    house.clock.step(NOW - house.clock.now())
    await house.run(HOUR)
    assert house.of(ClockSet) == 1
    house = await house.again(off=12 * HOUR)
    await house.run(10 * HOUR - MINUTE)
    assert house.came() == []
    await house.run(MINUTE)
    assert house.came() == [(1, 23 * HOUR)]


async def test_a_start_without_the_time_waits_and_knows_better_once_it_has_it(house: House) -> None:
    await house.defer(1, DAY)
    await house.defer(2, 30 * DAY)
    house = await house.again(now=UNSET)
    await house.run(MINUTE)
    assert house.came() == []
    house.clock.step(NOW + 2 * DAY - house.clock.now())
    await house.run(2 * SECOND)
    assert [number for number, _ in house.came()] == [1]
    await house.run(27 * DAY)
    assert len(house.came()) == 1
    await house.run(DAY)
    assert [number for number, _ in house.came()] == [1, 2]


async def test_a_clock_that_was_ahead_and_is_right_after_the_restart_holds_nothing_up() -> None:
    house = await House(NOW + 10 * YEAR).open()
    await house.defer(1, HOUR)
    house = await house.again(now=NOW)
    await house.run(59 * MINUTE)
    assert house.of(ClockSet) == 1
    house = await house.again()
    await house.run(MINUTE)
    assert house.came() == [(1, HOUR)]


async def test_a_full_journal_puts_it_off_and_loses_nothing(house: House) -> None:
    for number in range(500):
        await house.defer(number, MINUTE)
    house.journal.full = True
    await house.run(2 * MINUTE)
    assert house.came() == []
    assert "full" in house.timers.waiting_for
    house.journal.full = False
    await house.run(SECOND)
    assert sorted(number for number, _ in house.came()) == list(range(500))
    assert (house.of(TimerFired), house.timers.waiting_for) == (500, "")


async def test_it_is_known_when_a_flow_has_too_many() -> None:
    house = await House().open()
    for start in range(0, 10_000, 1000):
        await house.journal.append([house.timer(start + number, HOUR) for number in range(1000)])
    assert house.timers.full(FLOW, 1, 500)
    assert not house.timers.full("app.g", 1, 500)
    await house.run(HOUR)
    assert not house.timers.full(FLOW, 1, 500)
    assert len(house.came()) == 10_000


# Schedules


async def test_every_so_often(house: House) -> None:
    await house.timers.install(FLOW, every(10 * MINUTE))
    await house.run(35 * MINUTE)
    assert house.ticks() == ["11-22 12:10:00", "11-22 12:20:00", "11-22 12:30:00"]
    events = house.events()
    assert {(event.device, event.kind, event.boot, event.origin) for event in events} == {
        (GATEWAY, "$schedule.app.f", events[0].boot, None)
    }
    assert [event.seq for event in events] == [0, 1, 2]
    assert len({event.id for event in events}) == 3


async def test_the_rhythm_goes_on_over_a_restart(house: House) -> None:
    await house.timers.install(FLOW, every(10 * MINUTE))
    await house.run(15 * MINUTE)
    house = await house.again(off=MINUTE)
    await house.timers.install(FLOW, every(10 * MINUTE))
    await house.run(15 * MINUTE)
    assert house.ticks() == ["11-22 12:10:00", "11-22 12:20:00", "11-22 12:30:00"]


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("skip", ["11-22 15:10:00", "11-22 15:20:00"]), ("once", ["11-22 12:10:00", "11-22 15:10:00", "11-22 15:20:00"])],
)
async def test_moments_at_which_it_was_off_come_at_most_once(house: House, missed: str, expected: list[str]) -> None:
    await house.timers.install(FLOW, every(10 * MINUTE, missed))
    await house.run(MINUTE)
    house = await house.again(off=3 * HOUR)
    await house.timers.install(FLOW, every(10 * MINUTE, missed))
    await house.run(20 * MINUTE)
    assert house.ticks() == expected


async def test_a_short_restart_misses_nothing(house: House) -> None:
    for schedule in (every(HOUR), cron("0 13 * * *")):
        house = await House().open()
        await house.timers.install(FLOW, schedule)
        await house.run(HOUR - SECOND)
        house = await house.again(off=30 * SECOND)
        await house.timers.install(FLOW, schedule)
        await house.run(SECOND)
        assert house.ticks() == ["11-22 13:00:00"]


async def test_a_step_of_a_year_fires_no_backlog(house: House) -> None:
    for missed in ("skip", "once"):
        house = await House().open()
        await house.timers.install(FLOW, every(10 * MINUTE, missed))
        await house.timers.install("app.g", cron("*/10 * * * *", missed))
        await house.run(MINUTE)
        house.clock.step(YEAR)
        await house.run(2 * SECOND)
        of_calendar = ["11-22 12:10:00"] if missed == "once" else []
        assert house.ticks() == of_calendar, "the other goes by running time"
        await house.run(10 * MINUTE)
        assert len(house.events()) == len(of_calendar) + 2


async def test_the_calendar_waits_for_the_time() -> None:
    house = await House(UNSET).open()
    await house.timers.install(FLOW, cron("0 6 * * *"))
    await house.run(2 * DAY)
    assert (house.events(), len(house.timers)) == ([], 0)
    house.clock.step(NOW - house.clock.now())
    await house.run(2 * DAY)
    assert house.ticks() == ["11-23 06:00:00", "11-24 06:00:00"]


async def test_the_calendar_follows_its_time_zone(house: House) -> None:
    await house.timers.install(FLOW, cron("0 6 * * *", tz="Europe/Berlin"))
    await house.run(2 * DAY)
    assert house.ticks() == ["11-23 05:00:00", "11-24 05:00:00"]


@pytest.mark.parametrize(
    ("missed", "expected"), [("skip", ["11-26 06:00:00"]), ("once", ["11-23 06:00:00", "11-26 06:00:00"])]
)
async def test_days_off_come_at_most_once(house: House, missed: str, expected: list[str]) -> None:
    await house.timers.install(FLOW, cron("0 6 * * *", missed))
    house = await house.again(off=3 * DAY)
    await house.timers.install(FLOW, cron("0 6 * * *", missed))
    await house.run(DAY)
    assert house.ticks() == expected


async def test_a_clock_set_back_by_hours_repeats_nothing(house: House) -> None:
    await house.timers.install(FLOW, cron("0 13 * * *"))
    await house.run(HOUR)
    house.clock.step(-2 * HOUR)
    await house.run(26 * HOUR)
    assert house.ticks() == ["11-22 13:00:00", "11-23 13:00:00"]


@pytest.mark.parametrize("restart", [False, True])
async def test_a_clock_that_was_years_ahead_does_not_silence_the_calendar(house: House, restart: bool) -> None:
    house = await House(NOW + 5 * YEAR).open()
    await house.timers.install(FLOW, cron("0 13 * * *"))
    await house.run(2 * HOUR)
    if restart:
        house = await house.again(now=NOW)
        await house.timers.install(FLOW, cron("0 13 * * *"))
    else:
        house.clock.step(NOW - house.clock.now())
    await house.run(HOUR + SECOND)
    assert house.ticks()[-1] == "11-22 13:00:00"
    assert len({event.id for event in house.events()}) == 2


async def test_a_flow_that_does_not_come_on_has_one_tick_waiting(house: House) -> None:
    for schedule in (every(MINUTE), cron("* * * * *")):
        house = await House().open()
        await house.timers.install(FLOW, schedule)
        await house.run(MINUTE)
        house.dealt = 0
        await house.run(HOUR)
        assert len(house.events()) == 1
        house = await house.again()
        house.dealt = 0
        await house.timers.install(FLOW, schedule)
        await house.run(HOUR)
        assert len(house.events()) == 1, "a restart does not make it forget"
        house.dealt = 10**9
        await house.run(5 * MINUTE)
        assert len(house.events()) == 6
        assert [event.seq for event in house.events()] == list(range(6))


async def test_another_schedule_replaces_it_and_the_same_goes_on(house: House) -> None:
    await house.timers.install(FLOW, every(10 * MINUTE))
    await house.run(9 * MINUTE)
    await house.timers.install(FLOW, msgspec.structs.replace(every(10 * MINUTE), missed="once"))
    await house.run(MINUTE)
    assert house.ticks() == ["11-22 12:10:00"]
    await house.timers.install(FLOW, every(HOUR))
    await house.run(50 * MINUTE)
    await house.timers.install(FLOW, cron("30 * * * *"))
    await house.run(40 * MINUTE)
    assert house.ticks() == ["11-22 12:10:00", "11-22 13:30:00"]
    assert len({event.id for event in house.events()}) == 2


async def test_a_removed_schedule_is_gone_and_can_come_back(house: House) -> None:
    await house.timers.install(FLOW, every(10 * MINUTE))
    await house.timers.remove(FLOW)
    await house.timers.remove(FLOW)
    await house.run(HOUR)
    assert (house.events(), len(house.timers)) == ([], 0)
    await house.timers.install(FLOW, every(10 * MINUTE))
    await house.run(10 * MINUTE)
    assert house.ticks() == ["11-22 13:10:00"]


async def test_an_app_that_does_not_run_has_no_ticks(house: House) -> None:
    await house.timers.install(FLOW, every(10 * MINUTE))
    house = await house.again()
    await house.run(HOUR)
    assert house.events() == []
    await house.timers.install(FLOW, every(10 * MINUTE))
    await house.run(10 * MINUTE + GRACE)
    assert house.ticks() == ["11-22 13:10:00"]
    assert house.timers._pending.under(FLOW, GATEWAY, KEY) is not None
