"""The journal on disk: SQLite in WAL mode, one row per transaction, every commit fsynced.

Synchronous and single-threaded: it lives in the writer process (ADR 0002), because stepping SQLite in a thread of the
daemon hands the interpreter lock over at every row.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import apsw
import msgspec

from edge_runtime.errors import StaleGeneration, StorageError, StorageFull
from edge_runtime.journal import seen
from edge_runtime.journal.interface import Placed, Tables
from edge_runtime.journal.projection import RECENT, BootKey, Projection
from edge_runtime.journal.records import Record
from edge_runtime.journal.sqlite.messages import Done, Op

VERSION = 1
APPLICATION_ID = 0x45444745
"""Marks a file as ours ("EDGE")."""
PAGE_SIZE = 1024
"""Small pages: a lone commit writes 6.7 KB instead of 12.8 KB with 4 KB pages, and no size of group loses speed."""
SNAPSHOT_EVERY = 4096
"""Records between two snapshots: at most so many are read back at start."""
WAL_RESTART_PAGES = 16_384
"""Above this the log is copied back even under load, so that it stays bounded (16 MiB)."""
MAX_READ_BYTES = 4 << 20

_encode = msgspec.msgpack.Encoder().encode
decode_records = msgspec.msgpack.Decoder(list[Record]).decode
_decode_tables = msgspec.msgpack.Decoder(Tables).decode
_decode_intervals = msgspec.msgpack.Decoder(seen.Intervals).decode


class FsyncFailed(BaseException):
    """The disk could not promise durability. Nothing can be trusted from here: end the process, restart, recover."""


class Store:
    """One open database. `max_bytes` bounds the file; at the bound writing raises StorageFull (0: unbounded)."""

    def __init__(self, path: Path, max_bytes: int = 0, vfs: str | None = None) -> None:
        self._db = _open(path, vfs)
        if max_bytes:
            self._db.execute(f"PRAGMA max_page_count={max(max_bytes // PAGE_SIZE, 64)}")
        self._wal_pages = 0
        self._db.set_wal_hook(self._on_wal)
        self._projection = Projection(self._load_boot)
        self._snapshot_head = -1
        self._recover()

    def _on_wal(self, _db: object, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _load_boot(self, key: BootKey) -> seen.Intervals:
        row = self._db.execute("SELECT intervals FROM boot WHERE device=? AND boot=?", key).fetchone()
        return [] if row is None else _decode_intervals(row[0])

    def _recover(self) -> None:
        projection = self._projection
        row = self._db.execute("SELECT head, tables FROM snapshot").fetchone()
        if row is not None:
            tables = _decode_tables(row[1])
            self._snapshot_head = row[0]
            projection.first = tables.first
            projection.flows, projection.devices, projection.apps = tables.flows, tables.devices, tables.apps
            projection.outbox = {command.id: command for command in tables.outbox}
            self._warm_up(row[0])
        projection.head = self._snapshot_head
        for first, records in self._batches(self._snapshot_head + 1):
            if first != projection.head + 1:
                raise StorageError(
                    f"the journal is damaged: record {projection.head + 1} is missing",
                    hint="Restore a backup, or start with an empty data folder.",
                )
            for record in records:
                projection.apply(record)

    def _warm_up(self, head: int) -> None:
        """Remember the content of the newest events again, to tell conflicts from repeats."""
        for first, records in self._batches(head - RECENT // 8):
            if first <= head:
                self._projection.remember(records)

    def _batches(self, start: int) -> Iterable[tuple[int, list[Record]]]:
        query = "SELECT first, crc, records FROM batch WHERE first >= ? ORDER BY first"
        for first, crc, blob in self._db.execute(query, (start,)):
            yield first, _checked(first, crc, blob)

    @property
    def head(self) -> int:
        """The offset of the newest record; -1 when empty."""
        return self._projection.head

    def tables(self) -> Tables:
        """The projections."""
        return self._projection.tables()

    def write(self, ops: Sequence[Op]) -> list[Done]:
        """Do `ops` in one transaction and return once it is durable.

        Raises StorageFull or StorageError when nothing was written, FsyncFailed when the process must end.
        """
        projection = self._projection
        stale: dict[int, str] = {}
        records: list[Record] = []
        for index, op in enumerate(ops):
            if op.flow:
                try:
                    projection.check(op.flow, op.generation)
                except StaleGeneration as error:
                    stale[index] = str(error)
                    continue
            records.extend(op.records)
        placed, stored = projection.place(records)
        if stored:
            self._insert(stored)
        done = []
        offset = projection.head + 1
        position = 0
        for index, op in enumerate(ops):
            if index in stale:
                done.append(Done(-1, [], stale[index]))
                continue
            others: list[tuple[int, Placed]] = []
            first = offset
            for number, verdict in enumerate(placed[position : position + len(op.records)]):
                if verdict is not Placed.STORED:
                    others.append((number, verdict))
                offset += verdict is not Placed.DUPLICATE
            position += len(op.records)
            done.append(Done(first, others))
        for record in stored:
            projection.apply(record)
        return done

    def _insert(self, records: list[Record]) -> None:
        blob = _encode(records)
        row = (self.head + 1, len(records), zlib.crc32(blob), blob)
        due = self.head - self._snapshot_head >= SNAPSHOT_EVERY
        self._transaction(row, snapshot=due)

    def _transaction(self, row: tuple[int, int, int, bytes] | None, *, snapshot: bool) -> None:
        db = self._db
        head = self.head
        saved: list[BootKey] = []
        try:
            db.execute("BEGIN IMMEDIATE")
            if snapshot:
                # As of before this batch, which is read back at start: the projection changes only after the commit.
                saved = list(self._projection.dirty)
                db.executemany(
                    "REPLACE INTO boot VALUES (?, ?, ?)",
                    [(*key, _encode(self._projection.boots[key])) for key in saved],
                )
                db.execute("REPLACE INTO snapshot VALUES (0, ?, ?)", (head, _encode(self.tables())))
            if row is not None:
                db.execute("INSERT INTO batch VALUES (?, ?, ?, ?)", row)
            db.execute("COMMIT")
        except apsw.Error as error:
            raise self._refused(error) from error
        if snapshot:
            self._snapshot_head = head
            self._projection.forget(saved)

    def _refused(self, error: apsw.Error) -> BaseException:
        extended = getattr(error, "extendedresult", 0)
        if extended in (apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC):
            return FsyncFailed(str(error))
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if isinstance(error, apsw.FullError):
            return StorageFull(
                "the journal is full: the disk or its quota has no room",
                hint="Free disk space or raise journal.max_size; boards keep their readings meanwhile.",
            )
        return StorageError(f"the journal could not be written: {error}", hint="Check the disk and its mount.")

    def read(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Whole batches that hold records after `after`: at least one where there is one, about `limit` records."""
        rows: list[tuple[int, bytes]] = []
        count = size = 0
        query = (
            "SELECT first, count, crc, records FROM batch"
            " WHERE first >= coalesce((SELECT max(first) FROM batch WHERE first <= ?), 0) ORDER BY first"
        )
        for first, records, crc, blob in self._db.execute(query, (after + 1,)):
            if first + records <= after + 1:
                continue
            _verify(first, crc, blob)
            rows.append((first, blob))
            count += records
            size += len(blob)
            if count >= limit or size >= MAX_READ_BYTES:
                break
        return rows

    def maintain(self, *, idle: bool) -> None:
        """Copy the write-ahead log back into the database, when nobody waits or when it has grown too long."""
        if self._wal_pages > (1024 if idle else WAL_RESTART_PAGES):
            try:
                self._db.wal_checkpoint(
                    mode=apsw.SQLITE_CHECKPOINT_RESTART if not idle else apsw.SQLITE_CHECKPOINT_PASSIVE
                )
            except apsw.Error as error:
                refused = self._refused(error)
                if isinstance(refused, FsyncFailed):
                    raise refused from error
                return  # A full disk: what is committed stays in the write-ahead log and is copied back later.
            self._wal_pages = 0

    def close(self) -> None:
        """Save a snapshot so that the next start reads nothing back, and close."""
        if self.head != self._snapshot_head:
            # Without room for a snapshot the next start reads a little more back; nothing is lost.
            with contextlib.suppress(StorageError):
                self._transaction(None, snapshot=True)
        self._db.close()


def _open(path: Path, vfs: str | None) -> apsw.Connection:
    try:
        db = apsw.Connection(str(path), vfs=vfs)
        db.set_busy_timeout(10_000)
        version, application = _pragma(db, "user_version"), _pragma(db, "application_id")
        if version > VERSION or (application not in (0, APPLICATION_ID)):
            db.close()
            raise StorageError(
                f"{path} was written by a newer version (schema {version}, this one knows {VERSION})"
                if application == APPLICATION_ID
                else f"{path} is not a journal of this gateway",
                hint="Upgrade the gateway, or name another data folder; the file was not touched.",
            )
        if version == 0:
            db.execute(f"PRAGMA page_size={PAGE_SIZE}")
        # Nobody else opens the file while the gateway runs, so no shared-memory index is needed.
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA wal_autocheckpoint=0")
        if version == 0:
            _create(db)
    except apsw.BusyError as error:
        raise StorageError(f"{path} is in use by another process", hint="Is the gateway running already?") from error
    except apsw.NotADBError as error:
        raise StorageError(
            f"{path} is not a database", hint="Name another data folder; the file was not touched."
        ) from error
    except apsw.FullError as error:
        raise StorageFull(f"no room to open {path}", hint="Free some disk space and start again.") from error
    except apsw.CorruptError as error:
        raise StorageError(f"{path} is damaged: {error}", hint="Restore a backup.") from error
    except apsw.Error as error:
        raise StorageError(f"{path} cannot be opened: {error}", hint="Check the folder and its permissions.") from error
    return db


def _pragma(db: apsw.Connection, name: str) -> int:
    value = db.execute(f"PRAGMA {name}").fetchall()[0][0]
    assert isinstance(value, int)
    return value


def _create(db: apsw.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.execute(files(__package__).joinpath("schema", "1.sql").read_text("utf-8"))
    db.execute(f"PRAGMA application_id={APPLICATION_ID}")
    db.execute(f"PRAGMA user_version={VERSION}")
    db.execute("COMMIT")


def _verify(first: int, crc: int, blob: bytes) -> None:
    if zlib.crc32(blob) != crc:
        raise StorageError(
            f"the journal is damaged: the batch at record {first} does not match its checksum",
            hint="Restore a backup, and check the disk or SD card.",
        )


def _checked(first: int, crc: int, blob: bytes) -> list[Record]:
    _verify(first, crc, blob)
    return decode_records(blob)
