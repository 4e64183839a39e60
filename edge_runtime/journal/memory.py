"""A journal in memory that offers no more than a replicated stream would: one atomic append, and reading.

It is the proof that the rest of the gateway needs nothing else, and the journal of fast tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from edge_runtime.errors import StorageError, StorageFull
from edge_runtime.journal.interface import Appended, Listener, Listeners, Settled, Tables, settle_with
from edge_runtime.journal.projection import Projection
from edge_runtime.journal.records import Gap, Progress, Record, State, Stored, Trimmed
from edge_runtime.journal.retention import Old, followers, plan, trim_now

MAX_APPEND = 1000
"""Records in one append; a commit has its progress besides."""


class MemoryJournal:
    """Implements `Journal`. `full = True` makes every write fail as a full disk would."""

    def __init__(self, records: Sequence[Record] = ()) -> None:
        self.full = False
        self._records: list[Record] = []
        self._projection = Projection()
        self._listeners = Listeners(raising=True)
        self._hidden = 0
        """Records at the start that have been trimmed: kept to rebuild the tables, but not read any more."""
        for record in records:
            self._records.append(record)
            self._projection.apply(record)
        self._hidden = self._projection.first

    def records(self) -> list[Record]:
        """Everything ever stored, in order; a new journal made from it is this one after a restart."""
        return list(self._records)

    def trim(self, upto: int, now: int) -> None:
        """Remove everything up to the offset `upto`, as retention would; flows that are behind get their gaps."""
        first = self._projection.first
        old = Old.of(first, self._records[first : upto + 1], 0)
        _, losses = plan([old], followers(self._projection.flows, first, now), trim_now(upto), 0)
        self._store([*(Gap(flow, start, last, now) for flow, start, last in losses), Trimmed(upto, now)])
        self._hidden = upto + 1

    async def append(self, records: Sequence[Record]) -> Appended:
        """As `Journal.append`."""
        return await self._write(records)

    def submit(self, records: Sequence[Record], settled: Settled) -> None:
        """As `Journal.submit`."""
        settle_with(self.append(records), settled)

    async def commit(self, progress: Progress, effects: Sequence[Record]) -> Appended:
        """As `Journal.commit`."""
        self._projection.check(progress.flow, progress.generation)
        return await self._write([*effects, progress])

    async def read(self, after: int, limit: int) -> list[Stored]:
        """As `Journal.read`."""
        start = max(after + 1, self._hidden)
        return [Stored(start + i, record) for i, record in enumerate(self._records[start : start + limit])]

    async def tables(self) -> Tables:
        """As `Journal.tables`."""
        return self._projection.tables()

    async def states(self, flow: str, keys: Sequence[str]) -> dict[str, State]:
        """As `Journal.states`."""
        changed = {key: self._projection.states.get((flow, key), {}) for key in keys}
        found = {key: {name: entry for name, entry in some.items() if entry} for key, some in changed.items()}
        return {key: state for key, state in found.items() if state}

    async def entries(self, flow: str, names: Mapping[str, Sequence[str]]) -> dict[str, State]:
        """As `Journal.entries`."""
        found = {}
        for key, state in (await self.states(flow, list(names))).items():
            found[key] = {name: state[name] for name in names[key] if name in state}
        return {key: state for key, state in found.items() if state}

    async def state_keys(self, flow: str, after: str, limit: int) -> list[str]:
        """As `Journal.state_keys`."""
        states = self._projection.states.items()
        return sorted(key for (name, key), some in states if name == flow and key > after and any(some.values()))[
            :limit
        ]

    def listen(self, listener: Listener, *, events: bool = True) -> None:
        """As `Journal.listen`."""
        self._listeners.add(listener, events=events)

    async def _write(self, records: Sequence[Record]) -> Appended:
        if len(records) > MAX_APPEND + 1:
            raise StorageError(f"{len(records)} records in one append; the limit is {MAX_APPEND}")
        if self.full:
            raise StorageFull("the journal in memory was told to be full")
        placed, fresh = self._projection.place(records)
        stored = self._store(fresh)
        await asyncio.sleep(0)
        return Appended(placed, stored)

    def _store(self, fresh: Sequence[Record]) -> list[Stored]:
        stored = []
        for record in fresh:
            self._records.append(record)
            self._projection.apply(record)
            stored.append(Stored(self._projection.head, record))
        self._listeners.tell(stored)
        return stored
