"""Databases of every version open in this one, first run and re-opened; what is not ours, or newer, is left alone."""

from __future__ import annotations

import shutil
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import apsw
import pytest

from edge_runtime.errors import StorageError
from edge_runtime.events import Event, Origin
from edge_runtime.journal.interface import Placed
from edge_runtime.journal.records import AppVersion, Command, CommandEnd, DeadLetter, Device, Progress, StateChange
from edge_runtime.journal.sqlite import database
from edge_runtime.journal.sqlite.database import APPLICATION_ID, VERSION
from edge_runtime.journal.sqlite.messages import Op
from edge_runtime.journal.sqlite.store import Store
from tests.journal.power import Disk, Replay
from tests.journal.test_power_cut import PATH, contents

GOLDEN = Path(__file__).parent / "golden"
BOOT = b"8 bytes."
FLOW = "greenhouse.overheat"

FROZEN = {
    1: "69ec013dec222af2b7555180058888194e102f0fa98736b0c5b95df777bd4737",
    2: "1d0ea43c5dc0a952d314619fb5bd9a7faa9913f80a9b85fb374b9026e56c5bd9",
    3: "d81220b181f951ca5f99e48e1354af522272930fa5e845d668941797dc5e7ef1",
}
"""SHA-256 of each version's schema: a released one never changes."""


def event(number: int) -> Event:
    return Event("gh-1", BOOT, number, "climate", 1000 + number, 2000 + number, {"n": number})


def order(on: bool, index: int, cause: tuple[bytes, int] | None) -> Command:
    return Command("gh-1", "fan", {"on": on}, 1, 10_000_000, Origin(FLOW, 0, "c", index), cause)


KEPT = StateChange(FLOW, "gh-1", {"count": ("41", 0), "last": ('{"temperature":30.5}', 9_000)}, {}, 40)
"""From version 3 on."""


def check(store: Store, version: int) -> None:
    """What the golden database of a version holds."""
    found = contents(store)
    if version >= 3:
        assert found.pop().record == KEPT
        assert store.states(FLOW, ["gh-1", "gh-2"]) == {"gh-1": KEPT.entries}
        assert store.state_keys(FLOW, "", 10) == ["gh-1"]
    else:
        assert store.state_keys(FLOW, "", 10) == []
    records = [item.record for item in found]
    assert [item.offset for item in found] == list(range(69))
    assert records[0] == Device("gh-1", b"d" * 32, 1)
    assert records[1] == AppVersion("greenhouse", "v1", 2)
    assert records[3:53] == [event(number) for number in range(50)]
    assert records[53] == event(60)
    conflict = records[54]
    assert isinstance(conflict, DeadLetter)
    assert conflict.reason == "conflict"
    assert records[55:57] == [order(True, 0, (BOOT, 1)), order(False, 1, None)]
    assert records[57] == Progress(FLOW, 1, 40, {3: 20}, {"gh-1": 10})
    assert records[58] == CommandEnd(order(True, 0, None).id, "gh-1", 0, None, 5)
    assert records[59:] == [event(number) for number in range(61, 71)]
    tables = store.tables()
    assert (tables.first, tables.head) == (0, 69 if version >= 3 else 68)
    assert tables.stateful == ({FLOW} if version >= 3 else set())
    assert tables.devices == {"gh-1": Device("gh-1", b"d" * 32, 1)}
    assert tables.apps["greenhouse"].version == "v1"
    assert tables.outbox == [order(False, 1, None)]
    flow = tables.flows[FLOW]
    assert (flow.cursor, flow.slots, flow.held) == (40, {3: 20}, {"gh-1": 10})


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_every_version_opens_and_stays_open(version: int, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    shutil.copy(GOLDEN / f"{version}.db", path)
    for _ in range(2):
        store = Store(path)
        check(store, version)
        (done,) = store.write([Op([event(7), event(65)])])
        assert [placed for _, placed in done.others] == [Placed.DUPLICATE] * 2
        store.close()
    db = apsw.Connection(str(path))
    assert db.execute("PRAGMA user_version").fetchall() == [(VERSION,)]
    db.close()


def test_a_golden_database_for_every_version() -> None:
    assert {path.stem for path in GOLDEN.glob("*.db")} == {str(version) for version in range(1, VERSION + 1)}


def test_the_schemas_are_frozen() -> None:
    folder = files("edge_runtime.journal.sqlite").joinpath("schema")
    found = {
        version: sha256(folder.joinpath(f"{version}.sql").read_bytes()).hexdigest() for version in range(1, VERSION + 1)
    }
    assert found == FROZEN


def test_a_migrated_database_is_built_like_a_new_one(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "1.db", tmp_path / "old.db")
    schemas = []
    for name in ("old.db", "new.db"):
        Store(tmp_path / name).close()
        db = apsw.Connection(str(tmp_path / name))
        schemas.append(db.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall())
        db.close()
    assert schemas[0] == schemas[1]


@pytest.mark.parametrize("version", range(1, VERSION))
def test_the_power_goes_during_a_migration(version: int) -> None:
    disk = Disk({"journal.db": (GOLDEN / f"{version}.db").read_bytes()})
    start = [("create", "journal.db", 0, b""), ("write", "journal.db", 0, bytes(disk.files["journal.db"]))]
    Store(PATH, vfs=disk.vfs).close()
    replay = Replay([*start, ("sync", "journal.db", 0, b""), *disk.changes])
    cuts = 0
    for number, _ in enumerate(replay):
        if number < len(start):
            continue
        after = Disk(replay.dropped())
        store = Store(PATH, vfs=after.vfs)
        check(store, version)
        store.close()
        cuts += 1
    assert cuts > 10


def _with(path: Path, **values: int) -> None:
    db = apsw.Connection(str(path))
    for name, value in values.items():
        db.execute(f"PRAGMA {name}={value}")
    db.close()


def _unfinished(path: Path) -> None:
    """Leave a write-ahead log beside the database, as after a crash."""
    source = path.with_name("source.db")
    path.rename(source)
    db = apsw.Connection(str(source))
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA wal_autocheckpoint=0")
    db.execute("CREATE TABLE extra (a)")
    for name in ("", "-wal"):
        shutil.copy(f"{source}{name}", f"{path}{name}")
    db.close()


@pytest.mark.parametrize("unfinished", [False, True])
@pytest.mark.parametrize("kind", ["newer", "stranger", "stranger with an id", "text", "cut off"])
def test_what_is_not_ours_is_refused_untouched(kind: str, unfinished: bool, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    if kind in ("text", "cut off"):
        data = b"dear diary\n" * 50 if kind == "text" else (GOLDEN / "2.db").read_bytes()[:60]
        path.write_bytes(data)
    elif kind == "newer":
        shutil.copy(GOLDEN / f"{VERSION}.db", path)
        _with(path, user_version=VERSION + 1)
    else:
        db = apsw.Connection(str(path))
        db.execute("CREATE TABLE photo (name)")
        db.close()
        if kind == "stranger with an id":
            _with(path, application_id=APPLICATION_ID - 1)
    if unfinished and kind not in ("text", "cut off"):
        _unfinished(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    expected = {"newer": "newer version", "text": "not a database", "cut off": "not a database"}
    with pytest.raises(StorageError, match=expected.get(kind, "not a journal of this gateway")) as refusal:
        Store(path)
    assert "not touched" in refusal.value.hint
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_second_gateway_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 0)
    store = Store(tmp_path / "journal.db")
    with pytest.raises(StorageError, match="in use"):
        Store(tmp_path / "journal.db")
    store.close()
