"""What every executor process has in common: frames in over stdin, frames out, one request at a time."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import msgspec

from edge_runtime.functions.sandbox.protocol import FrameTooLarge, Ready, Reply, Request, Splitter, frame

QUANTUM = 20_000
"""Microseconds after which a run gives way to other apps. A neighbour waits at most that and one event's deadline."""

MAX_REPLY = 4 * 1024 * 1024
"""Bytes of outcomes after which a run gives way as well."""

OVERHEAD = 64 * 1024
"""What an outcome may be larger than the output limit: the description of an error, names and brackets."""

QUIET = 20
"""Milliseconds without a request before the idle hook is called: making an instance takes 5, and the first event of an
app that was just loaded should not wait for it."""

_CHANNEL = 0

Handler = Callable[[Request], Reply]
"""Does what the gateway asks. It may not raise: that would cost all apps of the executor their instances."""

Idle = Callable[[], bool]
"""Does a small piece of what can wait; answers whether there is more of it."""


def serve(ready: Ready, handle: Handler, idle: Idle = lambda: False) -> NoReturn:
    """Say that the executor is ready, answer until the gateway closes the channel, and end the process.

    To be called once the process is locked. `idle` is called again while nothing comes, as long as it answers True, and
    afterwards anew behind every request.
    """
    with suppress(OSError, FrameTooLarge):  # the gateway is gone: nobody is left to tell
        _send(ready)
        _answer(handle, idle)
    os._exit(0)  # threads (a ticker) cannot be joined, and there is nothing to save


def _send(message: Reply) -> None:
    data = memoryview(frame(message))
    while data:
        data = data[os.write(_CHANNEL, data) :]


def _answer(handle: Handler, idle: Idle) -> None:
    decoder = msgspec.msgpack.Decoder(Request)
    splitter = Splitter()
    waiting = select.poll()
    waiting.register(_CHANNEL, select.POLLIN)
    more = True
    while True:
        while more and not waiting.poll(QUIET):
            more = idle()
        data = os.read(_CHANNEL, 1 << 20)
        if not data:
            return
        for body in splitter.feed(data):
            _send(handle(decoder.decode(body)))
        more = True
