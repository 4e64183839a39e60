"""A disk in memory that knows what has been synced: what it would hold after the power went away at any moment.

SQLite writes through `Disk` (an apsw VFS). Each change to a file is recorded; `Replay` goes through the record and
says, at each moment, which bytes a real disk might hold: all that was synced, and any part of what was not.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import apsw

SECTOR = 512
"""What a disk writes whole or not at all."""

Files = dict[str, bytes]
Change = tuple[str, str, int, bytes]
"""What (`write`, `truncate`, `sync`, `delete`, `create` or `note`), the file, an offset or size, the bytes."""

_numbers = itertools.count()


class Disk(apsw.VFS):
    """Files in memory, by name, with a record of every change. `fail` may raise in the place of a change."""

    def __init__(self, files: Files | None = None) -> None:
        self.vfs = f"power-{next(_numbers)}"
        self.files = {name: bytearray(data) for name, data in (files or {}).items()}
        self.changes: list[Change] = []
        super().__init__(self.vfs, "")

    def contents(self) -> Files:
        """What stands in the files now, synced or not."""
        return {name: bytes(data) for name, data in self.files.items()}

    def note(self, text: str) -> None:
        """Put a remark into the record, such as what has just been acknowledged."""
        self.changes.append(("note", text, 0, b""))

    def change(self, what: str, name: str, at: int = 0, data: bytes = b"") -> None:
        """Called for each change, before it is made; raising makes it fail."""
        self.changes.append((what, name, at, data))

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        if path not in self.files:
            self.change("create", path)
            self.files[path] = bytearray()
        flags[1] = flags[0]
        return _File(self, path)

    def xDelete(self, name: str, _sync: bool) -> None:  # noqa: N802
        self.change("delete", name)
        self.files.pop(name, None)

    def xAccess(self, name: str, _flags: int) -> bool:  # noqa: N802
        return name in self.files

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name


class _File:
    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._data = disk.files[path]

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self._data[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.change("write", self._path, offset, bytes(data))
        put(self._data, offset, data)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._disk.change("truncate", self._path, size)
        del self._data[size:]

    def xSync(self, _flags: int) -> None:  # noqa: N802
        self._disk.change("sync", self._path)

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._data)

    def xClose(self) -> None:  # noqa: N802
        pass

    def xLock(self, _level: int) -> None:  # noqa: N802
        pass

    def xUnlock(self, _level: int) -> None:  # noqa: N802
        pass

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, _op: int, _pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return 0


def put(data: bytearray, offset: int, piece: bytes) -> None:
    """Write into a file, filling a hole with zeros."""
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(piece)] = piece


class Replay:
    """Goes through a record of changes. `durable` is what survives for certain."""

    def __init__(self, changes: list[Change]) -> None:
        self._changes = changes
        self._durable: dict[str, bytearray] = {}
        self._pending: list[Change] = []
        self._cached: dict[str, bytearray] = {}
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Change]:
        """Let one change after the other happen; between two of them the power may go."""
        for change in self._changes:
            what, name, at, data = change
            if what == "note":
                self.notes.append(name)
                continue
            if what == "sync":
                # A log's first sync makes the folder durable too, and so every name in it, as SQLite has it on Unix.
                for earlier in self._pending:
                    if earlier[1] == name or earlier[0] in ("create", "delete"):
                        _carry_out(self._durable, earlier)
                self._pending = [
                    earlier
                    for earlier in self._pending
                    if earlier[1] != name and earlier[0] not in ("create", "delete")
                ]
            else:
                self._pending.append((what, name, at, data))
                _carry_out(self._cached, change)
            yield change

    def dropped(self) -> Files:
        """Nothing of what was not synced has arrived."""
        return {name: bytes(data) for name, data in self._durable.items()}

    def cached(self) -> Files:
        """What a process sees that is started now, while the power is still on."""
        return {name: bytes(data) for name, data in self._cached.items()}

    def continued(self, changes: list[Change], failed: str = "") -> Replay:
        """What the disk holds after `changes` by the next process.

        `failed`: a file of which the last sync failed. Its pages have not arrived, and the system has forgotten it.
        """
        copy = Replay(changes)
        copy._durable = {name: bytearray(data) for name, data in self._durable.items()}
        copy._cached = {name: bytearray(data) for name, data in self._cached.items()}
        copy._pending = [change for change in self._pending if change[:2] != ("write", failed)]
        copy.notes = list(self.notes)
        for _change in copy:
            pass
        return copy

    def torn(self, rng: random.Random) -> Files:
        """Some of what was not synced has arrived, in any order, sector by sector, the last of it perhaps in part."""
        files = {name: bytearray(data) for name, data in self._durable.items()}
        share = rng.random()
        for what, name, at, data in self._pending:
            if what != "write":
                if name in files or what == "create":
                    _carry_out(files, (what, name, at, data))
                continue
            start = at
            while start < at + len(data):
                end = min(at + len(data), (start // SECTOR + 1) * SECTOR)
                if rng.random() < share and name in files:
                    piece = data[start - at : end - at]
                    put(files[name], start, piece[: rng.randint(1, len(piece))] if rng.random() < 0.1 else piece)
                start = end
        return {name: bytes(data) for name, data in files.items()}


def _carry_out(files: dict[str, bytearray], change: Change) -> None:
    what, name, at, data = change
    if what == "create":
        files.setdefault(name, bytearray())
    elif what == "delete":
        files.pop(name, None)
    elif what == "truncate":
        del files[name][at:]
    elif what == "write":
        put(files.setdefault(name, bytearray()), at, data)
