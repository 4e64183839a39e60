"""A disk that fails: fsync ends the process and is never tried again; no room stores nothing, and passes."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import apsw
import msgspec
import pytest

from edge_runtime.errors import StorageError, StorageFull
from edge_runtime.events import Event
from edge_runtime.journal.interface import Placed
from edge_runtime.journal.records import FlowState, Progress, Record
from edge_runtime.journal.retention import Retention
from edge_runtime.journal.sqlite import store as store_module
from edge_runtime.journal.sqlite.messages import LENGTH, Op, Reply, TablesReply, Write, Written, frame
from edge_runtime.journal.sqlite.reserve import Reserve
from edge_runtime.journal.sqlite.store import Store
from edge_runtime.journal.sqlite.writer import EXIT_FSYNC_FAILED
from tests.journal.power import Disk
from tests.journal.test_power_cut import BOOT, PATH, contents

decode = msgspec.msgpack.Decoder(Reply).decode
ROOT = Path(__file__).parents[2]


def event(seq: int) -> Event:
    return Event("gh-1", BOOT, seq, "climate", seq, seq, {"n": seq, "pad": "x" * 300})


def ask(connection: socket.socket, ops: list[Op]) -> Reply | None:
    """One request to a writer; None if it ended instead of answering."""
    try:
        connection.sendall(frame(msgspec.msgpack.encode(Write(ops))))
    except BrokenPipeError:
        return None
    return reply(connection)


def reply(connection: socket.socket) -> Reply | None:
    try:
        head = connection.recv(LENGTH.size, socket.MSG_WAITALL)
        if len(head) < LENGTH.size:
            return None
        body = connection.recv(LENGTH.unpack(head)[0], socket.MSG_WAITALL)
    except ConnectionResetError:
        return None
    found: Reply = decode(body)
    return found


@pytest.mark.parametrize("failing", [1, 2, 5])
def test_a_failed_fsync_ends_the_process(failing: int, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    command = [sys.executable, "-m", "tests.journal.failing_disk", str(theirs.fileno()), str(failing), str(path)]
    with ours, subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as process:
        theirs.close()
        assert isinstance(reply(ours), TablesReply)
        acknowledged = 0
        while isinstance(ask(ours, [Op([event(acknowledged)])]), Written):
            acknowledged += 1
        assert process.stderr is not None
        assert b"failed to make data durable" in process.stderr.read()
        assert process.wait(30) == EXIT_FSYNC_FAILED
    # The first write to a write-ahead log syncs its header too: at most one acknowledgement per fsync.
    assert acknowledged < failing
    after = Store(path)
    (done,) = after.write([Op([event(seq) for seq in range(acknowledged)] or [event(0)])])
    assert acknowledged == 0 or len(done.others) == acknowledged
    after.close()


def test_what_was_found_is_made_durable_on_a_real_disk_too(tmp_path: Path) -> None:
    disk = Disk()
    before = Store(PATH, vfs=disk.vfs)
    for start in range(0, 8000, 1000):
        before.write([Op([event(seq) for seq in range(start, start + 1000)])])
    left = disk.contents()
    assert len(left["journal.db-wal"]) > 2 << 20
    for name, data in left.items():
        (tmp_path / name).write_bytes(data)
    after = Store(tmp_path / "journal.db")
    assert (tmp_path / "journal.db-wal").read_bytes() == left["journal.db-wal"]
    assert contents(after) == contents(before)
    before.close()
    after.close()


def test_a_failed_fsync_of_what_was_found_ends_the_process_before_it_serves(tmp_path: Path) -> None:
    disk = Disk()
    before = Store(PATH, vfs=disk.vfs)
    before.write([Op([event(0)])])
    # As a kill leaves it, with the write-ahead log.
    path = tmp_path / "journal.db"
    left = disk.contents()
    for name, data in left.items():
        (tmp_path / name).write_bytes(data)
    before.close()
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    command = [sys.executable, "-m", "tests.journal.failing_disk", str(theirs.fileno()), "0", str(path)]
    with ours, subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as process:
        theirs.close()
        assert reply(ours) is None
        assert process.stderr is not None
        assert b"failed to make data durable" in process.stderr.read()
        assert process.wait(30) == EXIT_FSYNC_FAILED
    assert (tmp_path / "journal.db-wal").read_bytes() == left["journal.db-wal"], "tried again on closing"
    after = Store(path)
    assert after.head == 0
    after.close()


class SmallDisk(Disk):
    """Full at the `failing`-th change that needs room, and from then on, until somebody makes room."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None

    def change(self, what: str, name: str, at: int = 0, data: bytes = b"") -> None:
        if what == "write" and self.left is not None:
            if self.left == 0:
                raise apsw.FullError("no space left on device")
            self.left -= 1
        super().change(what, name, at, data)


def _workload() -> list[Op]:
    ops: list[Op] = [Op([FlowState("app.flow", 1, 0, -1)])]
    for seq in range(30):
        ops.append(Op([event(seq)]))
        if seq % 3 == 0:
            effects: list[Record] = [event(1000 + seq), Progress("app.flow", 1, seq)]
            ops.append(Op(effects, "app.flow", 1))
    return ops


def test_no_room_at_any_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SNAPSHOT_EVERY", 10)
    monkeypatch.setattr(store_module, "WAL_RESTART_PAGES", 20)
    refused = 0
    for failing in range(1000):
        disk = SmallDisk()
        store = Store(PATH, vfs=disk.vfs)
        disk.left = failing
        full = 0
        for op in _workload():
            try:
                store.write([op])
            except StorageFull:
                full += 1
                head = store.head
                assert [item.offset for item in contents(store)] == list(range(head + 1)), "something half-written"
                disk.left = None
                (done,) = store.write([op])
                assert done.others == [], "what was refused had been stored"
            store.maintain(idle=False)
        if disk.left:
            store.close()
            break
        disk.left = None
        refused += full
        # As after a crash: what counts is what the files hold.
        copy = Disk(disk.contents())
        again = Store(PATH, vfs=copy.vfs)
        assert contents(again) == contents(store)
        (done,) = again.write([Op([event(seq) for seq in range(30)])])
        assert [placed for _, placed in done.others] == [Placed.DUPLICATE] * 30
        again.close()
        store.close()
    else:
        raise AssertionError("the workload needs more writes than were tried")
    assert refused > 100


def test_a_disk_that_stays_full_refuses_and_does_not_fall_over() -> None:
    disk = SmallDisk()
    store = Store(PATH, vfs=disk.vfs)
    store.write([Op([event(0)])])
    disk.left = 0
    for seq in range(1, 20):
        with pytest.raises(StorageFull, match="full"):
            store.write([Op([event(seq)])])
        store.maintain(idle=seq % 2 == 0)
    assert len(contents(store)) == 1
    disk.left = None
    store.write([Op([event(1)])])
    store.close()
    again = Store(PATH, vfs=disk.vfs)
    assert again.head == 1
    again.close()


def test_no_room_to_make_a_journal() -> None:
    disk = SmallDisk()
    disk.left = 3
    with pytest.raises(StorageError):
        Store(PATH, vfs=disk.vfs)
    disk.left = None
    Store(PATH, vfs=disk.vfs).close()


def test_no_room_to_make_durable_what_was_found() -> None:
    first = SmallDisk()
    store = Store(PATH, vfs=first.vfs)
    store.write([Op([event(0)])])
    disk = SmallDisk()
    disk.files = {name: bytearray(data) for name, data in first.contents().items()}
    store.close()
    disk.left = 0
    with pytest.raises(StorageFull, match="no room to open"):
        Store(PATH, vfs=disk.vfs)
    disk.left = None
    again = Store(PATH, vfs=disk.vfs)
    assert again.head == 0
    again.close()


class Shared(Disk):
    """A disk of a certain size."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity

    def change(self, what: str, name: str, at: int = 0, data: bytes = b"") -> None:
        if what == "write":
            grown = max(0, at + len(data) - len(self.files[name]))
            if sum(map(len, self.files.values())) + grown > self.capacity:
                raise apsw.FullError("no space left on device")
        super().change(what, name, at, data)


class Kept(Reserve):
    """A reserve on that disk."""

    def __init__(self, disk: Shared, size: int) -> None:
        self._disk, self._bytes = disk, size
        self.held = False

    def take(self) -> bool:
        used = sum(map(len, self._disk.files.values()))
        if not self.held and self._disk.capacity - used >= 2 * self._bytes:
            self._disk.capacity -= self._bytes
            self.held = True
        return self.held

    def release(self) -> None:
        self._disk.capacity += self._bytes
        self.held = False


def test_a_full_disk_below_the_quota_gives_up_its_reserve_and_works_itself_free() -> None:
    disk = Shared(4 << 20)
    reserve = Kept(disk, 1 << 20)
    store = Store(PATH, 1 << 30, vfs=disk.vfs, reserve=reserve)
    assert disk.capacity == 3 << 20
    store.write([Op([FlowState("app.flow", 1, 0, -1)])])
    stored = 0
    while reserve.held:
        try:
            store.write([Op([event(stored)])])
            stored += 1
        except StorageFull:
            pass
        store.maintain(idle=stored % 50 == 0)
    # Events are refused, one by one; what works off the backlog goes on.
    for cursor in range(300):
        refused, progress = store.write([Op([event(10**6)]), Op([Progress("app.flow", 1, cursor)], "app.flow", 1)])
        assert (refused.full, progress.full) == (True, False)
        store.maintain(idle=False)
    store.close()
    # Then retention is allowed to remove something: events come in again, although the disk has no more room.
    store = Store(PATH, 1 << 30, Retention(max_bytes=1 << 20), disk.vfs, reserve)
    while store.maintain(idle=True)[0]:
        pass
    again = 0
    for seq in range(20_000, 22_000):
        with contextlib.suppress(StorageFull):
            (done,) = store.write([Op([event(seq)])])
            again += not done.full
        store.maintain(idle=False)
    assert again > 1990
    assert not reserve.held
    disk.capacity += 4 << 20
    store.maintain(idle=True)
    assert disk.capacity == 7 << 20, "with room on the disk the reserve is set aside again"
    store.close()


def test_the_reserve_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.db-reserve"
    reserve = Reserve(path, 1 << 20)
    assert not reserve.held
    assert reserve.take()
    assert path.stat().st_blocks * 512 >= 1 << 20
    assert Reserve(path, 1 << 20).held
    reserve.release()
    assert (reserve.held, path.exists()) == (False, False)
    huge = Reserve(path, 1 << 60)
    assert not huge.take()
    assert not path.exists()
