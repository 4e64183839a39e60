"""The journal on disk: SQLite in WAL mode, one row per transaction, every commit fsynced.

Synchronous and single-threaded: it lives in the writer process (ADR 0002), because stepping SQLite in a thread of the
daemon hands the interpreter lock over at every row.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import apsw
import msgspec

from edge_runtime.errors import StaleGeneration, StorageError, StorageFull
from edge_runtime.events import Event
from edge_runtime.journal import seen
from edge_runtime.journal.interface import Placed, Tables, Usage
from edge_runtime.journal.projection import RECENT, BootKey, Projection
from edge_runtime.journal.records import (
    REMOVED_KEPT,
    Command,
    DeadLetter,
    Gap,
    Record,
    State,
    StateChange,
    Stored,
    Trimmed,
)
from edge_runtime.journal.retention import KEEP_ALL, Retention
from edge_runtime.journal.sqlite import states
from edge_runtime.journal.sqlite.backup import copy
from edge_runtime.journal.sqlite.database import PAGE_SIZE, FsyncFailed, is_failed_fsync, open_database
from edge_runtime.journal.sqlite.keeper import SLICE_BYTES, Keeper
from edge_runtime.journal.sqlite.messages import BackedUp, Done, Op
from edge_runtime.journal.sqlite.reserve import Reserve
from edge_runtime.journal.sqlite.rows import checked, damaged, encode, verify
from edge_runtime.journal.timers import Pending

SNAPSHOT_EVERY = 4096
SNAPSHOT_BYTES = 4 << 20
"""Records, or bytes of them, between two snapshots: at most so much is read back at start."""
WAL_RESTART_PAGES = 4096
"""Above this the log is copied back even under load, so that it stays bounded (4 MiB): shorter stops than with more,
and no longer ones than with a second connection in a thread (ADR 0007)."""
WAL_IDLE_PAGES = 1024
"""Above this it is copied back as soon as nobody waits."""
MAX_READ_BYTES = 1 << 20
"""One read, which a commit may have to wait for."""

_STORED = Placed.STORED
"""As a plain name: looking up a member of an enumeration is slow in CPython 3.11."""
_decode_tables = msgspec.msgpack.Decoder(Tables).decode
_decode_intervals = msgspec.msgpack.Decoder(seen.Intervals).decode


class Store:
    """One open database.

    `max_bytes` bounds the file; at the bound writing raises StorageFull (0: unbounded). `reserve` is given up when
    the disk is full, so that all but events can go on.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int = 0,
        retention: Retention = KEEP_ALL,
        vfs: str | None = None,
        reserve: Reserve | None = None,
    ) -> None:
        self._path = path
        self._db = open_database(path, vfs)
        try:
            if max_bytes:
                self._db.execute(f"PRAGMA max_page_count={max(max_bytes // PAGE_SIZE, 64)}")
            self._wal_pages = 0
            self._db.set_wal_hook(self._on_wal)
            self._projection = Projection(self._load_boot)
            self._snapshot_head = -1
            self._snapshot_bytes = 0
            self._keeper = Keeper(self._db, retention, max_bytes, reserve)
            self._untrimmed = 0
            self._no_space = False
            self._recover()
            if reserve is not None:
                reserve.take()
        except apsw.Error as error:
            self._db.close()
            raise damaged(str(error)) from error
        except StorageError:
            self._db.close()
            raise

    def _on_wal(self, _db: object, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _load_boot(self, key: BootKey) -> seen.Intervals:
        row = self._db.execute(
            "SELECT CAST(intervals AS BLOB), crc FROM boot WHERE device=? AND boot=?", key
        ).fetchone()
        if row is None:
            return []
        if row[1] is not None and zlib.crc32(row[0]) != row[1]:
            raise damaged(f"the known sequences of device '{key[0]}' do not match their checksum")
        return _decode_intervals(row[0])

    def _recover(self) -> None:
        projection, keeper = self._projection, self._keeper
        row = self._db.execute("SELECT head, CAST(tables AS BLOB), crc FROM snapshot").fetchone()
        if row is not None:
            if row[2] is not None and zlib.crc32(row[1]) != row[2]:
                raise damaged("the saved tables do not match their checksum")
            tables = _decode_tables(row[1])
            self._snapshot_head = row[0]
            projection.first = tables.first
            projection.flows, projection.devices, projection.apps = tables.flows, tables.devices, tables.apps
            projection.outbox = {command.id: command for command in tables.outbox}
            projection.stateful = tables.stateful
            projection.pending, projection.tokens = Pending(tables.timers, tables.ticks), tables.tokens
            self._warm_up(row[0])
        projection.head = self._snapshot_head
        marked = keeper.marked_head
        for first, size, records in self._batches(self._snapshot_head + 1):
            if first != projection.head + 1:
                raise damaged(f"records {projection.head + 1} to {first - 1} are missing")
            for record in records:
                projection.apply(record)
            if first > marked:
                keeper.stored(projection.head, size)
        self._snapshot_bytes = keeper.total
        oldest = self._db.execute("SELECT first FROM batch ORDER BY first LIMIT 1").fetchone()
        if oldest is not None and oldest[0] > projection.first:
            raise damaged(f"records {projection.first} to {oldest[0] - 1} are missing")

    def _warm_up(self, head: int) -> None:
        """Remember the content of the newest events again, to tell conflicts from repeats."""
        for first, _, records in self._batches(head - RECENT // 8):
            if first <= head:
                self._projection.remember(records)

    def _batches(self, start: int) -> Iterable[tuple[int, int, list[Record]]]:
        query = "SELECT first, crc, records FROM batch WHERE first >= ? ORDER BY first"
        for first, crc, blob in self._db.execute(query, (start,)):
            yield first, len(blob), checked(first, crc, blob)

    @property
    def head(self) -> int:
        """The offset of the newest record; -1 when empty."""
        return self._projection.head

    def tables(self) -> Tables:
        """The projections."""
        return self._projection.tables()

    # Writing

    def write(self, ops: Sequence[Op]) -> list[Done]:
        """Do `ops` in one transaction and return once it is durable.

        Raises StorageFull or StorageError when nothing was written, FsyncFailed when the process must end.
        """
        records = [record for op in ops for record in op.records]
        blob = encode(records)
        refused = self._refusals(ops, len(blob))
        if refused:
            records = [record for index, op in enumerate(ops) if index not in refused for record in op.records]
        try:
            placed, stored = self._projection.place(records)
        except apsw.Error as error:
            raise self._refused(error) from error
        first = self.head + 1
        plain = not refused and placed.count(_STORED) == len(placed)
        if stored:
            self._store(stored, blob if plain else encode(stored))
        if plain:
            offsets = accumulate([len(op.records) for op in ops], initial=first)
            return [Done(offset, []) for offset, _ in zip(offsets, ops, strict=False)]
        verdicts = iter(placed)
        done = []
        for index, op in enumerate(ops):
            if index in refused:
                done.append(refused[index])
                continue
            others: list[tuple[int, Placed]] = []
            start = first
            for number, verdict in zip(range(len(op.records)), verdicts, strict=False):
                if verdict is not Placed.STORED:
                    others.append((number, verdict))
                first += verdict is not Placed.DUPLICATE
            done.append(Done(start, others))
        return done

    def _refusals(self, ops: Sequence[Op], size: int) -> dict[int, Done]:
        """What is refused before it is tried: commits of the past, and events for which there is no room.

        `size`: of all that is to be stored, in bytes.
        """
        refused: dict[int, Done] = {}
        keeper = self._keeper
        keeper.new_group()
        if not any(op.flow for op in ops):
            full = keeper.full
            if keeper.has_room(size):
                return refused
            keeper.full = full
        # Each by itself: what takes no room goes on, and a small one may fit where a large one does not.
        for index, op in enumerate(ops):
            if op.flow:
                try:
                    self._projection.check(op.flow, op.generation)
                except StaleGeneration as error:
                    refused[index] = Done(-1, [], str(error))
            elif any(_takes_room(record) for record in op.records) and not (
                keeper.has_room(len(encode(op.records)) if keeper.max_bytes else 0)
            ):
                refused[index] = Done(-1, [], full=True)
        return refused

    def _store(self, records: list[Record], blob: bytes, trim: int = -1) -> None:
        """Make one batch durable, and let its records take effect. `trim`: what is older goes with it."""
        head = self.head
        keeper = self._keeper
        # A snapshot writes all commands and timers: the more there are, the more rarely, so that a record's share
        # stays small.
        every = max(SNAPSHOT_EVERY, 4 * (len(self._projection.outbox) + len(self._projection.pending.timers)))
        due = head - self._snapshot_head >= every or (
            keeper.total - self._snapshot_bytes >= SNAPSHOT_BYTES and every == SNAPSHOT_EVERY
        )
        # Nothing goes that the next start would have to read back.
        with self._transaction(snapshot=due or trim > self._snapshot_head):
            if trim >= 0:
                self._db.execute("DELETE FROM batch WHERE first <= ?", (trim,))
                keeper.forget_marks(trim + 1)
            row = (head + 1, len(records), zlib.crc32(blob), blob)
            self._db.execute("INSERT INTO batch VALUES (?, ?, ?, ?)", row)
        self._projection.apply_all(records)
        keeper.stored(self.head, len(blob))
        self._untrimmed += len(blob)

    @contextlib.contextmanager
    def _transaction(self, *, snapshot: bool) -> Iterator[None]:
        db, keeper, head = self._db, self._keeper, self.head
        saved: list[BootKey] = []
        try:
            db.execute("BEGIN IMMEDIATE")
            if snapshot:
                # As of before this batch, which is read back at start: the projection changes only after the commit.
                saved = list(self._projection.dirty)
                rows = [(key, encode(self._projection.boots[key])) for key in saved]
                db.executemany(
                    "REPLACE INTO boot VALUES (?, ?, ?, ?)", [(*key, blob, zlib.crc32(blob)) for key, blob in rows]
                )
                tables = encode(self.tables())
                db.execute("REPLACE INTO snapshot VALUES (0, ?, ?, ?)", (head, tables, zlib.crc32(tables)))
                states.save(db, self._projection.states)
                if keeper.trusted:
                    states.prune(db, keeper.now)
                    states.forget(db, self._forgotten_flows(keeper.now))
                keeper.save(head)
            yield
            db.execute("COMMIT")
        except apsw.Error as error:
            raise self._refused(error) from error
        if snapshot:
            self._snapshot_head, self._snapshot_bytes = head, keeper.total
            self._projection.forget(saved)
            self._projection.states.clear()
            keeper.saved()

    def _forgotten_flows(self, now: int) -> list[str]:
        """Flows whose trigger was removed so long ago that they would begin anew, and that still keep something."""
        projection = self._projection
        removed = {name: projection.flows[name].removed for name in projection.stateful if name in projection.flows}
        found = [name for name, moment in removed.items() if 0 < moment < now - REMOVED_KEPT]
        projection.stateful.difference_update(found)
        return found

    def _refused(self, error: apsw.Error) -> BaseException:
        if is_failed_fsync(error):
            return FsyncFailed(str(error))
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if isinstance(error, apsw.FullError):
            self._no_space = True
            self._keeper.disk_is_full()
            return StorageFull(
                "the journal is full: the disk or its quota has no room",
                hint="Free disk space or raise journal.max_size; boards keep their readings meanwhile.",
            )
        if isinstance(error, apsw.CorruptError):
            return damaged(str(error))
        return StorageError(f"the journal could not be written: {error}", hint="Check the disk and its mount.")

    # Reading

    def read(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Whole batches that hold records after `after`: at least one where there is one, about `limit` records."""
        rows: list[tuple[int, bytes]] = []
        count = size = 0
        query = (
            "SELECT first, count, crc, records FROM batch"
            " WHERE first >= coalesce((SELECT max(first) FROM batch WHERE first <= ?), 0) ORDER BY first"
        )
        try:
            for first, records, crc, blob in self._db.execute(query, (after + 1,)):
                if first + records <= after + 1:
                    continue
                verify(first, crc, blob)
                rows.append((first, blob))
                count += records
                size += len(blob)
                if count >= limit or size >= MAX_READ_BYTES:
                    break
        except apsw.Error as error:
            raise self._refused(error) from error
        return rows

    def states(self, flow: str, keys: Sequence[str]) -> dict[str, State]:
        """What a flow keeps of these partition keys; those of which it keeps nothing are left out."""
        try:
            return states.read(self._db, flow, keys, self._projection.states)
        except apsw.Error as error:
            raise self._refused(error) from error

    def entries(self, flow: str, names: Mapping[str, Sequence[str]]) -> dict[str, State]:
        """As `states`, of each partition key the entries of these names alone."""
        try:
            return states.read_entries(self._db, flow, names, self._projection.states)
        except apsw.Error as error:
            raise self._refused(error) from error

    def state_keys(self, flow: str, after: str, limit: int) -> list[str]:
        """Partition keys greater than `after` of which a flow keeps something, in order; none at the end."""
        try:
            return states.keys(self._db, flow, after, limit, self._projection.states)
        except apsw.Error as error:
            raise self._refused(error) from error

    # Upkeep

    def tick(self, now: int, monotonic: int, *, trusted: bool) -> Usage:
        """Be told the time: `now` is by the wall clock, which may only be `trusted` once it has been set.

        Records go by their age only between a tick with a trusted clock and the next. Answers how full it is.
        """
        keeper = self._keeper
        if keeper.tick(now, monotonic, trusted):
            with contextlib.suppress(StorageError):
                with self._transaction(snapshot=False):
                    keeper.save(self.head)
                keeper.saved()
        return self.usage()

    def usage(self) -> Usage:
        """How full it is."""
        keeper = self._keeper
        return Usage(self._projection.first, self.head, keeper.used(), keeper.max_bytes, keeper.full)

    def maintain(self, *, idle: bool) -> tuple[bool, list[Stored]]:
        """One turn of the work that nobody waits for: remove what is too old, copy the write-ahead log back.

        Returns whether an idle writer should go on with another turn at once, and what was stored in this one.
        """
        stored: list[Stored] = []
        if idle and self._keeper.reserve is not None:
            self._keeper.reserve.take()
        if idle or self._keeper.full or self._untrimmed >= SLICE_BYTES // 2:
            # At least twice as fast as what comes in.
            self._untrimmed = 0
            with contextlib.suppress(StorageError):
                stored = self.trim()
        self._checkpoint(idle=idle)
        return bool(stored), stored

    def trim(self) -> list[Stored]:
        """Remove one slice of what retention lets go; returns the records that say so, none if nothing was due."""
        try:
            upto, losses = self._keeper.due(self._projection)
        except apsw.Error as error:
            raise self._refused(error) from error
        if upto < 0:
            return []
        now = self._keeper.now
        records: list[Record] = [Gap(flow, first, last, now) for flow, first, last in losses]
        records.append(Trimmed(upto, now))
        first = self.head + 1
        self._store(records, encode(records), trim=upto)
        return [Stored(offset, record) for offset, record in enumerate(records, first)]

    def _checkpoint(self, *, idle: bool) -> None:
        # Copied back, the write-ahead log is overwritten from its start: that needs no new space on a full disk.
        reserve = self._keeper.reserve
        short = idle or (reserve is not None and not reserve.held)
        if self._wal_pages <= (WAL_IDLE_PAGES if short else WAL_RESTART_PAGES) and not self._no_space:
            return
        self._no_space = False
        try:
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE if idle else apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.Error as error:
            refused = self._refused(error)
            if isinstance(refused, FsyncFailed):
                raise refused from error
            return  # A full disk: what is committed stays in the write-ahead log and is copied back later.
        self._wal_pages = 0

    def backup(self, to: Path) -> Generator[BackedUp | None, None, None]:
        """Copy the journal to the new file `to` in bounded steps between commits; the last one yields the outcome."""
        return copy(self._db, to)

    def close(self) -> None:
        """Save a snapshot so that the next start reads nothing back, and close."""
        if self.head != self._snapshot_head:
            # Without room for a snapshot the next start reads a little more back; nothing is lost.
            with contextlib.suppress(StorageError), self._transaction(snapshot=True):
                pass
        # Closing copies the write-ahead log back; what finds no room stays in it.
        with contextlib.suppress(apsw.Error):
            self._db.close()


def _takes_room(record: Record) -> bool:
    """Whether a full journal has no place for it: what makes it less full, and what must go on, has the reserve.

    What the gateway's own parts keep (`$broker` and others) is such too, unless it is a removal: it comes from outside.
    """
    if type(record) is StateChange:
        return record.flow.startswith("$") and any(entry is not None for entry in record.entries.values())
    return type(record) in (Event, DeadLetter, Command)
