"""An executor process as the gateway sees it: started, asked, watched, ended."""

from __future__ import annotations

import asyncio
import socket
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import msgspec

from edge_runtime.errors import EdgeError
from edge_runtime.functions.engines import Engine
from edge_runtime.functions.sandbox.protocol import FrameTooLarge, Ready, Reply, Request, Splitter, frame

START_TIMEOUT = 60.0
"""Seconds; 0.15 on a desktop, 2 on a small board with a cold disk, more while others use its only core."""

STOP_TIMEOUT = 2.0
"""Seconds: an executor that is idle ends in milliseconds when its channel closes."""

_STDERR_KEPT = 2000


class ExecutorDied(Exception):
    """The executor ended, or was ended because it was silent for too long."""


class _Channel(asyncio.Protocol):
    """Frames in; whoever waits for one is told. `on_close` is called when nothing can be said or heard any more."""

    def __init__(self, on_close: Callable[[], object]) -> None:
        self._on_close = on_close
        self._splitter = Splitter()
        self._decode = msgspec.msgpack.Decoder(Reply).decode
        self._waiter: asyncio.Future[Reply] | None = None
        self._closed = ""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports only look like one

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._splitter.feed(data):
                reply = self._decode(body)
                if self._waiter is None or self._waiter.done():
                    raise msgspec.ValidationError("a reply that nobody asked for")
                self._waiter.set_result(reply)
        except (msgspec.MsgspecError, FrameTooLarge) as error:
            self.close(f"it sent something that is not a reply ({error})")

    def connection_lost(self, exc: Exception | None) -> None:
        self.close("it ended")

    @property
    def closed(self) -> bool:
        """Whether nothing can be said or heard any more."""
        return bool(self._closed)

    def expect(self) -> asyncio.Future[Reply]:
        """The next reply. Fails with `ExecutorDied` when the channel closes."""
        self._waiter = asyncio.get_running_loop().create_future()
        self._waiter.add_done_callback(_retrieve)
        if self._closed:
            self._waiter.set_exception(ExecutorDied(self._closed))
        return self._waiter

    def ask(self, data: bytes) -> asyncio.Future[Reply]:
        """Send a request; answers its reply to come. Raises `ExecutorDied` where the channel is closed."""
        if self._closed:
            raise ExecutorDied(self._closed)
        assert self.transport is not None
        answer = self.expect()
        try:
            self.transport.write(data)
        except (OSError, RuntimeError) as error:  # uvloop's way to say that it is closed, before we are told
            self.close(f"it cannot be written to ({error})")
            raise ExecutorDied(self._closed) from error
        return answer

    def close(self, why: str) -> None:
        """Close it; whoever waits gets `ExecutorDied`. The first reason counts."""
        self._closed = self._closed or why
        self._on_close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ExecutorDied(self._closed))
        if self.transport is not None:
            self.transport.abort()


def _retrieve(answer: asyncio.Future[Reply]) -> None:
    """Look at the outcome of an answer that perhaps nobody awaits any more, so that asyncio does not complain of it."""
    if not answer.cancelled():
        answer.exception()


class Remote:
    """One executor process, from `start` to `stop`. One request at a time.

    `on_end` is called (perhaps more than once) when it has ended or cannot be talked to any more.
    """

    def __init__(self, engine: Engine, on_end: Callable[[], object] = lambda: None) -> None:
        self._engine = engine
        self._process: Process | None = None
        self._channel = _Channel(on_end)
        self._reader: asyncio.Task[None] | None = None
        self._said = b""
        self._ready: Ready | None = None

    @property
    def ready(self) -> Ready | None:
        """What it said of itself when it was ready; None before, and once it has ended."""
        ended = self._channel.closed or (self._process is not None and self._process.returncode is not None)
        return None if ended else self._ready

    @property
    def pid(self) -> int:
        """The process's id; 0 before the start."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> Ready:
        """Start the process and wait until it is locked. Raises `EdgeError` with what it said."""
        try:
            await self._spawn()
        except OSError as error:  # too many processes or open files, too little memory
            await self.stop()
            raise EdgeError(f"the sandbox did not start: {error.strerror or error}") from error
        try:
            reply = await asyncio.wait_for(self._channel.expect(), START_TIMEOUT)
        except (ExecutorDied, TimeoutError) as error:
            await self.stop()
            why = self._said.decode(errors="replace").strip().splitlines()
            raise EdgeError(f"the sandbox did not start: {why[-1] if why else 'it was silent'}") from error
        if not isinstance(reply, Ready):
            await self.stop()
            raise EdgeError("the sandbox did not start: it answered before it was ready")
        self._ready = reply
        return reply

    async def _spawn(self) -> None:
        """Start the process with its channel."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *self._engine.command,
                    stdin=theirs.fileno(),
                    stdout=DEVNULL,
                    stderr=PIPE,
                    env={},
                    start_new_session=True,  # a Ctrl-C is for the gateway, which ends its executors itself
                )
            loop = asyncio.get_running_loop()
            self._reader = loop.create_task(self._listen())
            await loop.create_connection(lambda: self._channel, sock=ours)
        except BaseException:
            ours.close()  # which ends a process that was started
            raise

    async def call(self, request: Request, patience: float) -> Reply:
        """Ask, and wait at most `patience` seconds. Raises `ExecutorDied`, after which this object is spent."""
        answer = self._channel.ask(frame(request))
        deadline = asyncio.get_running_loop().call_later(patience, self._silent, answer)
        try:
            return await answer
        finally:
            deadline.cancel()

    def _silent(self, answer: asyncio.Future[Reply]) -> None:
        if answer.done():
            return  # it came while this event loop was busy elsewhere
        self.kill()
        self._channel.close("it was silent for too long and was killed")

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self) -> None:
        """Close the channel, which ends an idle process; kill it if it does not."""
        if self._channel.transport is not None:
            self._channel.transport.abort()
        if self._process is not None:
            try:
                await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT)
            except TimeoutError:
                self.kill()
                await self._process.wait()
        if self._reader is not None:
            await self._reader

    async def _listen(self) -> None:
        """Keep the end of what the process says on stderr."""
        assert self._process is not None
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(4096):
            self._said = (self._said + data)[-_STDERR_KEPT:]
