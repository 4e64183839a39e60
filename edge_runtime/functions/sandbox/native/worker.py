"""A native guest as its keeper sees it: asked, timed, stopped while nobody asks it, and killed when it is late."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import msgspec

from edge_runtime.functions.sandbox.errors import Refusal, Stopped
from edge_runtime.functions.sandbox.jail import JailReport
from edge_runtime.functions.sandbox.native.child import LOAD, RUN, pack
from edge_runtime.functions.sandbox.native.zygote import Zygote
from edge_runtime.functions.sandbox.protocol import Run
from edge_runtime.functions.sandbox.serve import OVERHEAD

MAX_MANIFEST = 1024 * 1024
"""Bytes of what an app says of itself, or of why it cannot be loaded."""

BIRTH = 10_000_000
"""Microseconds for a child to confine itself; 3 ms on a desktop."""

_SLACK = 100_000_000
"""Nanoseconds for it to say that it has given way."""

_HEADER = 4
_CHUNK = 1 << 18

Done = Callable[[bytes], None]
"""Takes the outcome of an event."""

_SIGNALS: dict[int, str] = {
    signal.SIGSEGV: "it used memory that it does not have, or ran out of stack",
    signal.SIGBUS: "it used memory that is not there",
    signal.SIGABRT: "it aborted",
    signal.SIGFPE: "it made an arithmetic error",
    signal.SIGILL: "it ran a forbidden instruction",
    signal.SIGSYS: "it made a system call that no function may make",
    signal.SIGKILL: "it was killed because the machine's memory is full, or closed its channel",
}

_now = time.monotonic_ns


def fate(status: int) -> str:
    """What has become of a process, in words; `status` is that of waitpid(2)."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"the function's interpreter broke: {_SIGNALS.get(number, f'signal {number}')}"
    return f"the function ended its interpreter (exit status {os.WEXITSTATUS(status)})"


class Worker:
    """One child with at most one app. After `Stopped` it must be closed."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self._pid, self._channel = zygote.fork()
        self._status: int | None = None
        self._buffer = bytearray()
        self._poll = select.poll()
        self._poll.register(self._channel, select.POLLIN)

    def born(self) -> JailReport:
        """Wait until it is confined; answers what holds it. To be called first. Raises `Stopped`."""
        report = self._frame(_now() + BIRTH * 1000, MAX_MANIFEST)
        return msgspec.msgpack.decode(report, type=JailReport)

    def allow_memory(self, size: int) -> None:
        """Let its address space have so many bytes in all."""
        resource.prlimit(self._pid, resource.RLIMIT_AS, (size, size))

    def load(self, source: str, seed: int, load_time: int) -> bytes:
        """Load an app; answers its manifest (JSON). Raises `Refusal` or `Stopped`."""
        deadline = _now() + load_time * 1000
        self._ask(pack(LOAD, source.encode(), seed.to_bytes(8, "big")), deadline)
        reply = self._frame(deadline, MAX_MANIFEST)
        self._pause()
        if reply[:1] == b"+":
            return reply[1:]
        raise Refusal(reply[1:].decode(errors="replace"))

    def run(self, request: Run, give_way: int, room: int, done: Done) -> None:
        """Run a function over events, each within its time. Raises `Stopped`, and what `done` raises.

        The child is asked to give way between two events once it took `give_way` microseconds or reported `room`
        bytes, and gets no longer than one event's time beyond that.
        """
        started = _now()
        until = started + give_way * 1000
        time_limit = request.time * 1000
        fields = (request.function.encode(), request.events.encode(), request.given.encode())
        end = until + time_limit + _SLACK
        deadline = started + time_limit
        missing = request.count
        self._ask(pack(RUN, until.to_bytes(8, "big"), room.to_bytes(8, "big"), *fields), deadline)
        while outcome := self._frame(min(deadline, end), request.output + OVERHEAD):
            if room <= 0:
                raise Stopped("output", "it went on when it was to give way to other apps")
            room -= len(outcome)
            missing -= 1
            done(outcome)
            deadline = _now() + time_limit
        if missing and room > 0 and _now() < until:
            raise Stopped("output", "the function's interpreter ended the run before its events were done")
        if self._buffer:
            raise Stopped("output", "it reported the outcome of no event")
        self._pause()

    def astray(self) -> bool:
        """Whether it said something that nobody asked for, or has died, since the last request."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """End it, whatever it does."""
        if self._status is None:
            self._status = self._zygote.end(self._pid)
            self._channel.close()

    def _ask(self, request: bytes, deadline: int) -> None:
        """Hand it a request, and let it run."""
        left = memoryview(request)
        try:
            left = self._push(left)
            os.kill(self._pid, signal.SIGCONT)
            if left:
                self._poll.modify(self._channel, select.POLLOUT)
                while left:
                    self._wait(deadline)
                    left = self._push(left)
                self._poll.modify(self._channel, select.POLLIN)
        except (BrokenPipeError, ConnectionResetError):
            self._died()

    def _push(self, left: memoryview) -> memoryview:
        """Send what there is room for, which may be nothing: it need not read. Answers the rest."""
        with suppress(BlockingIOError):
            return left[self._channel.send(left, socket.MSG_DONTWAIT) :]
        return left

    def _pause(self) -> None:
        """Stop it: between two requests it has nothing to do, and no deadline."""
        os.kill(self._pid, signal.SIGSTOP)

    def _frame(self, deadline: int, most: int) -> bytes:
        """Its next message, of at most `most` bytes."""
        buffer = self._buffer
        while True:
            if len(buffer) >= _HEADER:
                size = int.from_bytes(buffer[:_HEADER], "big")
                if size > most:
                    raise Stopped("output", f"more than {(most - OVERHEAD) // 1024} KiB of output")
                if len(buffer) >= _HEADER + size:
                    body = bytes(buffer[_HEADER : _HEADER + size])
                    del buffer[: _HEADER + size]
                    return body
            self._wait(deadline)
            try:
                data = self._channel.recv(_CHUNK)
            except ConnectionResetError:
                data = b""
            if not data:
                self._died()
            buffer += data

    def _wait(self, deadline: int) -> None:
        """Wait until the channel can be used."""
        if not self._poll.poll(max(0.0, (deadline - _now()) / 1e6)):
            raise Stopped("timeout", "")

    def _died(self) -> NoReturn:
        """It has closed its channel: it is dead or dying, or is made to be."""
        self.close()
        assert self._status is not None
        raise Stopped("crash", fate(self._status))
