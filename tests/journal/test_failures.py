"""A disk that fails: fsync ends the process and is never tried again; no room stores nothing, and passes."""

from __future__ import annotations

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
from edge_runtime.journal.sqlite import store as store_module
from edge_runtime.journal.sqlite.messages import LENGTH, Op, Reply, TablesReply, Write, Written, frame
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
