"""The daemon's side of the SQLite journal: starts the writer process and groups what many callers want into commits.

Group commit is adaptive: when nothing is under way a write goes out at once; what arrives during a commit goes out
together with the next. `max_delay` stretches that, to write less to flash that wears out.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

import msgspec

from edge_runtime.errors import StaleGeneration, StorageError, StorageFull
from edge_runtime.events import Event
from edge_runtime.journal.interface import Appended, Listener, Placed, Tables
from edge_runtime.journal.projection import conflict
from edge_runtime.journal.records import FlowState, Progress, Record, Stored
from edge_runtime.journal.sqlite.messages import (
    LENGTH,
    Batches,
    Close,
    Done,
    Failed,
    Op,
    Read,
    ReadTables,
    Reply,
    Request,
    TablesReply,
    Write,
    Written,
    frame,
)
from edge_runtime.journal.sqlite.store import decode_records

MAX_GROUP = 2000
"""Records in one transaction: beyond it, latency grows faster than the cost per record falls."""
START_SECONDS = 60.0
"""A start on a slow SD card after a crash reads back at most one snapshot's worth; this is far beyond it."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reply).decode


class SqliteJournal(asyncio.Protocol):
    """Implements `Journal`. Make one with `await SqliteJournal.open(...)`."""

    def __init__(self, max_delay: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._max_delay = max_delay
        self._listeners: list[Listener] = []
        self._pending: deque[tuple[Op, asyncio.Future[Appended]]] = deque()
        self._group: list[tuple[Op, asyncio.Future[Appended]]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._next_write = 0.0
        self._replies: deque[Callable[[Reply], None]] = deque()
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = False
        self.commits = 0
        """Transactions made durable so far."""
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Set when the writer process has ended without being asked to: the daemon must end too."""

    @classmethod
    async def open(cls, path: Path, *, max_bytes: int = 0, max_delay: float = 0.0) -> SqliteJournal:
        """Start the writer on the database at `path` (made if missing).

        `max_bytes`: quota of the file, 0 for none. `max_delay`: seconds that a commit may be held back for others to
        join it. Raises StorageError, in the writer's words, if the database cannot be opened.
        """
        journal = cls(max_delay)
        ours, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            arguments = [str(fd), str(max_bytes), str(path)]
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

    def append(self, records: Sequence[Record]) -> Awaitable[Appended]:
        """As `Journal.append`."""
        return self._submit(Op(list(records)))

    def commit(self, progress: Progress, effects: Sequence[Record]) -> Awaitable[Appended]:
        """As `Journal.commit`."""
        return self._submit(Op([*effects, progress], progress.flow, progress.generation))

    def listen(self, listener: Listener) -> None:
        """As `Journal.listen`."""
        self._listeners.append(listener)

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

    async def tables(self) -> Tables:
        """As `Journal.tables`."""
        reply = await self._request(ReadTables())
        assert isinstance(reply, TablesReply)
        return reply.tables

    async def close(self) -> None:
        """Write what is pending, have the writer save a snapshot, and wait for it to end."""
        while self._pending or self._group:
            waiting = [future for _, future in [*(self._group or []), *self._pending]]
            await asyncio.wait(waiting)
        self._closing = True
        if self._transport is not None:
            self._transport.write(frame(_encode(Close())))
        if self._process is not None:
            await self._loop.run_in_executor(None, self._process.wait)
        if self._transport is not None:
            self._transport.close()

    # Grouping

    def _submit(self, op: Op) -> asyncio.Future[Appended]:
        future: asyncio.Future[Appended] = self._loop.create_future()
        if self._closing or self._transport is None:
            future.set_exception(StorageError("the journal is closed"))
            return future
        self._pending.append((op, future))
        if self._group is None and self._timer is None:
            # Not at once: what else this turn of the loop brings (a segment with ten messages) joins in.
            delay = self._next_write - self._loop.time()
            self._timer = self._loop.call_later(max(delay, 0), self._flush)
        return future

    def _flush(self) -> None:
        self._timer = None
        if self._group is not None or not self._pending or self._transport is None:
            return
        group = [self._pending.popleft()]
        size = len(group[0][0].records)
        if not _changes_flows(group[0][0]):
            while self._pending and size + len(self._pending[0][0].records) <= MAX_GROUP:
                if _changes_flows(self._pending[0][0]):
                    break
                group.append(self._pending.popleft())
                size += len(group[-1][0].records)
        try:
            request = frame(_encode(Write([op for op, _ in group])))
        except Exception:
            # Something that cannot be written at all must not take its neighbours, or the journal, with it.
            self._pending.extendleft(reversed([pair for pair in group if _writable(*pair)]))
            self._timer = self._loop.call_later(0, self._flush)
            return
        self._group = group
        self._next_write = self._loop.time() + self._max_delay
        self._replies.append(self._written)
        self._transport.write(request)

    def _written(self, reply: Reply) -> None:
        group, self._group = self._group or [], None
        self.commits += 1
        if isinstance(reply, Written):
            # All listeners first: whoever goes on because its append is durable finds the rest of the house informed.
            outcomes = [_outcome(op, done) for (op, _), done in zip(group, reply.done, strict=True)]
            stored = [item for outcome in outcomes if isinstance(outcome, Appended) for item in outcome.stored]
            if stored:
                for listener in self._listeners:
                    listener(stored)
            for (_, future), outcome in zip(group, outcomes, strict=True):
                _settle(future, outcome)
        else:
            error = _error(reply)
            for _, future in group:
                _settle(future, error)
        if self._pending and self._timer is None:
            delay = self._next_write - self._loop.time()
            if delay > 0:
                self._timer = self._loop.call_later(delay, self._flush)
            else:
                self._flush()

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
            _settle(self._pending.popleft()[1], _error(gone))
        if not self._closing and not self.lost.done():
            self.lost.set_result(None)


def _writable(op: Op, future: asyncio.Future[Appended]) -> bool:
    """Whether an op can be encoded; if not, its caller is told."""
    try:
        _encode(op)
    except Exception as error:
        _settle(future, StorageError(f"a record cannot be stored: {error}"))
        return False
    return True


def _changes_flows(op: Op) -> bool:
    """Whether later checks of a generation depend on this op: then it is committed before they are made."""
    return not op.flow and any(type(record) is FlowState for record in op.records)


def _outcome(op: Op, done: Done) -> Appended | Exception:
    if done.stale:
        return StaleGeneration(done.stale)
    placed = [Placed.STORED] * len(op.records)
    for number, verdict in done.others:
        placed[number] = verdict
    stored = []
    offset = done.first
    for record, verdict in zip(op.records, placed, strict=True):
        if verdict is Placed.DUPLICATE:
            continue
        if verdict is Placed.CONFLICT and type(record) is Event:
            stored.append(Stored(offset, conflict(record)))
        else:
            stored.append(Stored(offset, record))
        offset += 1
    return Appended(placed, stored)


def _settle(future: asyncio.Future[Appended], outcome: Appended | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Appended):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


def _error(reply: Reply) -> StorageError:
    assert isinstance(reply, Failed)
    return (StorageFull if reply.full else StorageError)(reply.message, hint=reply.hint)
