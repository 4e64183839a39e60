"""Space on the disk itself that is kept for the moment when the disk is full: a file that is given up then.

The quota alone does not help where the disk is smaller than it, or shared: removing old records, too, must first write.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Reserve:
    """A file of `size` bytes at `path`, or none where there was no room for it."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self.held = path.exists() and path.stat().st_size == size

    def take(self) -> bool:
        """Set the space aside, if twice as much is free (else it would be given up again at once)."""
        if not self.held and self._free() >= 2 * self._size:
            try:
                with self._path.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, self._size)
                self.held = True
            except OSError:
                self._remove()
        return self.held

    def release(self) -> None:
        """Give the space up."""
        self._remove()
        self.held = False

    def _free(self) -> int:
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()
