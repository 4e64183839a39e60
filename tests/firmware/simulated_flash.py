"""A board's file system in memory, whose power can be cut at any operation and any byte.

Two kinds: one on which every byte written is there at once (as on FAT), and one that shows what was written to a file
only once that is flushed or closed (as littlefs).
"""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any


class PowerCut(BaseException):
    """Nothing runs any more; no handler for errors is to catch this."""


class Flash:
    """`open` and `os` are what a board's program is given in place of MicroPython's."""

    def __init__(self, *, cached: bool, blocks: int = 1000, block: int = 64) -> None:
        self.cached = cached
        self.blocks = blocks
        self.block = block
        self.files: dict[str, bytes] = {}
        self.folders: set[str] = {"/"}
        self.left: int | None = None
        """Operations and bytes until the cut; None for no cut."""
        self.spent = 0
        self.failing = 0
        """So many operations fail, for want of room; of a write, some is done."""
        self.rotten: set[str] = set()
        """Files that cannot be read any more."""
        self.os = SimpleNamespace(
            remove=self.remove,
            rename=self.rename,
            mkdir=self.mkdir,
            rmdir=self.rmdir,
            listdir=self.listdir,
            ilistdir=self.ilistdir,
            stat=self.stat,
            statvfs=self.statvfs,
            sync=lambda: self.spend(1),
        )

    def copy(self) -> Flash:
        """The same again, with power."""
        other = Flash(cached=self.cached, blocks=self.blocks, block=self.block)
        other.files, other.folders = dict(self.files), set(self.folders)
        return other

    def spend(self, number: int) -> int:
        """How much of an operation of this size still happens; raises PowerCut where nothing does, and OSError."""
        if self.failing:
            self.failing -= 1
            raise OSError(28)
        if self.left is None:
            self.spent += number
            return number
        if not self.left:
            raise PowerCut
        done = min(number, self.left)
        self.left -= done
        self.spent += done
        return done

    def open(self, path: str, mode: str = "r") -> Any:
        if "r" in mode:
            if path not in self.files:
                raise OSError(2, path)
            if path in self.rotten:
                raise OSError(5, path)
            raw = self.files[path]
            return io.BytesIO(raw) if "b" in mode else io.StringIO(raw.decode())
        if self.parent(path) not in self.folders:
            raise OSError(2, path)
        return Writing(self, path, mode)

    def remove(self, path: str) -> None:
        if path not in self.files:
            raise OSError(2, path)
        self.spend(1)
        del self.files[path]

    def rename(self, source: str, target: str) -> None:
        if source not in self.files or target in self.files:
            raise OSError(17, target)  # as FAT has it
        self.spend(1)
        self.files[target] = self.files.pop(source)

    def mkdir(self, path: str) -> None:
        if path in self.folders:
            raise OSError(17, path)
        self.spend(1)
        self.folders.add(path)

    def rmdir(self, path: str) -> None:
        if path not in self.folders or self.listdir(path):
            raise OSError(39, path)
        self.spend(1)
        self.folders.remove(path)

    def listdir(self, path: str) -> list[str]:
        return [entry[0] for entry in self.ilistdir(path)]

    def ilistdir(self, path: str) -> list[tuple[str, int, int]]:
        if path not in self.folders:
            raise OSError(2, path)
        start = path.rstrip("/") + "/"
        found = [(name, 0x8000) for name in self.files] + [(name, 0x4000) for name in self.folders]
        return [
            (name[len(start) :], kind, 0)
            for name, kind in sorted(found)
            if name.startswith(start) and name != start and "/" not in name[len(start) :]
        ]

    def stat(self, path: str) -> tuple[int, ...]:
        if path in self.folders:
            return (0x4000, 0, 0, 0, 0, 0, 0)
        if path not in self.files:
            raise OSError(2, path)
        return (0x8000, 0, 0, 0, 0, 0, len(self.files[path]))

    def statvfs(self, _path: str) -> tuple[int, ...]:
        used = sum(-(-len(raw) // self.block) for raw in self.files.values())
        return (self.block, self.block, self.blocks, self.blocks - used, self.blocks - used)

    @staticmethod
    def parent(path: str) -> str:
        return path.rpartition("/")[0] or "/"


class Writing:
    """A file that is being written."""

    def __init__(self, flash: Flash, path: str, mode: str) -> None:
        self._flash = flash
        self._path = path
        self._text = "b" not in mode
        self._content = flash.files.get(path, b"") if "a" in mode else b""
        self._dead = False
        if not flash.cached and "w" in mode:
            self._spend(1)
            flash.files[path] = b""
        elif not flash.cached:
            flash.files.setdefault(path, b"")

    def _spend(self, number: int) -> int:
        try:
            return self._flash.spend(number)
        except PowerCut:
            self._dead = True
            raise

    def write(self, data: Any) -> None:
        raw = data.encode() if self._text else bytes(data)
        if not raw:
            return
        if self._flash.failing:
            self._content += raw[: len(raw) * 2 // 3]
            if self._flash.cached:
                self._dead = True  # littlefs gives up what a file with an error was to become
            else:
                self._flash.files[self._path] = self._content
        done = self._spend(len(raw))
        self._content += raw[:done]
        if not self._flash.cached:
            self._flash.files[self._path] = self._content
        if done < len(raw):
            self._dead = True
            raise PowerCut

    def flush(self) -> None:
        self._spend(1)
        self._flash.files[self._path] = self._content

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._dead:
            self.flush()
