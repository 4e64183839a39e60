"""What the gateway and an executor say to each other: msgpack frames, each behind its length (4 bytes, big-endian)."""

from __future__ import annotations

import msgspec

from edge_runtime.functions.sandbox.jail import JailReport

MAX_FRAME = 64 * 1024 * 1024
"""No honest frame is larger; one that is ends the connection."""

HEADER = 4


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """Make an app ready under a number."""

    call: int
    app: int
    source: str
    """JSON for the guest: files, entry, output limits."""
    memory: int
    load_time: int


class Run(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    """Run a function over events."""

    call: int
    app: int
    function: str
    events: str
    """A JSON array of `count` events."""
    given: str
    """JSON for the guest: what the function is given besides them; empty for nothing."""
    count: int
    time: int
    """Microseconds for each event."""
    output: int
    """Bytes of outcome for each event."""


class Unload(msgspec.Struct, frozen=True, array_like=True, tag="unload"):
    """Forget an app."""

    call: int
    app: int


Request = Load | Run | Unload


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The executor is locked and waits for requests."""

    jail: JailReport
    startup: int
    """Microseconds from the start of its Python to here."""


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag="loaded"):
    """The app is ready."""

    call: int
    manifest: bytes
    micros: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The app could not be loaded."""

    call: int
    problem: bytes
    """JSON from the guest (file, line, reason), or empty where it did not live to say."""
    detail: str


class Outcomes(msgspec.Struct, frozen=True, array_like=True, tag="outcomes"):
    """The first events of a run are done. Those that are not were not begun: the executor gives way to others."""

    call: int
    outcomes: list[tuple[int, bytes]]
    """For each event: microseconds in the sandbox, and the outcome as JSON."""


class Unloaded(msgspec.Struct, frozen=True, array_like=True, tag="unloaded"):
    """The app is forgotten."""

    call: int


Reply = Ready | Loaded | Refused | Outcomes | Unloaded

_encoder = msgspec.msgpack.Encoder()


def frame(message: Request | Reply) -> bytes:
    """A message with its length in front."""
    body = _encoder.encode(message)
    return len(body).to_bytes(HEADER, "big") + body


class FrameTooLarge(Exception):
    """The other side announced more than `MAX_FRAME` bytes."""


class Splitter:
    """Takes bytes as they come and gives back whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete now. Raises `FrameTooLarge`."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= HEADER:
            size = int.from_bytes(self._buffer[:HEADER], "big")
            if size > MAX_FRAME:
                raise FrameTooLarge(size)
            if len(self._buffer) < HEADER + size:
                break
            frames.append(bytes(self._buffer[HEADER : HEADER + size]))
            del self._buffer[: HEADER + size]
        return frames
