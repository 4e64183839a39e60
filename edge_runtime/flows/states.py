"""What flows keep from one event to the next, by partition key: read for each batch, changed by its commit alone.

Nothing here writes but `put_back`, which a rewind asks for. A change tells at which event it was made, so a flow's
state as of any event that is still kept can be found again by undoing the changes of later ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from edge_runtime.errors import EdgeError
from edge_runtime.flows.timeline import PAGE, pages
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import Entry, Record, Rewriting, State, StateChange, Stored

MAX_CACHED = 50_000
MAX_CACHED_BYTES = 16 << 20
"""Partition keys, and about how many bytes of what is kept of them, that are held in memory."""
OVERHEAD = 200
"""Bytes that a partition key takes in the cache beside its values, about."""
CHUNK = 100
CHUNK_BYTES = 4 << 20
"""Partition keys, and about how many bytes, that are put back in one append."""
MAX_SCRATCH = 64 << 20
"""Bytes of values of another time that a dry run may need."""

Change = Mapping[str, Entry | None]
_Key = tuple[str, str, str | None]
"""Flow, partition key, and the name of an entry that is held by itself; None for all of the partition key."""


class States(Protocol):
    """Somebody who knows what flows keep."""

    async def of(self, flow: str, keys: Iterable[str]) -> dict[str, State]:
        """What a flow keeps of these partition keys; those of which it keeps nothing are left out."""
        ...

    async def entries(self, flow: str, names: Mapping[str, Collection[str]]) -> dict[str, State]:
        """As `of`, of each partition key the entries of these names alone: there may be very many others."""
        ...


class NoStates:
    """Implements `States` for flows that keep nothing."""

    async def of(self, flow: str, keys: Iterable[str]) -> dict[str, State]:
        """Nothing."""
        return {}

    async def entries(self, flow: str, names: Mapping[str, Collection[str]]) -> dict[str, State]:
        """Nothing."""
        return {}


def changed(state: State, change: Change) -> State:
    """A state with a change made to it."""
    entries: dict[str, Entry | None] = {**state, **change}
    return {name: entry for name, entry in entries.items() if entry is not None}


class StateTable:
    """Implements `States` over the journal, with the newest keys at hand.

    It hears of every change once that is durable, and a flow's events of one key come one batch after the other: so
    what it answers is what the batches before have left.
    """

    def __init__(self, journal: Journal, stateful: Iterable[str]) -> None:
        """`stateful`: the flows that keep something, as the journal's tables say."""
        self._journal = journal
        self._stateful = set(stateful)
        self._cached: OrderedDict[_Key, State] = OrderedDict()
        self._bytes = 0
        self._single: set[str] = set()
        """Flows of which entries were asked for one by one."""
        journal.listen(self._hear, events=False)

    async def of(self, flow: str, keys: Iterable[str]) -> dict[str, State]:
        """As `States.of`."""
        if flow not in self._stateful:
            return {}
        found: dict[str, State] = {}
        missing: list[str] = []
        for key in keys:
            state = self._known((flow, key, None))
            if state is None:
                missing.append(key)
            else:
                found[key] = state
        if missing:
            read = await self._journal.states(flow, missing)
            for key in missing:
                found[key] = read.get(key, {})
                self._remember((flow, key, None), found[key])
        return {key: state for key, state in found.items() if state}

    async def entries(self, flow: str, names: Mapping[str, Collection[str]]) -> dict[str, State]:
        """As `States.entries`."""
        if flow not in self._stateful:
            return {}
        self._single.add(flow)
        found: dict[str, State] = {key: {} for key in names}
        missing: dict[str, list[str]] = {}
        for key, wanted in names.items():
            for name in wanted:
                state = self._known((flow, key, name))
                if state is None:
                    missing.setdefault(key, []).append(name)
                else:
                    found[key] |= state
        if missing:
            read = await self._journal.entries(flow, missing)
            for key, wanted in missing.items():
                state = read.get(key, {})
                found[key] |= state
                for name in wanted:
                    self._remember((flow, key, name), {name: state[name]} if name in state else {})
        return {key: state for key, state in found.items() if state}

    def _known(self, key: _Key) -> State | None:
        state = self._cached.get(key)
        if state is not None:
            self._cached.move_to_end(key)
        return state

    def forget(self, flow: str) -> None:
        """Look at the journal again for what a flow keeps: it may have removed it."""
        for key in [key for key in self._cached if key[0] == flow]:
            self._bytes -= _size(self._cached.pop(key))

    def keeps(self, flow: str) -> bool:
        """Whether a flow keeps anything, or once did."""
        return flow in self._stateful

    async def any(self, flow: str) -> bool:
        """Whether a flow keeps anything at all."""
        return flow in self._stateful and bool(await self._journal.state_keys(flow, "", 1))

    def _hear(self, stored: Sequence[Stored]) -> None:
        for item in stored:
            record = item.record
            if type(record) is StateChange:
                self._stateful.add(record.flow)
                key: _Key = (record.flow, record.key, None)
                state = self._cached.get(key)
                if state is not None:
                    self._remember(key, changed(state, record.entries))
                if record.flow in self._single:
                    for name, entry in record.entries.items():
                        self._remember((record.flow, record.key, name), {} if entry is None else {name: entry})

    def _remember(self, key: _Key, state: State) -> None:
        old = self._cached.pop(key, None)
        if old is not None:
            self._bytes -= _size(old)
        self._cached[key] = state
        self._bytes += _size(state)
        while len(self._cached) > MAX_CACHED or self._bytes > MAX_CACHED_BYTES:
            self._bytes -= _size(self._cached.popitem(last=False)[1])


class ScratchStates:
    """Implements `States` for a dry run: as they were at a moment, and changed by the run alone."""

    def __init__(self, journal: Journal, flow: str, undone: dict[str, dict[str, Entry | None]], head: int) -> None:
        self._journal = journal
        self._flow = flow
        self._changes = undone
        self._upto = head
        """What the flow has changed behind here is not undone yet: it goes on meanwhile."""

    @classmethod
    async def at(cls, journal: Journal, flow: str, after: int, head: int) -> ScratchStates:
        """What `flow` kept once it had dealt with everything up to `after`; the journal ends with `head`.

        Raises EdgeError if too much has changed since.
        """
        undone: dict[str, dict[str, Entry | None]] = {}
        size = 0
        async for key, change in _undoing(journal, flow, after, head):
            undone.setdefault(key, {}).update(change)
            size += OVERHEAD + sum(len(entry[0]) for entry in change.values() if entry)
            if size > MAX_SCRATCH:
                raise EdgeError(
                    f"what '{flow}' keeps has changed too much since record {after + 1} to go back in memory",
                    hint="Replay from a later moment.",
                )
        return cls(journal, flow, undone, head)

    async def of(self, flow: str, keys: Iterable[str]) -> dict[str, State]:
        """As `States.of`."""
        wanted = list(keys)
        now = await self._journal.states(self._flow, wanted)
        await self._undo_newer()  # after that look, so that it holds whatever was seen by it
        found = {key: changed(now.get(key, {}), self._changes.get(key, {})) for key in wanted}
        return {key: state for key, state in found.items() if state}

    async def entries(self, flow: str, names: Mapping[str, Collection[str]]) -> dict[str, State]:
        """As `States.entries`."""
        wanted = {key: list(some) for key, some in names.items()}
        now = await self._journal.entries(self._flow, wanted)
        await self._undo_newer()
        found: dict[str, State] = {}
        for key, some in wanted.items():
            changes = self._changes.get(key, {})
            found[key] = changed(now.get(key, {}), {name: changes[name] for name in some if name in changes})
        return {key: state for key, state in found.items() if state}

    async def _undo_newer(self) -> None:
        while page := await self._journal.read(self._upto, PAGE):
            for stored in page:
                record = stored.record
                if type(record) is StateChange and record.flow == self._flow:
                    changes = self._changes.setdefault(record.key, {})
                    for name, entry in record.before.items():
                        changes.setdefault(name, entry)
            self._upto = page[-1].offset

    def apply(self, record: StateChange) -> None:
        """A change that the run has made."""
        self._changes.setdefault(record.key, {}).update(record.entries)


async def put_back(journal: Journal, flow: str, cursor: int, rewriting: Rewriting) -> None:
    """Make a flow keep what it kept before; `cursor` is where it goes on from.

    It may be begun again after it was interrupted. Raises StorageError.
    """
    changes: dict[str, dict[str, Entry | None]] = {}
    if rewriting.after < 0:
        last, number = "", 1
        while keys := await journal.state_keys(flow, last, number):
            states = await journal.states(flow, keys)
            await _rewrite(journal, flow, cursor, {key: dict.fromkeys(state) for key, state in states.items()})
            last = keys[-1]
            # Many partition keys in one go, but few where one of them holds very much.
            number = min(2 * number, CHUNK) if sum(map(_size, states.values())) < CHUNK_BYTES else 1
        return
    size = 0
    async for key, change in _undoing(journal, flow, rewriting.after, rewriting.until):
        changes.setdefault(key, {}).update(change)
        size += _size(change)
        if len(changes) >= CHUNK or size >= CHUNK_BYTES:
            await _rewrite(journal, flow, cursor, changes)
            changes, size = {}, 0
    await _rewrite(journal, flow, cursor, changes)


async def _rewrite(journal: Journal, flow: str, cursor: int, changes: Mapping[str, Change]) -> None:
    now = await journal.entries(flow, {key: list(change) for key, change in changes.items()})
    records: list[Record] = []
    size = 0
    for key, change in changes.items():
        state = now.get(key, {})
        entries: dict[str, Entry | None] = {}
        before: dict[str, Entry | None] = {}
        for name, entry in change.items():
            if state.get(name) == entry:
                continue
            entries[name], before[name] = entry, state.get(name)
            size += _size({name: entry}) + _size({name: before[name]})
            if size >= CHUNK_BYTES:
                await journal.append([*records, StateChange(flow, key, entries, before, cursor)])
                records, entries, before, size = [], {}, {}, 0
        if entries:
            records.append(StateChange(flow, key, entries, before, cursor))
    if records:
        await journal.append(records)


async def _undoing(journal: Journal, flow: str, after: int, until: int) -> AsyncIterator[tuple[str, Change]]:
    """The entries of a flow, by key, that were others when it had dealt with everything up to `after`; as they were.

    Looks at the changes up to `until`. The flow may have come by here more than once: what counts is the last time.
    """
    wanted: dict[tuple[str, str], int] = {}
    async for offset, record in _changes(journal, flow, after, until):
        for name in record.entries:
            if record.at <= after:
                wanted.pop((record.key, name), None)
            else:
                wanted.setdefault((record.key, name), offset)
    # Twice, and not once with the values in hand: there may be far more of them than fit into memory.
    async for offset, record in _changes(journal, flow, after, until):
        change = {name: entry for name, entry in record.before.items() if wanted.get((record.key, name)) == offset}
        if change:
            yield record.key, change


async def _changes(journal: Journal, flow: str, after: int, until: int) -> AsyncIterator[tuple[int, StateChange]]:
    async for page in pages(journal, after, until):
        for stored in page:
            if type(stored.record) is StateChange and stored.record.flow == flow:
                yield stored.offset, stored.record


def _size(state: Change) -> int:
    return OVERHEAD + sum(len(name) + (len(entry[0]) if entry else 0) for name, entry in state.items())
