"""The daemon's side of the stream worker: starts it when a stream has something to do, and notices when it dies."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import cast

import msgspec

from edge_runtime.events import Event
from edge_runtime.flows.flow import StateLost
from edge_runtime.streams.messages import (
    LENGTH,
    Close,
    Dump,
    Dumped,
    Failed,
    Fold,
    Folded,
    Load,
    Missing,
    Open,
    Put,
    Reply,
    Request,
    Shrink,
    Take,
    Taken,
    Took,
    Unfolded,
    encode,
    frame,
)
from edge_runtime.streamspec import Stream

Fetch = Callable[[Sequence[str]], Awaitable[Mapping[str, bytes | None]]]
"""Answers stored state by name; None where there is none."""
Folder = Callable[[Sequence[Fold]], Awaitable[list[Folded]]]
"""Has the app fold values and parts of its aggregates."""

MEMORY = 256 << 20
"""Bytes that state may take in the worker, unless it is said."""

_log = logging.getLogger("edge.flows")
_decode = msgspec.msgpack.Decoder(Reply).decode


class StreamWorker:
    """One worker process for all streams. It is started when it is first needed, and again when it has died."""

    def __init__(self, memory: int = MEMORY) -> None:
        """`memory`: bytes that state may take there."""
        self._memory = memory
        self._link: _Link | None = None
        self._numbers = itertools.count(1)
        self._starting = asyncio.Lock()
        self.starts = 0
        """How often the process was started."""

    @property
    def pid(self) -> int | None:
        """The process, if it runs."""
        return None if self._link is None or self._link.lost else self._link.process.pid

    async def open(self, stream: Stream) -> WorkerSession:
        """Begin a session."""
        async with self._starting:
            if self._link is None or self._link.lost:
                await self.stop()
                self._link = await _Link.start(self._memory)
                self.starts += 1
        session = WorkerSession(self._link, next(self._numbers))
        self._link.send(Open(session.number, stream))
        return session

    async def stop(self) -> None:
        """End the process."""
        if self._link is not None:
            await self._link.stop()


class WorkerSession:
    """One stream in the worker. All methods raise `StateLost` once the worker has died or has failed on it."""

    def __init__(self, link: _Link, number: int) -> None:
        self._link = link
        self.number = number

    async def take(self, events: Sequence[Event], tags: dict[str, dict[str, str]], fetch: Fetch, fold: Folder) -> Taken:
        """Take events; `fetch` is asked for state that the worker does not have, `fold` for what only the app does."""
        reply = await self._link.ask(Take(self.number, list(events), tags))
        while isinstance(reply, Missing | Unfolded):
            if isinstance(reply, Missing):
                reply = await self._link.ask(Load(self.number, dict(await fetch(reply.names))))
            else:
                reply = await self._link.ask(Put(self.number, await fold(reply.folds)))
        assert isinstance(reply, Took)
        return reply.taken

    async def dump(self) -> dict[str, bytes | None]:
        """What has changed since the last dump; None for what is gone."""
        reply = await self._link.ask(Dump(self.number))
        assert isinstance(reply, Dumped)
        return reply.state

    def shrink(self) -> None:
        """What was dumped is durable."""
        self._link.send(Shrink(self.number))

    def close(self) -> None:
        """End the session."""
        self._link.send(Close(self.number))


class _Link(asyncio.Protocol):
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.lost = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = bytearray()
        self._asked: deque[asyncio.Future[Reply]] = deque()
        self._ended = self._loop.create_future()

    @classmethod
    async def start(cls, memory: int) -> _Link:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "edge_runtime.streams.worker", str(theirs.fileno()), str(memory)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={"PATH": os.environ.get("PATH", os.defpath)},
            )
        link = cls(process)
        ours.setblocking(False)
        await link._loop.create_connection(lambda: link, sock=ours)
        return link

    async def stop(self) -> None:
        if self._transport is not None:
            self._transport.close()
        await self._ended
        await asyncio.to_thread(self.process.wait)

    def send(self, request: Request) -> None:
        if self._transport is not None and not self.lost:
            self._transport.write(frame(encode(request)))

    async def ask(self, request: Request) -> Reply:
        if self.lost:
            raise StateLost
        asked: asyncio.Future[Reply] = self._loop.create_future()
        self._asked.append(asked)
        self.send(request)
        reply = await asyncio.shield(asked)  # Its place in the line stays, even if nobody waits any more.
        if isinstance(reply, Failed):
            _log.error(
                "a computation has failed inside the gateway; it begins again from its last commit: %s", reply.error
            )
            raise StateLost("" if reply.opening else reply.error)
        return reply

    # As asyncio calls it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's has not got the type

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= LENGTH.size:
            [length] = LENGTH.unpack_from(buffer, at)
            end = at + LENGTH.size + length
            if len(buffer) < end:
                break
            asked = self._asked.popleft()
            if not asked.done():
                asked.set_result(_decode(memoryview(buffer)[at + LENGTH.size : end]))
            at = end
        del buffer[:at]

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        for asked in self._asked:
            if not asked.done():
                asked.set_exception(StateLost())
                asked.exception()  # Seen, should nobody wait any more.
        self._asked.clear()
        if self.process.poll() is None:
            self.process.kill()
        self._ended.set_result(None)
