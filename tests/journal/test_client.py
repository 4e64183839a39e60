"""The daemon's side: what the writer stores by itself is heard, what does not fit is refused, memory is bounded."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.errors import StaleGeneration, StorageError, StorageFull
from edge_runtime.events import Event
from edge_runtime.journal.interface import Appended, Placed
from edge_runtime.journal.records import FlowState, Gap, Progress, Stored, Trimmed
from edge_runtime.journal.retention import Retention
from edge_runtime.journal.sqlite import client
from edge_runtime.journal.sqlite.client import SqliteJournal
from tests.journal.test_power_cut import BOOT


def event(seq: int, size: int = 1000) -> Event:
    return Event("gh-1", BOOT, seq, "climate", seq, seq, "x" * size)


async def test_listeners_hear_of_trimming_in_order(tmp_path: Path) -> None:
    retention = Retention(max_bytes=256 << 10, flow_budget=0)
    journal = await SqliteJournal.open(tmp_path / "journal.db", retention=retention)
    heard: list[Stored] = []
    journal.listen(heard.extend)
    await journal.append([FlowState("app.slow", 1, 0, -1)])
    for start in range(0, 2000, 20):
        await journal.append([event(seq) for seq in range(start, start + 20)])
    tables = await journal.tables()
    assert [item.offset for item in heard] == list(range(tables.head + 1))
    trimmed = [item.record.upto for item in heard if isinstance(item.record, Trimmed)]
    assert tables.first == trimmed[-1] + 1
    assert any(isinstance(item.record, Gap) for item in heard)
    assert (await journal.read(-1, 1))[0].offset == tables.first
    usage = await journal.tick(5, 5, trusted=True)
    assert (usage.first, usage.head, usage.full) == (tables.first, tables.head, False)
    assert usage.bytes < 1 << 20
    await journal.close()


async def test_at_the_quota_each_caller_hears_its_own_outcome(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db", max_bytes=1 << 20)
    await journal.append([FlowState("app.flow", 1, 0, -1)])
    with pytest.raises(StorageFull):
        await asyncio.gather(*(journal.append([event(seq)]) for seq in range(2000)))
    with pytest.raises(StorageFull):  # noqa: PT012
        for seq in range(2000, 3000):
            await journal.append([event(seq)])  # what the last group left over
    assert (await journal.tick(5, 5, trusted=False)).full
    head = (await journal.tables()).head
    outcomes = await asyncio.gather(
        journal.append([event(5000)]),
        journal.commit(Progress("app.flow", 1, head), [event(6000, 10)]),
        journal.commit(Progress("app.flow", 2, head), []),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], StorageFull)
    assert not isinstance(outcomes[1], BaseException)
    assert isinstance(outcomes[2], StaleGeneration)
    await journal.close()


async def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_WAITING_BYTES", 50_000)
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    waiting = [asyncio.ensure_future(journal.append([event(seq)])) for seq in range(100)]
    done = await asyncio.gather(*waiting, return_exceptions=True)
    refused = sum(isinstance(outcome, StorageFull) for outcome in done)
    assert 50 <= refused < 60
    assert len((await journal.append([event(200)])).stored) == 1
    await journal.close()


async def test_too_many_records_at_once_are_refused(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    with pytest.raises(StorageError, match="the limit is 1000"):
        await journal.append([event(seq, 1) for seq in range(1001)])
    await journal.close()
    with pytest.raises(StorageError, match="closed"):
        await journal.append([event(1)])


async def test_a_cancelled_backup_does_not_stand_in_the_way_of_others(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    for start in range(0, 2000, 500):
        await journal.append([event(seq) for seq in range(start, start + 500)])
    first = asyncio.ensure_future(journal.backup(tmp_path / "first.db"))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(StorageError, match="another backup"):
        await journal.backup(tmp_path / "second.db")
    while not (tmp_path / "first.db").exists():
        await journal.tables()
    await journal.tables()  # answered after the news of the copy's end
    assert (await journal.backup(tmp_path / "third.db")).records == 2000
    await journal.close()


async def test_a_killed_writer_is_noticed(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    await journal.append([event(0)])
    waiting = asyncio.ensure_future(journal.append([event(1)]))
    backup = asyncio.ensure_future(journal.backup(tmp_path / "copy.db"))
    await asyncio.sleep(0)
    os.kill(journal.writer_pid, signal.SIGKILL)
    await journal.lost
    outcomes = await asyncio.gather(waiting, backup, return_exceptions=True)
    assert all(isinstance(outcome, StorageError) for outcome in outcomes)
    await journal.close()


async def test_what_many_submit_is_settled_each_for_itself_after_the_listeners(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    await journal.append([event(1), Event("gh-1", BOOT, 2, "climate", 2, 2, "first")])
    told: list[str] = []
    outcomes: dict[str, Appended | Exception] = {}
    done = asyncio.Event()
    journal.listen(lambda stored: told.extend(type(item.record).__name__ for item in stored))
    others: list[Stored] = []
    journal.listen(others.extend, events=False)

    def settled(name: str) -> Callable[[Appended | Exception], None]:
        def tell(outcome: Appended | Exception) -> None:
            outcomes[name] = outcome
            if len(outcomes) == 5:
                done.set()
            if isinstance(outcome, Appended):
                assert len(told) == 4, "the listeners have not heard of the whole group"
                raise ValueError("a defect that is nobody else's")

        return tell

    journal.submit([event(3)], settled("new"))
    journal.submit([event(1)], settled("repeat"))
    journal.submit([Event("gh-1", BOOT, 2, "climate", 2, 2, "second")], settled("conflict"))
    journal.submit([Event("gh-1", BOOT, 9, "climate", 2, 2, "\ud800")], settled("unfit"))
    journal.submit([event(4), event(3), event(5)], settled("some"))
    assert not outcomes  # in a later turn of the loop, even what is refused
    await asyncio.wait_for(done.wait(), 30)
    placed = {name: found.placed for name, found in outcomes.items() if isinstance(found, Appended)}
    assert placed == {
        "new": [Placed.STORED],
        "repeat": [Placed.DUPLICATE],
        "conflict": [Placed.CONFLICT],
        "some": [Placed.STORED, Placed.DUPLICATE, Placed.STORED],
    }
    assert isinstance(outcomes["unfit"], StorageError)
    assert told == ["Event", "DeadLetter", "Event", "Event"]
    assert [type(item.record).__name__ for item in others] == ["DeadLetter"]
    stored = [item for found in outcomes.values() if isinstance(found, Appended) for item in found.stored]
    assert sorted(item.offset for item in stored) == [2, 3, 4, 5]
    assert [item.record for item in await journal.read(1, 10)] == [item.record for item in stored]
    await journal.close()


async def test_closing_waits_for_what_was_submitted(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    outcomes: list[Appended | Exception] = []
    for seq in range(5000):
        journal.submit([event(seq, 10)], outcomes.append)
    await journal.close()
    assert len(outcomes) == 5000
    assert [one.stored[0].offset for one in outcomes if isinstance(one, Appended)] == list(range(5000))
    journal.submit([event(6000)], outcomes.append)
    await asyncio.sleep(0)
    assert isinstance(outcomes[-1], StorageError)
