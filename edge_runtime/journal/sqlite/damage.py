"""What is wrong with a journal on disk, in words, and how to save what can still be read; while nobody has it open."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec

from edge_runtime.errors import StorageError
from edge_runtime.events import Event
from edge_runtime.journal import seen
from edge_runtime.journal.interface import Tables
from edge_runtime.journal.projection import Projection
from edge_runtime.journal.records import Entry, Gap, Record, Trimmed
from edge_runtime.journal.retention import dealt
from edge_runtime.journal.sqlite import states
from edge_runtime.journal.sqlite.backup import publish
from edge_runtime.journal.sqlite.database import open_database, pragma, reading
from edge_runtime.journal.sqlite.rows import checked, encode
from edge_runtime.journal.timers import Pending

MAX_PROBES = 200_000
"""How often the far side of an unreadable stretch is looked for before the rest of it is given up."""
BATCH = 1000
MAX_COUNT = 100_000
"""More records than any batch holds: such a count is damage too."""

_decode_tables = msgspec.msgpack.Decoder(Tables).decode
_decode_intervals = msgspec.msgpack.Decoder(seen.Intervals).decode

LOST = ""
"""The flow of a `Gap` that stands for records lost to damage, and not to a flow alone."""


class Damage(msgspec.Struct, frozen=True):
    """Records that cannot be read any more."""

    first: int
    last: int
    why: str


class Report(msgspec.Struct, frozen=True):
    """The state of a journal."""

    ok: bool
    first: int
    """The oldest record that can be read; 0 if there is none."""
    head: int
    """The newest record that can be read; -1 if there is none."""
    records: int
    """How many can be read."""
    damage: list[Damage]
    tables: str
    """Empty, or what is wrong with the saved tables (devices, flows, known sequences)."""
    advice: str

    def lines(self) -> list[str]:
        """The report for a person."""
        if self.ok:
            which = f": {self.records} records, {self.first} to {self.head}" if self.records else " and empty"
            return [f"The journal is sound{which}.", self.advice]
        found = [f"Records {d.first} to {d.last} are lost: {d.why}." for d in self.damage]
        if self.tables:
            found.append(f"The saved tables are damaged: {self.tables}.")
        return [*found, f"{self.records} records can be saved.", self.advice]


class _Scan:
    """Reads a database that may be damaged: every batch that is what was stored, and what lies between."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._probes = 0
        self.first = 0
        """The offset that the records should begin with, as far as the saved tables tell."""
        self.head = -1
        self.tables: Tables | None = None
        self.tables_damage = ""
        self.unreadable: list[tuple[int, int, str]] = []
        """Batches that are there and are not what was stored: first, last, why."""
        self._read_tables()

    def _read_tables(self) -> None:
        crc = "crc" if self._db.execute("PRAGMA user_version").fetchall() != [(1,)] else "NULL"
        try:
            row = self._db.execute(f"SELECT head, CAST(tables AS BLOB), {crc} FROM snapshot").fetchone()
            if row is not None:
                if row[2] is not None and zlib.crc32(row[1]) != row[2]:
                    raise ValueError("the checksum does not match")
                self.tables = _decode_tables(row[1])
                self.first, self.head = self.tables.first, row[0]
            for _ in self.boots():
                pass
            for _ in self.states():
                pass
        except (apsw.Error, ValueError, msgspec.MsgspecError, StorageError) as error:
            self.tables_damage = str(error)

    def boots(self) -> Iterator[tuple[str, bytes, bytes]]:
        """The known sequences; raises at the first row that is not what was stored."""
        crc = "crc" if self._db.execute("PRAGMA user_version").fetchall() != [(1,)] else "NULL"
        for device, boot, blob, stored in self._db.execute(
            f"SELECT device, boot, CAST(intervals AS BLOB), {crc} FROM boot"
        ):
            if stored is not None and zlib.crc32(blob) != stored:
                raise ValueError(f"the known sequences of device '{device}' do not match their checksum")
            _decode_intervals(blob)
            yield device, boot, blob

    def states(self) -> Iterator[tuple[str, str, str, Entry]]:
        """What functions keep; raises at the first row that is not what was stored."""
        if pragma(self._db, "user_version") >= 3:
            yield from states.rows(self._db)

    def batches(self) -> Iterator[tuple[int, list[Record]]]:
        """Every batch that can be read, in order."""
        yield from self._between(0, 1 << 62)

    def _between(self, low: int, high: int) -> Iterator[tuple[int, list[Record]]]:
        """Batches that start in `low..high`; around a page that cannot be read by halves."""
        position = low
        try:
            rows = self._db.execute(
                "SELECT first, count, crc, CAST(records AS BLOB) FROM batch WHERE first BETWEEN ? AND ? ORDER BY first",
                (low, high),
            )
            for first, count, crc, blob in rows:
                position = first + (count if 0 < count <= MAX_COUNT else 1)
                self.head = max(self.head, position - 1)
                try:
                    records = checked(first, crc, blob)
                except (StorageError, msgspec.MsgspecError):
                    self.unreadable.append((first, position - 1, "the checksum does not match"))
                    continue
                yield first, records
            return
        except apsw.Error:
            self._probes += 1
        high = min(high, max(self._end(), position))
        if position >= high or self._probes > MAX_PROBES:
            return
        middle = (position + high) // 2
        yield from self._between(position, middle)
        yield from self._between(middle + 1, high)

    def _end(self) -> int:
        """The start of the last batch that can be found."""
        with contextlib.suppress(apsw.Error):
            row = self._db.execute("SELECT max(first) FROM batch").fetchone()
            if row is not None and row[0] is not None:
                return int(row[0])
        with contextlib.suppress(apsw.Error):
            row = self._db.execute("SELECT max(head) FROM mark").fetchone()
            if row is not None and row[0] is not None:
                return max(int(row[0]), self.head) + 100_000
        return self.head + 100_000


def examine(path: Path) -> Report:
    """Read every record of the journal at `path` and say what is wrong. Changes nothing.

    Raises StorageError if it is not a journal, is in use, or cannot be opened at all.
    """
    with reading(path) as db:
        scan = _Scan(db)
        return _report(scan, ((first, records) for first, records in scan.batches()))


def _report(scan: _Scan, batches: Iterator[tuple[int, list[Record]]]) -> Report:
    oldest, expected, count = 0, -1, 0
    missing: list[tuple[int, int]] = []
    known: list[tuple[int, int]] = []
    trimmed = scan.first
    for first, records in batches:
        if expected < 0:
            oldest = expected = first
        if first > expected:
            missing.append((expected, first - 1))
        expected = first + len(records)
        count += len(records)
        for record in records:
            if isinstance(record, Trimmed):
                trimmed = max(trimmed, record.upto + 1)
            elif isinstance(record, Gap) and record.flow == LOST:
                known.append((record.first, record.last))
    if oldest > trimmed:
        missing.insert(0, (trimmed, oldest - 1))
    if scan.head >= max(expected, 0) and scan.head >= trimmed:
        missing.append((max(expected, trimmed), scan.head))
    why = {(first, last): text for first, last, text in scan.unreadable}
    damage = [
        Damage(first, last, why.get((first, last), "they are missing, or lie on pages that cannot be read"))
        for first, last in missing
        if last >= trimmed and not any(low <= first and last <= high for low, high in known)
    ]
    for first, last, text in scan.unreadable:
        if not any(d.first <= first and last <= d.last for d in damage):
            damage.append(Damage(first, last, text))
    ok = not damage and not scan.tables_damage
    advice = (
        "Nothing needs to be done."
        if ok
        else "Restore a backup, or save what can be read into a new journal; and check the disk or SD card."
    )
    head = expected - 1 if count else -1
    return Report(ok, oldest, head, count, sorted(damage, key=lambda d: d.first), scan.tables_damage, advice)


def salvage(path: Path, to: Path, now: int) -> Report:
    """Write everything that can be read into the new journal `to`, under the offsets it had.

    What was lost stands in the new journal as `Gap`s: one for the journal as a whole, and one for each flow that had
    not dealt with it, dated `now`. Returns what was found in the old one. Raises StorageError if `to` exists.
    """
    if to.exists():
        raise StorageError(f"{to} exists already", hint="Name another file, or move that one away.")
    partial = to.with_name(f"{to.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        with reading(path) as source, contextlib.closing(open_database(partial)) as target:
            scan = _Scan(source)
            report = _report(scan, _copied(scan, source, target, now))
            target.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        publish(partial, to)
    except OSError as error:
        raise StorageError(f"{to} cannot be written: {error.strerror}", hint="Check the folder.") from error
    finally:
        for name in (partial, partial.with_name(f"{partial.name}-wal")):
            name.unlink(missing_ok=True)
    return report


def _copied(
    scan: _Scan, source: apsw.Connection, target: apsw.Connection, now: int
) -> Iterator[tuple[int, list[Record]]]:
    """Copy batch by batch, rebuilding the tables on the way; at the end the gaps and a snapshot."""
    projection = Projection()
    with contextlib.suppress(apsw.Error, ValueError, msgspec.MsgspecError):
        for device, boot, blob in scan.boots():
            projection.boots[device, boot] = _decode_intervals(blob)
            projection.dirty.add((device, boot))
    with contextlib.suppress(apsw.Error, StorageError):
        for flow, key, name, entry in scan.states():
            projection.states.setdefault((flow, key), {})[name] = entry
    if scan.tables is not None:
        tables = scan.tables
        projection.stateful = tables.stateful
        projection.pending, projection.tokens = Pending(tables.timers, tables.ticks), tables.tokens
        projection.flows, projection.devices, projection.apps = tables.flows, tables.devices, tables.apps
        projection.outbox = {command.id: command for command in tables.outbox}
    snapshot_head = scan.head if scan.tables is not None else -1
    lost: list[tuple[int, int]] = []
    start = expected = -1
    size = 0
    target.execute("BEGIN IMMEDIATE")
    for first, records in scan.batches():
        yield first, records
        start = first if start < 0 else start
        if 0 <= expected < first:
            lost.append((expected, first - 1))
        expected = first + len(records)
        size += _insert(target, first, records)
        for offset, record in enumerate(records, first):
            projection.head = offset - 1
            if offset > snapshot_head:
                with contextlib.suppress(KeyError):
                    projection.apply(record)
            elif isinstance(record, Event) and record.origin is None:
                # The saved tables know what came before them; but not all known sequences may have been readable.
                known = projection.boots.setdefault((record.device, record.boot), [])
                if not seen.contains(known, record.seq):
                    seen.add(known, record.seq)
                    projection.dirty.add((record.device, record.boot))
    projection.first = max(start, 0)
    projection.head = max(expected - 1, scan.head)
    if scan.head >= expected:
        lost.append((max(expected, scan.first), scan.head))
    gaps: list[Record] = []
    for low, high in lost:
        gaps.append(Gap(LOST, low, high, now))
        gaps += [Gap(name, low, high, now) for name, state in projection.flows.items() if dealt(state) < high]
    for index in range(0, len(gaps), BATCH):
        part = gaps[index : index + BATCH]
        size += _insert(target, projection.head + 1, part)
        for record in part:
            projection.apply(record)
    blobs = [(*key, encode(projection.boots[key])) for key in projection.dirty]
    target.executemany("REPLACE INTO boot VALUES (?, ?, ?, ?)", [(*row, zlib.crc32(row[2])) for row in blobs])
    states.save(target, projection.states)
    saved = encode(projection.tables())
    target.execute("REPLACE INTO snapshot VALUES (0, ?, ?, ?)", (projection.head, saved, zlib.crc32(saved)))
    target.execute("REPLACE INTO mark VALUES (?, ?, 0)", (projection.head, size))
    target.execute("COMMIT")


def _insert(target: apsw.Connection, first: int, records: list[Record]) -> int:
    blob = encode(records)
    target.execute("INSERT INTO batch VALUES (?, ?, ?, ?)", (first, len(records), zlib.crc32(blob), blob))
    return len(blob)
