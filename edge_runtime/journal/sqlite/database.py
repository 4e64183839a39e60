"""Opens the journal's database: whose file it is, its schema version, and the settings that durability rests on."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import apsw

from edge_runtime.errors import StorageError, StorageFull

VERSION = 3
"""The schema that this version writes: `schema/1.sql` up to `schema/3.sql`, applied in turn."""
APPLICATION_ID = 0x45444745
"""Marks a file as ours ("EDGE")."""
PAGE_SIZE = 1024
"""Small pages: a lone commit writes 6.7 KB instead of 12.8 KB with 4 KB pages, and no size of group loses speed."""
SYNCHRONOUS = "FULL"
"""With NORMAL a commit is not on the disk when it returns, and an acknowledgement would be a lie; a test shows it."""

REWRITE_BYTES = 64 << 10
"""Of the write-ahead log at once, when it is made durable at start; SQLite's file systems write less than 128 KiB."""
BUSY_MS = 10_000
"""A writer whose daemon has died still saves its snapshot and ends: the next one waits for it."""

_MAGIC = b"SQLite format 3\0"
_HEADER = struct.Struct(">60xI4xI")
"""User version and application id, at their places in a database's first page."""


class FsyncFailed(BaseException):
    """The disk could not promise durability. Nothing can be trusted from here: end the process, restart, recover."""


def open_database(path: Path, vfs: str | None = None) -> apsw.Connection:
    """Open a journal for this process alone, make it if missing, bring an older schema up to date.

    What it holds when this returns is durable. A file that is not ours, or newer than this version, is refused
    (StorageError) with not one byte changed. Raises FsyncFailed when the process must end.
    """
    if vfs is None:
        _refuse_strangers(path)
    try:
        db = apsw.Connection(str(path), vfs=vfs)
    except apsw.Error as error:
        raise StorageError(f"{path} cannot be opened: {error}", hint="Check the folder and its permissions.") from error
    try:
        _prepare(db, path)
        _make_durable(path, vfs)
    except apsw.Error as error:
        _give_up(db)
        raise (FsyncFailed(str(error)) if is_failed_fsync(error) else explained(error, path)) from error
    except BaseException:
        _give_up(db)
        raise
    return db


def _give_up(db: apsw.Connection) -> None:
    # Else closing would copy the write-ahead log back: sync again after an fsync that failed, and be told all is well.
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.close()


def _make_durable(path: Path, vfs: str | None) -> None:
    """Have everything that has been recovered on the disk, before anybody hears of it.

    A writer that was killed between a write and its fsync leaves transactions that only the page cache holds. They
    are recovered like any other, and a repeat of one is a duplicate, acknowledged without another write: a loss of
    power would then lose it. After an fsync that failed, the system takes those pages for clean, and a second fsync
    succeeds without writing them. So the log is written again, in place, which needs no room, and synced.

    The database needs nothing: until it has been synced, all that is new in it stands in the log as well. Call it
    with the lock held, so that nobody else writes to the log.
    """
    # As SQLite opens it: with these flags a sync makes the name of the file durable too.
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_WAL
    log = apsw.VFSFile(vfs or "", f"{path.absolute() if vfs is None else path}-wal", [flags, 0])
    try:
        size = log.xFileSize()
        for offset in range(0, size, REWRITE_BYTES):
            log.xWrite(log.xRead(min(REWRITE_BYTES, size - offset), offset), offset)
        if size:
            try:
                log.xSync(apsw.SQLITE_SYNC_NORMAL)
            except apsw.Error as error:
                raise FsyncFailed(str(error)) from error
    finally:
        log.xClose()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[apsw.Connection]:
    """Open a journal of any known version, however damaged, without changing a byte of it.

    Raises StorageError if it is not a journal, or is in use.
    """
    if not path.exists():
        raise StorageError(f"there is no journal at {path}", hint="Check the data folder in edge.toml.")
    _refuse_strangers(path)
    log = path.with_name(f"{path.name}-wal")
    had_log = log.exists()
    # SQLite needs the right to write for its locks; nothing is copied back from the write-ahead log on closing.
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        try:
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute("PRAGMA query_only=ON")
            db.execute("PRAGMA cell_size_check=ON")
            _refuse_version(path, pragma(db, "user_version"), pragma(db, "application_id"))
        except apsw.Error as error:
            raise explained(error, path) from error
        yield db
    finally:
        db.close()
        if not had_log and log.exists() and log.stat().st_size == 0:
            log.unlink()


def _refuse_strangers(path: Path) -> None:
    """Look at the file itself, before SQLite may touch it or the write-ahead log beside it."""
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}", hint="Check the folder and its permissions."
        ) from error
    if not head:
        return
    if len(head) < 100 or not head.startswith(_MAGIC):
        raise StorageError(
            f"{path} is not a database",
            hint="Name another data folder, or restore a backup; the file was not touched.",
        )
    _refuse_version(path, *_HEADER.unpack_from(head))


def _refuse_version(path: Path, version: int, application: int) -> None:
    if application not in (0, APPLICATION_ID):
        raise StorageError(
            f"{path} is not a journal of this gateway",
            hint="Name another data folder; the file was not touched.",
        )
    if version > VERSION:
        raise StorageError(
            f"{path} was written by a newer version (schema {version}, this one knows {VERSION})",
            hint="Upgrade the gateway, or name another data folder; the file was not touched.",
        )


def _prepare(db: apsw.Connection, path: Path) -> None:
    db.set_busy_timeout(BUSY_MS)
    # Until it is known to be ours, closing must not copy a write-ahead log back.
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    # Nobody else opens the file while the gateway runs, so no shared-memory index is needed.
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    version, application = pragma(db, "user_version"), pragma(db, "application_id")
    _refuse_version(path, version, application)
    if application == 0 and (version or db.execute("SELECT count(*) FROM sqlite_schema").fetchall() != [(0,)]):
        raise StorageError(
            f"{path} is a database, but not a journal of this gateway",
            hint="Name another data folder; the file was not touched.",
        )
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    if version == 0:
        db.execute(f"PRAGMA page_size={PAGE_SIZE}")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
    db.execute("PRAGMA wal_autocheckpoint=0")
    if version < VERSION:
        _migrate(db, version)


def _migrate(db: apsw.Connection, version: int) -> None:
    """All steps in one transaction: after a loss of power the old version stands, or the new one."""
    db.execute("BEGIN IMMEDIATE")
    for step in range(version + 1, VERSION + 1):
        db.execute(files(__package__).joinpath("schema", f"{step}.sql").read_text("utf-8"))
    db.execute(f"PRAGMA application_id={APPLICATION_ID}")
    db.execute(f"PRAGMA user_version={VERSION}")
    db.execute("COMMIT")


def pragma(db: apsw.Connection, name: str) -> int:
    """The value of a setting that is a number."""
    value = db.execute(f"PRAGMA {name}").fetchall()[0][0]
    assert isinstance(value, int)
    return value


def is_failed_fsync(error: apsw.Error) -> bool:
    """Whether the disk failed to make something durable."""
    extended = getattr(error, "extendedresult", 0)
    return extended in (apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC)


def explained(error: apsw.Error, path: Path | str) -> StorageError:
    """What went wrong, in words for a person."""
    match error:
        case apsw.BusyError():
            return StorageError(f"{path} is in use by another process", hint="Is the gateway running already?")
        case apsw.NotADBError():
            return StorageError(
                f"{path} is not a database",
                hint="Name another data folder, or restore a backup; the file was not touched.",
            )
        case apsw.FullError():
            return StorageFull(f"no room to open {path}", hint="Free some disk space and start again.")
        case apsw.CorruptError():
            return StorageError(
                f"{path} is damaged: {error}", hint="`edge doctor` says what can be saved; or restore a backup."
            )
        case _:
            return StorageError(f"{path} cannot be opened: {error}", hint="Check the folder and its permissions.")


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
