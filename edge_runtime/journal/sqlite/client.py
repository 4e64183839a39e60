"""The daemon's side of the SQLite journal: starts the writer process and groups what many callers want into commits.

Group commit is adaptive: when nothing is under way a write goes out at once; what arrives during a commit goes out
together with the next. `max_delay` stretches that, to write less to flash that wears out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import msgspec

from edge_runtime.errors import StaleGeneration, StorageError, StorageFull
from edge_runtime.events import Event
from edge_runtime.journal.interface import Appended, Listener, Listeners, Placed, Settled, Tables, Usage
from edge_runtime.journal.projection import instead
from edge_runtime.journal.records import FlowState, Progress, Record, State, Stored
from edge_runtime.journal.retention import KEEP_ALL, Retention
from edge_runtime.journal.sqlite.messages import (
    LENGTH,
    Announce,
    BackedUp,
    Backup,
    Batches,
    Close,
    Done,
    Failed,
    Read,
    ReadEntries,
    ReadStateKeys,
    ReadStates,
    ReadTables,
    Reply,
    Request,
    Settings,
    StateKeysReply,
    StatesReply,
    TablesReply,
    Tick,
    Ticked,
    WriteEncoded,
    Written,
    frame,
)
from edge_runtime.journal.sqlite.rows import decode_records

MAX_APPEND = 1000
"""Records in one append."""
MAX_GROUP = 2000
MAX_GROUP_BYTES = 4 << 20
"""Records, or bytes, in one transaction: beyond it, latency grows faster than the cost per record falls."""
MAX_WAITING_BYTES = 64 << 20
"""What may wait to be written: beyond it appends are refused as if the disk were full, which for now it is."""
START_SECONDS = 60.0
"""A start on a slow SD card after a crash reads back at most one snapshot's worth; this is far beyond it."""

_log = logging.getLogger("edge.journal")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reply).decode
_STORED = Placed.STORED
"""As a plain name: looking up a member of an enumeration is slow in CPython 3.11."""


class SqliteJournal(asyncio.Protocol):
    """Implements `Journal`. Make one with `await SqliteJournal.open(...)`."""

    def __init__(self, max_delay: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._max_delay = max_delay
        self._listeners = Listeners()
        self._pending: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._group: list[_Waiting] | None = None
        self._group_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._next_write = 0.0
        self._replies: deque[Callable[[Reply], None]] = deque()
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._backup: asyncio.Future[BackedUp] | None = None
        self._emptied: asyncio.Future[None] | None = None
        """Somebody waits until nothing is to be written."""
        self._closing = False
        self.commits = 0
        """Transactions made durable so far."""
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Set when the writer process has ended without being asked to: the daemon must end too."""

    @classmethod
    async def open(
        cls, path: Path, *, max_bytes: int = 0, max_delay: float = 0.0, retention: Retention = KEEP_ALL
    ) -> SqliteJournal:
        """Start the writer on the database at `path` (made if missing).

        `max_bytes`: quota of the file, 0 for none. `max_delay`: seconds that a commit may be held back for others to
        join it. `retention`: what may be removed when; by age only where `tick` is called.

        Raises StorageError, in the writer's words, if the database cannot be opened.
        """
        journal = cls(max_delay)
        ours, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            settings = msgspec.json.encode(Settings(max_bytes, retention)).decode()
            arguments = [str(fd), settings, str(path)]
            journal._process = subprocess.Popen(
                [sys.executable, "-m", "edge_runtime.journal.sqlite.writer", *arguments],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                env={"PATH": os.environ.get("PATH", os.defpath)},
            )
        ready = journal._request(None)
        ours.setblocking(False)
        await journal._loop.create_connection(lambda: journal, sock=ours)
        try:
            await asyncio.wait_for(ready, START_SECONDS)
        except TimeoutError:
            journal._process.kill()
            raise StorageError(f"the journal {path} did not open within {START_SECONDS:.0f} s") from None
        except StorageError:
            journal._closing = True
            journal._process.wait()
            raise
        return journal

    @property
    def writer_pid(self) -> int:
        """The writer's process id, for whoever looks at what it uses."""
        assert self._process is not None
        return self._process.pid

    def append(self, records: Sequence[Record]) -> Awaitable[Appended]:
        """As `Journal.append`."""
        future: asyncio.Future[Appended] = self._loop.create_future()
        self._submit(list(records), partial(_resolve, future))
        return future

    def submit(self, records: Sequence[Record], settled: Settled) -> None:
        """As `Journal.submit`."""
        self._submit(records, settled)

    def commit(self, progress: Progress, effects: Sequence[Record]) -> Awaitable[Appended]:
        """As `Journal.commit`."""
        future: asyncio.Future[Appended] = self._loop.create_future()
        self._submit([*effects, progress], partial(_resolve, future), progress.flow, progress.generation)
        return future

    def listen(self, listener: Listener, *, events: bool = True) -> None:
        """As `Journal.listen`."""
        self._listeners.add(listener, events=events)

    async def read(self, after: int, limit: int) -> list[Stored]:
        """As `Journal.read`."""
        reply = await self._request(Read(after, limit))
        assert isinstance(reply, Batches)
        return [
            Stored(offset, record)
            for first, blob in reply.rows
            for offset, record in enumerate(decode_records(blob), first)
            if offset > after
        ]

    async def states(self, flow: str, keys: Sequence[str]) -> dict[str, State]:
        """As `Journal.states`."""
        reply = await self._request(ReadStates(flow, list(keys)))
        assert isinstance(reply, StatesReply)
        return reply.states

    async def entries(self, flow: str, names: Mapping[str, Sequence[str]]) -> dict[str, State]:
        """As `Journal.entries`."""
        reply = await self._request(ReadEntries(flow, {key: list(wanted) for key, wanted in names.items()}))
        assert isinstance(reply, StatesReply)
        return reply.states

    async def state_keys(self, flow: str, after: str, limit: int) -> list[str]:
        """As `Journal.state_keys`."""
        reply = await self._request(ReadStateKeys(flow, after, limit))
        assert isinstance(reply, StateKeysReply)
        return reply.keys

    async def tables(self) -> Tables:
        """As `Journal.tables`."""
        reply = await self._request(ReadTables())
        assert isinstance(reply, TablesReply)
        return reply.tables

    async def tick(self, now: int, monotonic: int, *, trusted: bool) -> Usage:
        """Tell the journal the time (both in microseconds), as often as records should be looked at for their age.

        `trusted`: the wall clock has been set; until then nothing goes by its age. Answers how full the journal is.
        """
        reply = await self._request(Tick(now, monotonic, trusted))
        assert isinstance(reply, Ticked)
        return reply.usage

    async def backup(self, to: Path) -> BackedUp:
        """Copy the journal, as it stands when the copy ends, to the new file `to`, and verify every record of it.

        Commits go on meanwhile. Raises StorageError, and leaves nothing behind, if `to` exists or the copy fails.
        Who is cancelled only stops waiting: the copy is made all the same, and until then no other is begun.
        """
        if self._backup is not None:
            raise StorageError("another backup is being made", hint="Wait for it to end.")
        if self._transport is None or self._closing:
            raise StorageError("the journal is closed")
        self._backup = self._loop.create_future()
        self._transport.write(frame(_encode(Backup(str(to.absolute())))))
        outcome = await asyncio.shield(self._backup)
        if outcome.error:
            raise StorageError(outcome.error, hint=outcome.hint)
        return outcome

    async def close(self) -> None:
        """Write what is pending, have the writer save a snapshot, and wait for it to end."""
        while self._pending or self._group:
            self._emptied = self._emptied or self._loop.create_future()
            await asyncio.shield(self._emptied)
        self._closing = True
        if self._transport is not None:
            self._transport.write(frame(_encode(Close())))
        if self._process is not None:
            await self._loop.run_in_executor(None, self._process.wait)
        if self._transport is not None:
            self._transport.close()

    # Grouping

    def _submit(self, records: Sequence[Record], settled: Settled, flow: str = "", generation: int = 0) -> None:
        try:
            item = self._checked(records, settled, flow, generation)
        except StorageError as error:
            self._loop.call_soon(settled, error)
            return
        self._pending.append(item)
        self._waiting_bytes += len(item.body)
        if self._group is None and self._timer is None:
            # Not at once: what else this turn of the loop brings (a segment with ten messages) joins in.
            delay = self._next_write - self._loop.time()
            self._timer = self._loop.call_later(max(delay, 0), self._flush)

    def _checked(self, records: Sequence[Record], settled: Settled, flow: str, generation: int) -> _Waiting:
        """Encoded here and not in its group: what cannot be written fails alone, and sizes are known."""
        if self._closing or self._transport is None:
            raise StorageError("the journal is closed")
        if len(records) > MAX_APPEND + bool(flow):
            raise StorageError(f"{len(records)} records in one append; the limit is {MAX_APPEND}")
        try:
            body = _encode((records, flow, generation))
        except Exception as error:
            raise StorageError(f"a record cannot be stored: {error}") from error
        if len(body) > MAX_WAITING_BYTES:
            raise StorageError(f"{len(body) >> 20} MiB in one append; the limit is {MAX_WAITING_BYTES >> 20}")
        if self._waiting_bytes + len(body) > MAX_WAITING_BYTES:
            raise StorageFull(
                "the disk does not keep up: too much waits to be stored",
                hint="Boards keep their readings meanwhile; check the disk if this lasts.",
            )
        return _Waiting(records, body, settled, not flow and _changes_flows(records))

    def _flush(self) -> None:
        self._timer = None
        if self._group is not None or not self._pending or self._transport is None:
            return
        pending = self._pending
        group = [first := pending.popleft()]
        size, count = len(first.body), len(first.records)
        if not first.alone:
            while pending:
                item = pending[0]
                size, count = size + len(item.body), count + len(item.records)
                if count > MAX_GROUP or size > MAX_GROUP_BYTES or item.alone:
                    size -= len(item.body)
                    break
                group.append(pending.popleft())
        self._group, self._group_bytes = group, size
        self._next_write = self._loop.time() + self._max_delay
        self._replies.append(self._written)
        self._transport.write(frame(_encode(WriteEncoded([msgspec.Raw(item.body) for item in group]))))

    def _written(self, reply: Reply) -> None:
        group, self._group = self._group or [], None
        self._waiting_bytes -= self._group_bytes
        self.commits += 1
        if isinstance(reply, Written):
            outcomes = _outcomes(group, reply)
            # All listeners first: whoever goes on because its append is durable finds the rest of the house informed.
            stored = [item for outcome in outcomes if isinstance(outcome, Appended) for item in outcome.stored]
            self._listeners.tell(stored)
            for item, outcome in zip(group, outcomes, strict=True):
                item.settle(outcome)
        else:
            error = _error(reply)
            for item in group:
                item.settle(error)
        if self._pending and self._timer is None:
            delay = self._next_write - self._loop.time()
            if delay > 0:
                self._timer = self._loop.call_later(delay, self._flush)
            else:
                self._flush()
        if self._emptied is not None and not self._pending:
            self._emptied.set_result(None)
            self._emptied = None

    # Talking to the writer

    def _send(self, request: Request, on_reply: Callable[[Reply], None]) -> None:
        if self._transport is None:
            on_reply(Failed("the journal is closed", "", full=False))
            return
        self._replies.append(on_reply)
        self._transport.write(frame(_encode(request)))

    def _request(self, request: Request | None) -> asyncio.Future[Reply]:
        """Send a request (None: await what the writer says first) and hand its reply over; Failed is raised."""
        future: asyncio.Future[Reply] = self._loop.create_future()

        def settle(reply: Reply) -> None:
            if future.done():
                return
            if isinstance(reply, Failed):
                future.set_exception(_error(reply))
            else:
                future.set_result(reply)

        if request is None:
            self._replies.append(settle)
        else:
            self._send(request, settle)
        return future

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(buffer)[0]
            if len(buffer) < end:
                break
            reply = _decode(bytes(buffer[LENGTH.size : end]))
            del buffer[:end]
            if isinstance(reply, Announce):
                stored = [Stored(offset, record) for offset, record in enumerate(reply.records, reply.first)]
                self._listeners.tell(stored)
            elif isinstance(reply, BackedUp):
                if self._backup is not None:
                    self._backup.set_result(reply)
                    self._backup = None
            else:
                self._replies.popleft()(reply)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        gone = Failed(
            "the journal's writer process has ended",
            "Restart the gateway; it recovers by itself.",
            full=False,
        )
        while self._replies:
            self._replies.popleft()(gone)
        while self._pending:
            self._pending.popleft().settle(_error(gone))
        if self._emptied is not None:
            self._emptied.set_result(None)
            self._emptied = None
        if self._backup is not None:
            self._backup.set_exception(_error(gone))
            self._backup = None
        if not self._closing and not self.lost.done():
            self.lost.set_result(None)


class _Waiting:
    """What one caller wants stored. Written by hand: there is one for each message of a device."""

    __slots__ = ("alone", "body", "records", "settled")

    def __init__(self, records: Sequence[Record], body: bytes, settled: Settled, alone: bool) -> None:
        self.records = records
        self.body = body
        """An `Op` as the writer reads it."""
        self.settled = settled
        self.alone = alone
        """No other joins its transaction."""

    def settle(self, outcome: Appended | Exception) -> None:
        """Tell the caller. A defect of one must not keep the others, who wait for the fsync too, in the dark."""
        try:
            self.settled(outcome)
        except Exception:
            _log.exception("somebody who appended to the journal failed on the outcome")


def _changes_flows(records: Sequence[Record]) -> bool:
    """Whether later checks of a generation depend on these: then they are committed before such checks are made."""
    return FlowState in map(type, records)


def _outcomes(group: Sequence[_Waiting], reply: Written) -> Sequence[Appended | Exception]:
    if reply.first < 0:
        return [_outcome(item.records, done) for item, done in zip(group, reply.done, strict=True)]
    outcomes = []
    offset = reply.first
    for item in group:
        records = item.records
        if len(records) == 1:
            outcomes.append(Appended([_STORED], [Stored(offset, records[0])]))
            offset += 1
        else:
            stored = [Stored(at, record) for at, record in enumerate(records, offset)]
            outcomes.append(Appended([_STORED] * len(records), stored))
            offset += len(records)
    return outcomes


def _outcome(records: Sequence[Record], done: Done) -> Appended | Exception:
    if done.stale:
        return StaleGeneration(done.stale)
    if done.full:
        return StorageFull(
            "the journal is full: its quota has no room for more events",
            hint="Raise journal.max_size or keep less; boards keep their readings meanwhile.",
        )
    placed = [Placed.STORED] * len(records)
    for number, verdict in done.others:
        placed[number] = verdict
    stored = []
    offset = done.first
    for record, verdict in zip(records, placed, strict=True):
        if verdict is Placed.DUPLICATE:
            continue
        if verdict is not Placed.STORED and type(record) is Event:
            stored.append(Stored(offset, instead(record, verdict)))
        else:
            stored.append(Stored(offset, record))
        offset += 1
    return Appended(placed, stored)


def _resolve(future: asyncio.Future[Appended], outcome: Appended | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Appended):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


def _error(reply: Reply) -> StorageError:
    assert isinstance(reply, Failed)
    return (StorageFull if reply.full else StorageError)(reply.message, hint=reply.hint)
