"""What a damaged journal says at start, what the examination finds, what can be saved; backups, and the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from edge_runtime.errors import StorageError
from edge_runtime.events import Event
from edge_runtime.journal.interface import Placed
from edge_runtime.journal.records import Device, FlowState, Gap, Progress, Record, StateChange
from edge_runtime.journal.sqlite import store as store_module
from edge_runtime.journal.sqlite.backup import backup, restore
from edge_runtime.journal.sqlite.client import SqliteJournal
from edge_runtime.journal.sqlite.damage import LOST, examine, salvage
from edge_runtime.journal.sqlite.database import PAGE_SIZE
from edge_runtime.journal.sqlite.messages import Op
from edge_runtime.journal.sqlite.store import Store
from tests.journal.test_power_cut import BOOT, contents

EVENTS = 400


def event(seq: int) -> Event:
    return Event("gh-1", BOOT, seq, "climate", seq, seq, {"n": f"value-{seq:05}", "pad": "x" * 100})


def make(path: Path) -> None:
    """Devices, two flows of which one is behind, and events 0 to 399 at offsets 3 to 402, ten in a batch."""
    store = Store(path)
    states: list[Record] = [FlowState("app.quick", 1, 0, -1), FlowState("app.slow", 1, 0, -1)]
    store.write([Op([Device("gh-1", b"digest", 1), *states])])
    for start in range(0, EVENTS, 10):
        store.write([Op([event(seq) for seq in range(start, start + 10)])])
    store.write([Op([Progress("app.quick", 1, store.head)], "app.quick", 1)])
    store.close()


def flip(path: Path, needle: bytes) -> None:
    """Change one byte where `needle` stands."""
    data = bytearray(path.read_bytes())
    at = data.index(needle)
    data[at] ^= 1
    path.write_bytes(data)


def wipe(path: Path, needle: bytes) -> None:
    """Fill the page where `needle` stands with what was never written."""
    data = bytearray(path.read_bytes())
    page = data.rindex(needle) // PAGE_SIZE * PAGE_SIZE
    data[page : page + PAGE_SIZE] = b"\xa5" * PAGE_SIZE
    path.write_bytes(data)


def test_a_sound_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    make(path)
    before = path.read_bytes()
    report = examine(path)
    assert (report.ok, report.first, report.head, report.records) == (True, 0, 403, 404)
    assert "sound" in report.lines()[0]
    assert path.read_bytes() == before


def test_one_flipped_bit_is_found_and_the_rest_is_saved(tmp_path: Path) -> None:
    path, saved = tmp_path / "journal.db", tmp_path / "saved.db"
    make(path)
    flip(path, b"value-00203")
    report = examine(path)
    assert not report.ok
    assert [(damage.first, damage.last) for damage in report.damage] == [(203, 212)]
    assert "Records 203 to 212 are lost: the checksum" in report.lines()[0]
    assert salvage(path, saved, 77) == report
    store = Store(saved)
    records = {item.offset: item.record for item in contents(store)}
    assert set(range(404)) - set(records) == set(range(203, 213))
    assert [record for record in records.values() if isinstance(record, Gap)] == [
        Gap(LOST, 203, 212, 77),
        Gap("app.slow", 203, 212, 77),
    ]
    tables = store.tables()
    assert tables.devices["gh-1"].key_digest == b"digest"
    assert tables.flows["app.quick"].cursor == 402
    # Every identity is still known, of what was lost too: the saved tables have them.
    (done,) = store.write([Op([event(seq) for seq in range(EVENTS)])])
    assert [placed for _, placed in done.others] == [Placed.DUPLICATE] * EVENTS
    store.close()
    assert examine(saved).ok, "what is known to be lost is not found again"


@pytest.mark.parametrize("number", [0, 57, 203, 399])
def test_a_page_that_cannot_be_read(number: int, tmp_path: Path) -> None:
    path, saved = tmp_path / "journal.db", tmp_path / "saved.db"
    make(path)
    wipe(path, f"value-{number:05}".encode())
    report = examine(path)
    assert not report.ok
    assert any(damage.first <= number + 3 <= damage.last for damage in report.damage)
    assert report.records >= 300
    salvage(path, saved, 77)
    store = Store(saved)
    assert len([item for item in contents(store) if item.offset <= 403]) == report.records
    (done,) = store.write([Op([event(10_000)])])
    assert done.others == []
    store.close()


def test_damaged_tables_stop_the_start_and_are_rebuilt(tmp_path: Path) -> None:
    path, saved = tmp_path / "journal.db", tmp_path / "saved.db"
    make(path)
    db = apsw.Connection(str(path))
    db.execute("UPDATE snapshot SET tables = CAST(x'00' || substr(tables, 2) AS BLOB)")
    db.execute("UPDATE boot SET intervals = x'00'")
    db.close()
    with pytest.raises(StorageError, match="saved tables do not match") as refusal:
        Store(path)
    assert "edge doctor" in refusal.value.hint
    report = examine(path)
    assert (report.ok, report.damage) == (False, [])
    assert "checksum" in report.tables
    salvage(path, saved, 77)
    store = Store(saved)
    tables = store.tables()
    assert tables.devices["gh-1"].key_digest == b"digest"
    assert (tables.flows["app.quick"].cursor, tables.flows["app.slow"].cursor) == (402, -1)
    (done,) = store.write([Op([event(seq) for seq in range(EVENTS)])])
    assert len(done.others) == EVENTS
    store.close()


async def test_a_start_on_damage_is_refused_in_words(tmp_path: Path) -> None:
    make(tmp_path / "journal.db")
    delete(tmp_path / "journal.db", "first < 103")
    with pytest.raises(StorageError, match="records 0 to 102 are missing"):
        await SqliteJournal.open(tmp_path / "journal.db")
    make(tmp_path / "other.db")
    flip(tmp_path / "other.db", b"value-00390")
    with pytest.raises(StorageError, match="batch at record 393 does not match"):
        await SqliteJournal.open(tmp_path / "other.db")


async def test_damage_in_the_middle_is_told_to_who_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "journal.db")
    monkeypatch.setattr(store_module, "RECENT", 0)
    flip(tmp_path / "journal.db", b"value-00203")
    store = Store(tmp_path / "journal.db")
    assert store.read(-1, 100)
    with pytest.raises(StorageError, match="batch at record 203"):
        store.read(202, 100)
    (done,) = store.write([Op([event(10_000)])])
    assert done.first == 404
    store.close()


def delete(path: Path, where: str) -> None:
    db = apsw.Connection(str(path))
    db.execute(f"DELETE FROM batch WHERE {where}")
    db.close()


@pytest.mark.parametrize(
    ("where", "lost"),
    [("first < 103", (0, 102)), ("first BETWEEN 103 AND 150", (103, 152)), ("first >= 353", (353, 403))],
)
def test_missing_records_are_named(where: str, lost: tuple[int, int], tmp_path: Path) -> None:
    path, saved = tmp_path / "journal.db", tmp_path / "saved.db"
    make(path)
    delete(path, where)
    report = examine(path)
    assert [(damage.first, damage.last) for damage in report.damage] == [lost]
    salvage(path, saved, 77)
    store = Store(saved)
    (done,) = store.write([Op([event(10_000)])])
    assert done.first > 403, "offsets of what was lost are not given out again"
    store.close()


@pytest.mark.parametrize("what", [examine, lambda path: salvage(path, path.with_name("new.db"), 0)])
def test_what_is_no_journal(what: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no journal"):
        what(tmp_path / "journal.db")
    (tmp_path / "journal.db").write_bytes(b"dear diary" * 100)
    with pytest.raises(StorageError, match="not a database"):
        what(tmp_path / "journal.db")
    assert [path.name for path in tmp_path.iterdir()] == ["journal.db"]


async def test_a_backup_while_events_come_in(tmp_path: Path) -> None:
    path, copy, back = tmp_path / "journal.db", tmp_path / "copy.db", tmp_path / "back" / "journal.db"
    make(path)
    journal = await SqliteJournal.open(path)
    stop = False
    acknowledged = EVENTS

    async def load() -> None:
        nonlocal acknowledged
        while not stop:
            await journal.append([event(acknowledged)])
            acknowledged += 1

    task = asyncio.create_task(load())
    await journal.append([event(10_000)])
    started = acknowledged
    report = await journal.backup(copy)
    during = acknowledged
    with pytest.raises(StorageError, match="exists already"):
        await journal.backup(copy)
    with pytest.raises(StorageError, match="failed"):
        await journal.backup(tmp_path / "nowhere" / "copy.db")
    stop = True
    await task
    await journal.close()
    assert during > started, "events were acknowledged while the copy was made"
    back.parent.mkdir()
    again = restore(copy, back)
    assert again.records == report.records
    store = Store(back)
    sequences = {item.record.seq for item in contents(store) if isinstance(item.record, Event)}
    assert sequences >= set(range(started))
    (done,) = store.write([Op([event(seq) for seq in range(started)])])
    assert len(done.others) == started
    store.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["back", "copy.db", "journal.db"]


def test_offline_backup_and_restore(tmp_path: Path) -> None:
    path, copy = tmp_path / "journal.db", tmp_path / "copy.db"
    make(path)
    before = path.read_bytes()
    assert backup(path, copy).records == 404
    assert path.read_bytes() == before
    with pytest.raises(StorageError, match="exists already"):
        backup(path, copy)
    with pytest.raises(StorageError, match="exists already"):
        restore(copy, path)
    assert path.read_bytes() == before
    path.unlink()
    assert restore(copy, path).records == 404
    store = Store(path)
    assert len(contents(store)) == 404
    store.close()


def test_a_damaged_backup_is_not_restored(tmp_path: Path) -> None:
    path, copy = tmp_path / "journal.db", tmp_path / "copy.db"
    make(path)
    backup(path, copy)
    path.unlink()
    flip(copy, b"value-00203")
    with pytest.raises(StorageError, match="batch at record 203"):
        restore(copy, path)
    with pytest.raises(StorageError, match="no backup at"):
        restore(tmp_path / "none.db", path)
    assert [file.name for file in tmp_path.iterdir()] == ["copy.db"]


def test_a_damaged_journal_is_not_backed_up(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    make(path)
    flip(path, b"value-00203")
    with pytest.raises(StorageError, match="batch at record 203"):
        backup(path, tmp_path / "copy.db")
    assert [file.name for file in tmp_path.iterdir()] == ["journal.db"]


def make_with_state(path: Path) -> None:
    """As `make`; of one key something is kept as of the snapshot, of another since then."""
    make(path)
    store = Store(path)
    store.write([Op([StateChange("app.quick", "gh-1", {"count": ("41041", 0)}, {})])])
    store.close()
    store = Store(path)
    store.write([Op([StateChange("app.quick", "gh-2", {"count": ("42", 0)}, {})])])
    store.close()


def test_what_functions_keep_is_saved_too(tmp_path: Path) -> None:
    path, saved = tmp_path / "journal.db", tmp_path / "saved.db"
    make_with_state(path)
    flip(path, b"value-00203")
    salvage(path, saved, 77)
    store = Store(saved)
    assert store.states("app.quick", ["gh-1", "gh-2"]) == {
        "gh-1": {"count": ("41041", 0)},
        "gh-2": {"count": ("42", 0)},
    }
    store.close()


async def test_damage_in_what_a_function_keeps_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    make_with_state(path)
    db = apsw.Connection(str(path))
    db.execute("UPDATE state SET value='41042' WHERE key='gh-1'")
    db.close()
    assert "what 'app.quick' keeps of 'gh-1'" in examine(path).tables
    journal = await SqliteJournal.open(path)
    with pytest.raises(StorageError, match=r"what 'app.quick' keeps of 'gh-1' does not match"):
        await journal.states("app.quick", ["gh-1"])
    assert await journal.states("app.quick", ["gh-2"]) == {"gh-2": {"count": ("42", 0)}}
    await journal.close()
    with pytest.raises(StorageError, match=r"what 'app.quick' keeps"):
        backup(path, tmp_path / "backup.db")


def test_expired_and_orphaned_state_goes_with_a_snapshot(tmp_path: Path) -> None:
    path, day = tmp_path / "journal.db", 86_400_000_000
    make(path)
    now = 1_700_000_000_000_000
    for stay in (1, 8):
        store = Store(path)
        old = FlowState("app.slow", 2 + stay, 0, -1, removed=now)
        store.write([Op([StateChange("app.quick", "gh-1", {"a": ("1", now), "b": ("2", 0)}, {}), old])])
        store.write([Op([StateChange("app.slow", "gh-1", {"a": ("1", 0)}, {})])])
        store.close()
        store = Store(path)
        store.tick(now + stay * day, 0, trusted=True)
        store.write([Op([event(10_000 + stay)])])
        store.close()
        store = Store(path)
        gone = stay == 8
        kept = {"b": ("2", 0)} if gone else {"a": ("1", now), "b": ("2", 0)}
        assert store.states("app.quick", ["gh-1"]) == {"gh-1": kept}
        assert store.state_keys("app.slow", "", 9) == ([] if gone else ["gh-1"])
        store.close()
