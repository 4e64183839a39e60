"""A writer process on a disk that fails to sync: `python -m tests.journal.failing_disk FD SYNC PATH`.

The SYNC-th call of fsync after the start fails (0: the first one of the start), and only that one: who tried again
would succeed, and be wrong.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import apsw

from edge_runtime.journal.sqlite import writer
from edge_runtime.journal.sqlite.store import Store


class FsyncError(apsw.IOError):
    """As SQLite's own file system reports it."""

    extendedresult = apsw.SQLITE_IOERR_FSYNC


class FailingDisk(apsw.VFS):
    """The real file system, but for one fsync."""

    def __init__(self) -> None:
        self.failing = 0
        self.syncs = 0
        super().__init__("failing-disk", "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, disk: FailingDisk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.syncs += 1
        if self._disk.syncs == self._disk.failing:
            raise FsyncError("fsync failed")
        super().xSync(flags)


if __name__ == "__main__":
    disk = FailingDisk()
    number = int(sys.argv[2])

    def opened() -> Store:
        """The store; from here on the syncs are counted."""
        if number == 0:
            disk.failing = 1
        store = Store(Path(sys.argv[3]), vfs="failing-disk")
        disk.failing = disk.syncs + number
        return store

    writer.run(opened, socket.socket(fileno=int(sys.argv[1])))
