"""What functions keep, on disk: a row for each entry as of the snapshot, under the changes that came after it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import apsw

from edge_runtime.journal.projection import StateKey
from edge_runtime.journal.records import Entry, State
from edge_runtime.journal.sqlite.rows import damaged

Pending = Mapping[StateKey, Mapping[str, Entry | None]]
"""Entries that have changed since the snapshot; None for removed ones."""

KEPT_EXPIRED = 7 * 86_400_000_000
"""Microseconds: a flow may be behind, and still take events from before an entry's expiry."""
SLICE = 500
"""Expired rows that are removed with one snapshot: a commit may have to wait for it."""


def read(db: apsw.Connection, flow: str, keys: Sequence[str], pending: Pending) -> dict[str, State]:
    """What a flow keeps of these partition keys. Raises StorageError for a row that is not what was stored."""
    found: dict[str, State] = {}
    for key in keys:
        rows = db.execute("SELECT name, expires, value, crc FROM state WHERE flow=? AND key=?", (flow, key))
        state = {name: _checked(flow, key, name, expires, value, crc) for name, expires, value, crc in rows}
        for name, entry in pending.get((flow, key), {}).items():
            if entry is None:
                state.pop(name, None)
            else:
                state[name] = entry
        if state:
            found[key] = state
    return found


def read_entries(
    db: apsw.Connection, flow: str, names: Mapping[str, Sequence[str]], pending: Pending
) -> dict[str, State]:
    """What a flow keeps under these names, by partition key. Raises StorageError as `read` does."""
    found: dict[str, State] = {}
    for key, wanted in names.items():
        changed, state = pending.get((flow, key), {}), dict[str, Entry]()
        for name in wanted:
            if name in changed:
                entry = changed[name]
            else:
                query = "SELECT expires, value, crc FROM state WHERE flow=? AND key=? AND name=?"
                row = db.execute(query, (flow, key, name)).fetchone()
                entry = None if row is None else _checked(flow, key, name, *row)
            if entry is not None:
                state[name] = entry
        if state:
            found[key] = state
    return found


def keys(db: apsw.Connection, flow: str, after: str, limit: int, pending: Pending) -> list[str]:
    """Partition keys greater than `after` of which a flow keeps something: at least one where there is one."""
    while True:
        rows = db.execute(
            "SELECT DISTINCT key FROM state WHERE flow=? AND key>? ORDER BY key LIMIT ?", (flow, after, limit)
        )
        saved = [row[0] for row in rows]
        last = saved[-1] if len(saved) == limit else None
        changed = {key for name, key in pending if name == flow and key > after and (last is None or key <= last)}
        candidates = sorted(changed.union(saved))[:limit]
        found = [key for key in candidates if key not in changed or read(db, flow, [key], pending)]
        if found or not candidates:
            return found
        after = candidates[-1]


def save(db: apsw.Connection, pending: Pending) -> None:
    """Bring the rows up to date; inside a transaction."""
    gone: list[tuple[str, str, str]] = []
    kept: list[tuple[str, str, str, int, str, int]] = []
    for (flow, key), entries in pending.items():
        for name, entry in entries.items():
            if entry is None:
                gone.append((flow, key, name))
            else:
                kept.append((flow, key, name, entry[1], entry[0], _crc(name, *entry)))
    db.executemany("DELETE FROM state WHERE flow=? AND key=? AND name=?", gone)
    db.executemany("REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?)", kept)


def prune(db: apsw.Connection, now: int) -> None:
    """Remove some of the entries that have long expired; inside a transaction."""
    db.execute(
        "DELETE FROM state WHERE (flow, key, name) IN"
        " (SELECT flow, key, name FROM state WHERE expires > 0 AND expires <= ? LIMIT ?)",
        (now - KEPT_EXPIRED, SLICE),
    )


def forget(db: apsw.Connection, flows: Iterable[str]) -> None:
    """Remove everything that these flows keep; inside a transaction."""
    db.executemany("DELETE FROM state WHERE flow=?", [(flow,) for flow in flows])


def rows(db: apsw.Connection) -> Iterator[tuple[str, str, str, Entry]]:
    """All entries: flow, partition key, name, entry. Raises StorageError at the first that is not what was stored."""
    for flow, key, name, expires, value, crc in db.execute("SELECT * FROM state"):
        yield flow, key, name, _checked(flow, key, name, expires, value, crc)


def _checked(flow: str, key: str, name: str, expires: int, value: str, crc: int) -> Entry:
    if crc != _crc(name, value, expires):
        raise damaged(f"what '{flow}' keeps of '{key}' does not match its checksum")
    return value, expires


def _crc(name: str, value: str, expires: int) -> int:
    return zlib.crc32(f"{name}\0{expires}\0{value}".encode())
