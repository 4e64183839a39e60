"""A folder of files that only we can write, each written whole or not at all."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_runtime.errors import EdgeError

Progress = Callable[[str, float], None]
"""Told what is going on and an estimate between 0 and 1 of how much of it is done. What it raises ends the work."""

POLL = 0.1
"""Seconds between two calls of a `Progress`: whoever wants the work to end need not wait longer."""

UNUSED_AFTER = 30 * 86_400
"""Seconds: a guest takes 70 MB with its machine code, and each version of the sandbox makes one."""


class CacheError(EdgeError):
    """The cache cannot be used safely."""


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/edge-runtime`, or `~/.cache/edge-runtime`."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "edge-runtime"


def prepare(folder: Path) -> Path:
    """Make the folder where it is missing, and see that nobody else can put a file into it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(f"the cache folder {folder} cannot be made: {error.strerror}") from error
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise CacheError(
            f"the cache folder {folder} belongs to another user", hint="Set XDG_CACHE_HOME to a folder of yours."
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def open_own(path: Path) -> int:
    """Open a cached file for reading if it is a plain file that only its owner, us, can touch. Raises `CacheError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise CacheError(f"{path} cannot be opened: {error.strerror}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(descriptor)
        raise CacheError(
            f"{path} is not a file of ours alone (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o})",
            hint="Remove it; it is made again.",
        )
    return descriptor


def is_own(path: Path) -> bool:
    """Whether `open_own` would take the file."""
    try:
        os.close(open_own(path))
    except CacheError:
        return False
    return True


def prune(folder: Path, keep: Path, now: float, pattern: str = "guest-*") -> None:
    """Remove guests of other versions that nobody has opened for a month; `now` is in seconds since 1970."""
    for path in folder.glob(pattern):
        with suppress(OSError):
            if path != keep and now - max(path.stat().st_atime, path.stat().st_mtime) > UNUSED_AFTER:
                path.unlink()


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path`, durably, if the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600))
        yield temporary
        temporary.chmod(0o600)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the folder's lock; while another process holds it, say so."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress("waiting for another process that builds the sandbox", 0.0)
                time.sleep(POLL)
        yield
    finally:
        os.close(descriptor)
