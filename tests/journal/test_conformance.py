"""What every journal must do, on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.clock import TRUSTED_AFTER
from edge_runtime.errors import StaleGeneration, StorageError
from edge_runtime.events import Event, Origin
from edge_runtime.journal.interface import Journal, Placed
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import (
    AppVersion,
    ClockSet,
    Command,
    CommandEnd,
    DeadLetter,
    Device,
    Entry,
    FlowState,
    Progress,
    Record,
    StateChange,
    Stored,
    Timer,
    TimerCancelled,
    TimerFired,
)
from edge_runtime.journal.sqlite.client import SqliteJournal

BOOT = b"8 bytes."


def event(seq: int, device: str = "gh-1", **data: Any) -> Event:
    return Event(device, BOOT, seq, "climate", 1_000 + seq, 2_000, data or {"n": seq})


def command(index: int, device: str = "gh-1") -> Command:
    return Command(device, "fan", {"on": True}, 1, 10_000_000, Origin("app.f", 0, "cause", index))


class Restartable:
    """A journal that can be closed and opened again over the same records."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind = kind
        self._path = folder / "journal.db"
        self.journal: Journal

    async def open(self) -> Journal:
        if self._kind == "sqlite":
            self.journal = await SqliteJournal.open(self._path)
        else:
            old = getattr(self, "journal", None)
            self.journal = MemoryJournal(old.records() if isinstance(old, MemoryJournal) else ())
        return self.journal

    async def close(self) -> None:
        if isinstance(self.journal, SqliteJournal):
            await self.journal.close()

    async def restart(self) -> Journal:
        await self.close()
        return await self.open()

    async def lives(self) -> AsyncIterator[Journal]:
        """The journal as it is, then after a restart."""
        yield self.journal
        yield await self.restart()


@pytest.fixture(params=["memory", "sqlite"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Restartable]:
    house = Restartable(request.param, tmp_path)
    await house.open()
    yield house
    await house.close()


async def everything(journal: Journal) -> list[Stored]:
    found: list[Stored] = []
    while batch := await journal.read(found[-1].offset if found else -1, 100):
        found.extend(batch)
    return found


async def test_offsets_rise_without_gaps_over_restarts(house: Restartable) -> None:
    await house.journal.append([event(0), event(1)])
    journal = await house.restart()
    await journal.append([event(2)])
    assert [item.offset for item in await everything(journal)] == [0, 1, 2]
    assert (await journal.tables()).head == 2


async def test_a_repeat_is_recognised_and_stored_once(house: Restartable) -> None:
    outcome = await house.journal.append([event(5), event(5), event(6)])
    assert outcome.placed == [Placed.STORED, Placed.DUPLICATE, Placed.STORED]
    async for journal in house.lives():
        again = await journal.append([event(5), event(6), event(4)])
        assert again.placed[:2] == [Placed.DUPLICATE, Placed.DUPLICATE]
    assert len(await everything(house.journal)) == 3


async def test_the_same_sequence_of_another_boot_or_device_is_another_event(house: Restartable) -> None:
    other_boot = Event("gh-1", b"another.", 5, "climate", 1, 1, {})
    outcome = await house.journal.append([event(5), event(5, device="gh-2"), other_boot])
    assert outcome.placed == [Placed.STORED] * 3


@pytest.mark.parametrize("restart", [False, True])
async def test_other_content_under_a_known_identity_is_a_dead_letter(house: Restartable, restart: bool) -> None:
    await house.journal.append([event(5)])
    journal = await house.restart() if restart else house.journal
    heard: list[Stored] = []
    journal.listen(heard.extend)
    outcome = await journal.append([event(5, n="other")])
    assert outcome.placed == [Placed.CONFLICT]
    (stored,) = heard
    assert isinstance(stored.record, DeadLetter)
    assert stored.record.reason == "conflict"
    assert (await everything(journal))[-1] == stored


async def test_listeners_hear_everything_once_in_order(house: Restartable) -> None:
    heard: list[Stored] = []
    house.journal.listen(heard.extend)
    for seq in range(5):
        await house.journal.append([event(seq), event(seq)])
    assert heard == await everything(house.journal)


async def test_effects_and_progress_are_committed_together(house: Restartable) -> None:
    journal = house.journal
    await journal.append([FlowState("app.f", 1, 0, -1), event(0)])
    await journal.commit(Progress("app.f", 1, 1), [command(0)])
    async for now in house.lives():
        tables = await now.tables()
        assert tables.flows["app.f"].cursor == 1
        assert tables.outbox == [command(0)]


async def test_a_stale_generation_stores_nothing(house: Restartable) -> None:
    journal = house.journal
    await journal.append([FlowState("app.f", 1, 0, -1)])
    await journal.append([FlowState("app.f", 2, 0, -1)])
    head = (await journal.tables()).head
    with pytest.raises(StaleGeneration, match="generation 2"):
        await journal.commit(Progress("app.f", 1, 5), [command(0)])
    with pytest.raises(StaleGeneration, match="unknown"):
        await journal.commit(Progress("app.g", 1, 5), [command(0)])
    tables = await journal.tables()
    assert (tables.head, tables.outbox, tables.flows["app.f"].cursor) == (head, [], -1)


async def test_a_command_leaves_the_outbox_with_its_first_end(house: Restartable) -> None:
    journal = house.journal
    await journal.append([command(0), command(1)])
    end = CommandEnd(command(0).id, "gh-1", 0, None, 5)
    first = await journal.append([end])
    again = await journal.append([end])
    assert (first.placed, again.placed) == ([Placed.STORED], [Placed.DUPLICATE])
    assert (await (await house.restart()).tables()).outbox == [command(1)]


async def test_the_newest_device_and_app_stand(house: Restartable) -> None:
    await house.journal.append([Device("gh-1", b"old", 1), AppVersion("greenhouse", "v1", 1)])
    await house.journal.append([Device("gh-1", b"new", 2), AppVersion("greenhouse", "v2", 2)])
    tables = await (await house.restart()).tables()
    assert tables.devices["gh-1"].key_digest == b"new"
    assert tables.apps["greenhouse"].version == "v2"


async def test_reading_starts_after_the_given_offset(house: Restartable) -> None:
    await house.journal.append([event(seq) for seq in range(10)])
    await house.journal.append([event(seq) for seq in range(10, 20)])
    for after, first in ((-1, 0), (3, 4), (9, 10), (14, 15)):
        assert (await house.journal.read(after, 5))[0].offset == first
    assert await house.journal.read(19, 5) == []


async def test_more_than_one_snapshot_of_events_survives_a_restart(house: Restartable) -> None:
    for start in range(0, 10_000, 1000):
        await house.journal.append([event(seq) for seq in range(start, start + 1000)])
    journal = await house.restart()
    outcome = await journal.append([event(0), event(9_999), event(10_000)])
    assert outcome.placed == [Placed.DUPLICATE, Placed.DUPLICATE, Placed.STORED]


async def test_a_full_journal_stores_nothing_and_recovers() -> None:
    journal = MemoryJournal()
    journal.full = True
    with pytest.raises(StorageError):
        await journal.append([event(0)])
    journal.full = False
    assert (await journal.append([event(0)])).placed == [Placed.STORED]


async def test_what_cannot_be_stored_takes_nobody_with_it(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    good, bad, other = (
        asyncio.ensure_future(journal.append([item])) for item in (event(0), event(1, n=2**70), event(2))
    )
    with pytest.raises(StorageError, match="cannot be stored"):
        await bad
    assert [(await found).placed for found in (good, other)] == [[Placed.STORED], [Placed.STORED]]
    await journal.close()


async def test_a_listener_that_fails_keeps_nobody_in_the_dark(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    heard: list[Stored] = []

    def defect(_: object) -> None:
        raise ZeroDivisionError

    journal.listen(defect)
    journal.listen(heard.extend)
    assert (await journal.append([event(0)])).placed == [Placed.STORED]
    assert len(heard) == 1
    await journal.close()


def keeps(key: str, **entries: Any) -> StateChange:
    """A change of what `app.f` keeps: numbers that last, None for what is gone, pairs with an expiry."""
    found: dict[str, Entry | None] = {}
    for name, value in entries.items():
        found[name] = value if value is None or type(value) is tuple else (str(value), 0)
    return StateChange("app.f", key, found, {}, 7)


async def test_what_functions_keep_is_there_after_the_commit_and_after_a_restart(house: Restartable) -> None:
    await house.journal.append([FlowState("app.f", 1, 0, -1)])
    change = keeps("gh-1", count=1, last=("2.5", 99), gone=5)
    await house.journal.commit(Progress("app.f", 1, 0), [change, keeps("gh-1", gone=None), keeps("gh-2", count=2)])
    async for journal in house.lives():
        found = await journal.states("app.f", ["gh-1", "gh-2", "gh-3"])
        assert found == {"gh-1": {"count": ("1", 0), "last": ("2.5", 99)}, "gh-2": {"count": ("2", 0)}}
        assert await journal.states("app.g", ["gh-1"]) == {}
        assert (await journal.tables()).stateful == {"app.f"}
    await house.journal.commit(Progress("app.f", 1, 0), [keeps("gh-1", count=3), keeps("gh-2", count=None)])
    async for journal in house.lives():
        found = await journal.states("app.f", ["gh-1", "gh-2"])
        assert found == {"gh-1": {"count": ("3", 0), "last": ("2.5", 99)}}


async def test_entries_are_found_by_name_among_others(house: Restartable) -> None:
    await house.journal.append([FlowState("app.f", 1, 0, -1)])
    await house.journal.commit(Progress("app.f", 1, 0), [keeps("a", x=1, y=2, z=3), keeps("b", x=4, y=5)])
    async for journal in house.lives():
        assert await journal.entries("app.f", {"a": ["x", "z", "none"], "b": [], "c": ["x"]}) == {
            "a": {"x": ("1", 0), "z": ("3", 0)}
        }
        assert await journal.entries("app.g", {"a": ["x"]}) == {}
    await house.journal.commit(Progress("app.f", 1, 0), [keeps("a", x=None, y=6)])
    async for journal in house.lives():
        assert await journal.entries("app.f", {"a": ["x", "y", "z"]}) == {"a": {"y": ("6", 0), "z": ("3", 0)}}


async def test_a_refused_commit_changes_nothing_that_is_kept(house: Restartable) -> None:
    await house.journal.append([FlowState("app.f", 2, 0, -1)])
    with pytest.raises(StaleGeneration):
        await house.journal.commit(Progress("app.f", 1, 0), [keeps("gh-1", count=1)])
    assert await house.journal.states("app.f", ["gh-1"]) == {}


async def test_the_keys_of_which_something_is_kept_come_in_order_and_in_pages(house: Restartable) -> None:
    names = [f"gh-{number:03}" for number in range(25)]
    for name in names[::2]:
        await house.journal.append([keeps(name, n=1)])
    await house.restart()
    await house.journal.append([keeps(name, n=1) for name in names[1::2]])
    await house.journal.append([keeps("gh-000", n=None), keeps("gh-003", n=None)])
    found: list[str] = []
    while page := await house.journal.state_keys("app.f", found[-1] if found else "", 4):
        assert len(page) <= 4
        found += page
    assert found == [name for name in names if name not in ("gh-000", "gh-003")]


# Events that are to come


def timer(number: int, *, key: str = "", device: str = "gh-1", epoch: int = 0, at: int = -1) -> Timer:
    origin = Origin("app.f", epoch, f"cause-{number}", 0)
    return Timer("app.f", Event(device, b"", 0, "later", 0, 0, {"n": number}, 1, origin), 1_000, 60, key, at)


def fired(timer: Timer) -> list[Record]:
    return [TimerFired(timer.id), timer.event]


async def pending(house: Restartable) -> list[list[int]]:
    """The pending timers' numbers: as it is, and after a restart."""
    return [[timer.event.data["n"] for timer in (await journal.tables()).timers] async for journal in house.lives()]


async def test_timers_wait_until_they_are_fired_and_fire_once(house: Restartable) -> None:
    first, second = timer(1), timer(2)
    await house.journal.append([first, second])
    assert (await house.journal.append(fired(first))).placed == [Placed.STORED] * 2
    assert (await house.journal.append(fired(first))).placed == [Placed.DUPLICATE] * 2
    assert await pending(house) == [[2], [2]]
    assert (await house.journal.append(fired(first))).placed == [Placed.DUPLICATE] * 2
    assert [s.record for s in await everything(house.journal)] == [first, second, *fired(first)]


async def test_fired_in_one_group_it_fires_once_too(house: Restartable) -> None:
    one = timer(1)
    await house.journal.append([one])
    both = await asyncio.gather(house.journal.append(fired(one)), house.journal.append(fired(one)))
    assert [appended.placed[1] for appended in both] == [Placed.STORED, Placed.DUPLICATE]


async def test_a_timer_with_a_key_takes_the_place_of_the_older_one(house: Restartable) -> None:
    old, new = timer(1, key="gone"), timer(2, key="gone")
    await house.journal.append([old, timer(3, key="gone", device="gh-2"), timer(4, key="other"), timer(5)])
    both = await asyncio.gather(house.journal.append([new]), house.journal.append(fired(old)))
    assert both[1].placed == [Placed.DUPLICATE] * 2, "it was replaced before"
    assert await pending(house) == [[3, 4, 5, 2]] * 2


async def test_a_cancelled_timer_never_fires(house: Restartable) -> None:
    one, two = timer(1, key="gone"), timer(2, key="gone", device="gh-2")
    await house.journal.append([one, two])
    await house.journal.append([TimerCancelled("app.f", "gh-1", "gone"), TimerCancelled("app.f", "gh-1", "unknown")])
    assert (await house.journal.append(fired(one))).placed == [Placed.DUPLICATE] * 2
    assert await pending(house) == [[2], [2]]


async def test_a_rewind_voids_timers_of_events_that_are_taken_again(house: Restartable) -> None:
    await house.journal.append([FlowState("app.f", 1, 0, -1)])
    await house.journal.append([timer(1, at=3), timer(2, at=4), timer(3), timer(4, at=9, key="k")])
    await house.journal.append([FlowState("app.f", 2, 0, 9, paused=True), FlowState("app.g", 1, 1, 3, again_after=3)])
    assert [t.event.data["n"] for t in (await house.journal.tables()).timers] == [1, 2, 3, 4]
    await house.journal.append([FlowState("app.f", 3, 1, 3, again_after=3, again_until=9)])
    assert await pending(house) == [[1, 3], [1, 3]]


async def test_what_an_old_clock_has_dated_is_dated_anew_when_the_clock_is_set(house: Restartable) -> None:
    wrong, right = 5_000_000, TRUSTED_AFTER + 10**15
    unset = msgspec.structs.replace(timer(1), set=wrong - 1_000)
    known = msgspec.structs.replace(timer(2), set=right - 7)
    moment = msgspec.structs.replace(timer(3), set=wrong - 1_000, moment=right)
    await house.journal.append([unset, known, moment, ClockSet(wrong, right)])
    async for journal in house.lives():
        assert [t.set for t in (await journal.tables()).timers] == [right - 1_000, right - 7, wrong - 1_000]
    await house.journal.append([ClockSet(right, right - 10**14)])
    assert [t.set for t in (await house.journal.tables()).timers][:2] == [right - 10**14 - 1_000, right - 10**14 - 7]


async def test_the_newest_tick_of_a_schedule_is_known(house: Restartable) -> None:
    event = Event("gateway", BOOT, 0, "$schedule.app.f", 0, 0, {})
    tick = Timer("app.f", event, 1_000, 60, "$schedule", repeats="every 60")
    following = msgspec.structs.replace(tick, event=msgspec.structs.replace(event, seq=1))
    await house.journal.append([tick])
    await house.journal.append([*fired(tick), following])
    async for journal in house.lives():
        tables = await journal.tables()
        assert (tables.ticks, tables.timers) == ({"app.f": 2}, [following])
