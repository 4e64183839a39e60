"""Looks after the space of a database: what it uses, what may still come in, and which old records are to go.

It decides from what it reads; the store carries out, inside its transactions.
"""

from __future__ import annotations

import apsw

from edge_runtime.journal.projection import Projection
from edge_runtime.journal.retention import Limits, Old, Retention, followers, plan
from edge_runtime.journal.sqlite.database import PAGE_SIZE, pragma
from edge_runtime.journal.sqlite.reserve import Reserve
from edge_runtime.journal.sqlite.rows import checked

RESERVE_SHARE = 0.05
RESERVE_BYTES = 4 << 20
"""Kept free of events, so that progress, ends of commands and trimming can still commit at the quota: a twentieth or
4 MiB, whichever is more, but never more than half."""
URGENT_SHARE = 0.9
"""Of the room for events: above it no flow holds back what retention removes, so that the boards can go on sending."""
SLICE_BYTES = 256 << 10
SLICE_ROWS = 256
"""One turn of trimming: one to three milliseconds, which a commit may have to wait for."""
ROW_OVERHEAD = 24
"""Bytes that a row takes beside its records, about."""
GROUP_OVERHEAD = 4 * PAGE_SIZE
"""What a transaction takes beside its records, at most: pages that are not full, and the tree above them."""
MARK_SECONDS = 900
"""Running time is saved at least this often: what a sudden end forgets only makes records stay longer."""


def reserve_size(max_bytes: int) -> int:
    """What of a quota is kept free of events."""
    return min(max(int(max_bytes * RESERVE_SHARE), RESERVE_BYTES), max_bytes // 2)


class Keeper:
    """One per open database. `total` counts the bytes of all records ever stored."""

    def __init__(
        self, db: apsw.Connection, retention: Retention, max_bytes: int, reserve: Reserve | None = None
    ) -> None:
        self._db = db
        self.retention = retention
        self.max_bytes = max_bytes
        self.reserve = reserve
        self._for_events = max_bytes - reserve_size(max_bytes)
        self._room = 0
        self._asked = 0
        self._counted = False
        self.full = False
        """An event was refused since there was last room."""
        row = db.execute("SELECT head, bytes FROM mark ORDER BY head DESC LIMIT 1").fetchone()
        self.marked_head: int = row[0] if row else -1
        self.total: int = row[1] if row else 0
        row = db.execute("SELECT uptime FROM running").fetchone()
        self.uptime: int = row[0] if row else 0
        self._saved_uptime = self.uptime
        self._monotonic: int | None = None
        self.stored_head = self.marked_head
        """The newest record, as counted in `total`."""
        self.now = 0
        self.trusted = False

    # Room

    def used(self) -> int:
        """Bytes of pages that hold something."""
        return (pragma(self._db, "page_count") - pragma(self._db, "freelist_count")) * PAGE_SIZE

    def has_room(self, size: int) -> bool:
        """Whether events of `size` bytes may be stored: what is asked for is taken as used up."""
        if not self.max_bytes:
            return True
        need = size + ROW_OVERHEAD
        if need > self._room and not self._counted:
            # Counting pages costs as much as a small insert: it is done when an estimate, on the safe side, runs out.
            self._room = self._for_events - self.used() - self._asked - GROUP_OVERHEAD
            if self.reserve is not None and not self.reserve.held:
                # The disk is full: events may only go where others have been removed.
                free = pragma(self._db, "freelist_count") * PAGE_SIZE
                self._room = min(self._room, free - self._asked - SLICE_BYTES)
            self._counted = True
        self.full = need > self._room
        if self.full:
            return False
        self._room -= need
        self._asked += need
        return True

    def new_group(self) -> None:
        """What was asked for before is stored by now, or will not be."""
        self._room -= GROUP_OVERHEAD
        self._asked = 0
        self._counted = False

    def stored(self, head: int, size: int) -> None:
        """A batch of `size` bytes that ends at `head` has been stored."""
        self.stored_head = head
        self.total += size

    def disk_is_full(self) -> None:
        """A write found no room: within the quota that means that the disk has none, and the reserve is needed."""
        self.full = True
        if self.reserve is not None and self.reserve.held and self.used() < self.max_bytes - GROUP_OVERHEAD:
            self.reserve.release()
        self._room = 0

    # Time

    def tick(self, now: int, monotonic: int, trusted: bool) -> bool:
        """Be told the time; true if the running time should be saved now."""
        if self._monotonic is not None:
            self.uptime += max(0, monotonic - self._monotonic)
        self._monotonic = monotonic
        self.now, self.trusted = now, trusted
        if not self.retention.max_age:
            return False
        age = self.retention.max_age
        return self.uptime - self._saved_uptime >= max(min(age // 64, MARK_SECONDS * 1_000_000), age // 4096)

    def save(self, head: int) -> None:
        """Write down where things stand; inside a transaction."""
        self._db.execute("INSERT OR IGNORE INTO mark VALUES (?, ?, ?)", (head, self.total, self.uptime))
        self._db.execute("REPLACE INTO running VALUES (0, ?)", (self.uptime,))

    def saved(self) -> None:
        """What `save` wrote has become durable."""
        self._saved_uptime = self.uptime

    def forget_marks(self, first: int) -> None:
        """Marks of what is gone are not needed, but for the last one; inside a transaction."""
        self._db.execute("DELETE FROM mark WHERE head < (SELECT max(head) FROM mark WHERE head < ?)", (first,))

    # What is to go

    def due(self, projection: Projection) -> tuple[int, list[tuple[str, int, int]]]:
        """The next slice: up to which record to remove (-1: nothing), and what each flow loses by it."""
        retention = self.retention
        surplus = self.used() - retention.max_bytes if retention.max_bytes else 0
        old = self._old() if retention.max_age and self.trusted else -1
        if surplus <= 0 and old < projection.first:
            return -1, []
        urgent = self.used() - int(self._for_events * URGENT_SHARE) if self.max_bytes else 0
        if self.reserve is not None and not self.reserve.held:
            urgent = max(urgent, surplus)
        limits = Limits(surplus, urgent, old, self.now - retention.max_age if self.trusted else None, self.now)
        flows = followers(projection.flows, projection.first, self.now, self._behind)
        return plan(self._oldest(), flows, limits, retention.flow_budget)

    def _old(self) -> int:
        """The newest record that has been here for `max_age` of the time that the gateway was running."""
        row = self._db.execute(
            "SELECT max(head) FROM mark WHERE uptime <= ?", (self.uptime - self.retention.max_age,)
        ).fetchone()
        return -1 if row is None or row[0] is None else row[0]

    def _behind(self, at: int) -> int:
        """Bytes of the records after `at`: exact at marks, by proportion between two."""
        low = self._db.execute("SELECT head, bytes FROM mark WHERE head <= ? ORDER BY head DESC LIMIT 1", (at,))
        high = self._db.execute("SELECT head, bytes FROM mark WHERE head > ? ORDER BY head LIMIT 1", (at,))
        head, size = low.fetchone() or (-1, 0)
        next_head, next_size = high.fetchone() or (max(self.stored_head, at), self.total)
        share = (at - head) / (next_head - head) if next_head > head else 0
        return int(self.total - size - share * (next_size - size))

    def _oldest(self) -> list[Old]:
        rows: list[Old] = []
        size = 0
        query = "SELECT first, crc, records FROM batch ORDER BY first"
        for first, crc, blob in self._db.execute(query):
            size += len(blob) + ROW_OVERHEAD
            if rows and size > SLICE_BYTES:
                break
            rows.append(Old.of(first, checked(first, crc, blob), len(blob) + ROW_OVERHEAD))
            if len(rows) == SLICE_ROWS:
                break
        return rows
