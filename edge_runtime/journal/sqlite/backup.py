"""Backups: a copy made between commits, verified record by record before it gets its name; and the way back."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path

import apsw

from edge_runtime.errors import StorageError
from edge_runtime.journal.sqlite import states
from edge_runtime.journal.sqlite.database import explained, fsync_folder, open_database, pragma, reading
from edge_runtime.journal.sqlite.messages import BackedUp
from edge_runtime.journal.sqlite.rows import damaged, decode_records, verify

STEP_PAGES = 256
STEP_BYTES = 256 << 10
STEP_ROWS = 1000
"""One turn of copying or of verifying: a commit waits for at most one of them."""


def copy(db: apsw.Connection, to: Path) -> Generator[BackedUp | None, None, None]:
    """Copy an open journal to the new file `to`, a bounded step at a time; the last thing it yields is the outcome.

    What is committed between two steps through the same connection is part of the copy. A copy that fails, or is
    not brought to its end, leaves no file behind.
    """
    partial = to.with_name(f"{to.name}.partial")
    try:
        _refuse_existing(to)
        partial.unlink(missing_ok=True)
        target = apsw.Connection(str(partial))
        try:
            # Until it has its name nobody relies on it: it is made durable at the end, at once.
            target.execute("PRAGMA synchronous=OFF")
            with target.backup("main", db, "main") as steps:
                while not steps.done:
                    steps.step(STEP_PAGES)
                    yield None
            target.execute("PRAGMA journal_mode=DELETE")
            records = 0
            for count in _verified(target):
                records = count
                yield None
        finally:
            target.close()
        size = partial.stat().st_size
        publish(partial, to)
        yield BackedUp(records, size)
    except StorageError as error:
        yield BackedUp(0, 0, str(error), error.hint)
    except apsw.Error as error:
        # SQLite's own words belong to the journal here, not to the copy: "not an error" of a full disk.
        why = "no room is left there" if isinstance(error, apsw.FullError) else f"{type(error).__name__}: {error}"
        yield BackedUp(0, 0, f"the backup to {to} failed: {why}", "Check the room on that disk.")
    except OSError as error:
        yield BackedUp(0, 0, f"the backup to {to} failed: {error.strerror}", "Check that folder.")
    finally:
        partial.unlink(missing_ok=True)


def _verified(db: apsw.Connection) -> Iterator[int]:
    """Read everything again, a bounded step at a time; yields how many records have been found to be right."""
    count = size = 0
    for first, records, crc, blob in db.execute("SELECT first, count, crc, records FROM batch ORDER BY first"):
        verify(first, crc, blob)
        if len(decode_records(blob)) != records:
            raise damaged(f"the batch at record {first} does not hold {records} records")
        count += records
        size += len(blob)
        if size > STEP_BYTES:
            size = 0
            yield count
    for tables, crc in db.execute("SELECT tables, crc FROM snapshot"):
        if crc is not None and zlib.crc32(tables) != crc:
            raise damaged("the saved tables do not match their checksum")
    if pragma(db, "user_version") >= 3:
        for number, _ in enumerate(states.rows(db)):
            if number % STEP_ROWS == 0:
                yield count
    yield count


def backup(path: Path, to: Path) -> BackedUp:
    """Back up the journal at `path`, which nobody has open, to the new file `to`. Raises StorageError."""
    with reading(path) as db:
        outcome = next(step for step in copy(db, to) if step is not None)
    if outcome.error:
        raise StorageError(outcome.error, hint=outcome.hint)
    return outcome


def restore(source: Path, path: Path) -> BackedUp:
    """Make the journal `path`, which must not exist, from a backup, verified before and opened after.

    Raises StorageError, and leaves nothing behind, if the backup is damaged or there is a journal already.
    """
    for place in (path, path.with_name(f"{path.name}-wal")):
        _refuse_existing(place)
    if not source.exists():
        raise StorageError(f"there is no backup at {source}", hint="Check the name.")
    partial = path.with_name(f"{path.name}.partial")
    partial.with_name(f"{partial.name}-wal").unlink(missing_ok=True)
    try:
        shutil.copyfile(source, partial)
        db = open_database(partial)
        try:
            records = 0
            for count in _verified(db):
                records = count
            db.execute("PRAGMA journal_mode=DELETE")
        finally:
            db.close()
        publish(partial, path)
    except apsw.Error as error:
        raise explained(error, source) from error
    except StorageError as error:
        raise StorageError(str(error).replace(str(partial), str(source)), hint=error.hint) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}", hint="Check the folder.") from error
    finally:
        partial.unlink(missing_ok=True)
    return BackedUp(records, path.stat().st_size)


def publish(partial: Path, to: Path) -> None:
    """Give a finished file its name, durably, without ever replacing another."""
    fd = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        os.link(partial, to)
    except FileExistsError:
        _refuse_existing(to)
    except OSError:
        # A file system without hard links, such as a USB stick's: the name was free a moment ago.
        _refuse_existing(to)
        partial.rename(to)
    fsync_folder(to.parent)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise StorageError(f"{path} exists already", hint="Name another file, or move that one away.")
