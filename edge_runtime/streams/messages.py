"""What the daemon and the stream worker say to each other: length-prefixed msgpack frames, answered in order."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from edge_runtime.events import Event
from edge_runtime.streams.machine import Result
from edge_runtime.streamspec import Stream

LENGTH = struct.Struct("<I")
MAX_FRAME = 256 << 20
"""Bytes; what is larger means that the other side has gone mad."""


class Taken(msgspec.Struct):
    """What became of a batch."""

    events: int
    """How many of its events were taken, from the first on."""
    results: list[Result]
    now: int
    """Processing time behind them, microseconds."""
    wakes: int | None
    """The processing time at which a tick is needed; None for none."""
    full: bool = False
    """So much has changed that it is to be stored before more is taken."""


class Fold(msgspec.Struct, array_like=True):
    """Parts and values of a user-defined aggregate, which the app is to make one part of."""

    name: str
    """Of the aggregate, in the app's window."""
    parts: list[Any]
    values: list[Any]


class Folded(msgspec.Struct, array_like=True):
    """What the app has made of them."""

    part: Any = None
    failed: str = ""
    """Why it could not."""


class Open(msgspec.Struct, array_like=True, tag="open"):
    """Begin a session; nothing is answered."""

    session: int
    stream: Stream


class Close(msgspec.Struct, array_like=True, tag="close"):
    """End a session; nothing is answered."""

    session: int


class Take(msgspec.Struct, array_like=True, tag="take"):
    """Take events. Answered by `Took`, or by what is needed first: `Missing` wants a `Load`, `Unfolded` a `Put`."""

    session: int
    events: list[Event]
    tags: dict[str, dict[str, str]] = {}
    """Of the devices of these events, where the stream wants them."""


class Load(msgspec.Struct, array_like=True, tag="load"):
    """The state that was missing. Answered as `Take`."""

    session: int
    state: dict[str, bytes | None]


class Put(msgspec.Struct, array_like=True, tag="put"):
    """What was folded, in the order in which it was asked for. Answered as `Take`."""

    session: int
    answers: list[Folded]


class Dump(msgspec.Struct, array_like=True, tag="dump"):
    """Hand over what has changed since the last time: answered by `Dumped`."""

    session: int


class Shrink(msgspec.Struct, array_like=True, tag="shrink"):
    """What was dumped is durable and need not be in memory; nothing is answered."""

    session: int


Request = Open | Close | Take | Load | Put | Dump | Shrink


class Took(msgspec.Struct, array_like=True, tag="took"):
    """What became of the events."""

    taken: Taken


class Missing(msgspec.Struct, array_like=True, tag="missing"):
    """State that is needed first."""

    names: list[str]


class Unfolded(msgspec.Struct, array_like=True, tag="unfolded"):
    """What the app has to fold first."""

    folds: list[Fold]


class Dumped(msgspec.Struct, array_like=True, tag="dumped"):
    """State by name; None for what is gone."""

    state: dict[str, bytes | None]


class Failed(msgspec.Struct, array_like=True, tag="failed"):
    """A defect of ours: the session is closed."""

    error: str
    opening: bool = False
    """It could not even be opened: no event is to blame."""


Reply = Took | Missing | Unfolded | Dumped | Failed

encode = msgspec.msgpack.Encoder().encode


def frame(body: bytes) -> bytes:
    """A message with its length in front."""
    return LENGTH.pack(len(body)) + body
