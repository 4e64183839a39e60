"""A native guest's process, from its fork to its end. What it says of itself is believed until it has an app.

A request is 4 bytes of length and a body: a kind and its fields (`pack`, `unpack`). Replies are bodies behind their
length; an empty one ends a run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import NoReturn

import msgspec

from edge_runtime.functions.sandbox import jail
from edge_runtime.functions.sandbox.native.guest import Guest

CHANNEL = 3
"""The one descriptor besides the standard ones, which are /dev/null. All others are higher until they are closed."""

LOAD, RUN = b"l", b"r"

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def pack(kind: bytes, *fields: bytes) -> bytes:
    """A request, with its length in front."""
    body = b"".join([kind, *(len(field).to_bytes(4, "big") + field for field in fields)])
    return len(body).to_bytes(4, "big") + body


def unpack(body: bytes) -> tuple[bytes, list[bytes]]:
    """The kind and the fields of a request."""
    fields = []
    at = 1
    while at < len(body):
        start = at + 4
        at = start + int.from_bytes(body[at:start], "big")
        fields.append(body[start:at])
    return body[:1], fields


def live(guest: Guest, channel: int, parent: int, confinement: jail.Confinement) -> NoReturn:
    """Confine this process, just forked by `parent`, to `channel`, and serve until that is closed. Never returns."""
    try:
        os.dup2(channel, CHANNEL)
        report = _confine(parent, confinement)
        _reseed()
        guest.rehearse()
        _send(msgspec.msgpack.encode(report))
        _serve(guest)
    except BaseException:  # whoever watches says what has become of us; a traceback would reach nobody
        os._exit(1)
    os._exit(0)


def _confine(parent: int, confinement: jail.Confinement) -> jail.JailReport:
    if _libc.close_range(CHANNEL + 1, 0xFFFFFFFF, 0) != 0:
        os.closerange(CHANNEL + 1, 4096)  # a kernel before 5.9
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent:
        raise jail.JailError("whoever forked this process is gone")
    own = jail.confine()  # once more, within what holds the parent: now not even a sibling may be signalled
    return jail.lock(msgspec.structs.replace(own, root_dropped=confinement.root_dropped, missing=confinement.missing))


def _reseed() -> None:
    """What was drawn from before the fork must not give all children the same numbers. `random` is seeded per app."""
    numbers = sys.modules.get("numpy.random")
    if numbers is not None:
        numbers.seed(int.from_bytes(os.urandom(4), "big"))


def _send(body: bytes) -> None:
    data = memoryview(len(body).to_bytes(4, "big") + body)
    while data:
        data = data[os.write(CHANNEL, data) :]


def _receive() -> tuple[bytes, list[bytes]] | None:
    """The next request; None at the end of all."""
    buffer = bytearray()
    size = 4
    while len(buffer) < size:
        data = os.read(CHANNEL, 1 << 20)
        if not data:
            return None
        buffer += data
        if size == 4 and len(buffer) >= 4:
            size += int.from_bytes(buffer[:4], "big")
    return unpack(bytes(memoryview(buffer)[4:size]))


def _serve(guest: Guest) -> None:
    until = room = 0
    now = time.monotonic_ns

    def done(outcome: str) -> bool:
        nonlocal room
        body = outcome.encode()
        _send(body)
        room -= len(body)
        return room > 0 and now() < until

    guest.on_done(done)
    while request := _receive():
        kind, fields = request
        if kind == LOAD:
            well, said = guest.load(fields[0].decode(), int.from_bytes(fields[1], "big"))
            _send((b"+" if well else b"-") + said.encode())
        else:
            until, room = (int.from_bytes(field, "big") for field in fields[:2])
            guest.run(*(field.decode() for field in fields[2:5]))
            _send(b"")
