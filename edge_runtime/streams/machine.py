"""What all stateful computations over a stream have in common. No input or output, no clock, no randomness.

A machine takes events in the order of the journal, each with the processing time at which it came, and answers with
what follows from it. Processing time never goes back. The same events with the same times give the same results:
whatever is decided by time alone is decided at an event whose kind begins with `$tick`, which the journal holds like
any other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from edge_runtime.events import Event

MOST = 256
MANY = 4 << 20
"""Results, or bytes of results or of state that has changed, after which `Machine.take` stops: all of it is one append.
"""
MOST_OF_ONE = 480
LARGEST = 8 << 20
"""Results, and bytes of them, that may follow from one event: with those before it, the state and the progress they are
one append still, of 1,000 records."""
CELL = 900
GROWN = 5
"""About how many bytes of memory a key takes, and how many for each byte that it takes where it is stored."""
FRESH = 200
"""About how many bytes a key takes that is new, without what its events bring."""


class Pane(msgspec.Struct, frozen=True, array_like=True, tag="pane"):
    """A result."""

    index: int
    """Which event of the batch has caused it."""
    key: str
    """The partition key."""
    start: int
    """Event time, microseconds: of a window its start, else of the oldest event that is part of it."""
    end: int
    """Exclusive end of the window; of the global window, a match or an absence: the newest event's time."""
    values: dict[str, Any]
    timing: str = "on_time"
    """`early`, `on_time` or `late`."""
    number: int = 0
    """Counts the panes of a window from 0; retractions do not count."""
    retraction: bool = False
    """It takes back what the pane before it has said."""


class Late(msgspec.Struct, frozen=True, array_like=True, tag="late"):
    """An event came too late for everything that it could have been part of."""

    index: int
    by: int
    """Microseconds by which it was beyond the allowed lateness."""


class Note(msgspec.Struct, frozen=True, array_like=True, tag="note"):
    """Something that the operator should know."""

    index: int
    device: str
    about: str
    """`ahead` or `behind` (its clock; quarantined), `right` (no more), `overflow` (something had to be left out),
    `forgotten` (devices that were quiet for long)."""
    text: str


class Excess(msgspec.Struct, frozen=True, array_like=True, tag="excess"):
    """From one event followed more than `MOST_OF_ONE` results or `LARGEST` bytes: these are lost."""

    index: int
    lost: int
    """How many."""


Result = Pane | Late | Note | Excess

_encode = msgspec.msgpack.Encoder().encode


def weight(results: Sequence[Result]) -> int:
    """Bytes of results."""
    return len(_encode(results))


class Machine(Protocol):
    """A stateful computation. State is bytes by name: what it holds of a partition key, and what it needs itself."""

    @property
    def owed(self) -> int:
        """About how many bytes of state have changed since the last dump."""
        ...

    def needs(self, events: Sequence[Event], times: Sequence[int]) -> Collection[str]:
        """The names of state that `take` will need and that is not in memory; to be handed to `load` before."""
        ...

    def load(self, state: Mapping[str, bytes | None]) -> None:
        """Take up state that was dumped before; None where there is none."""
        ...

    def take(self, events: Sequence[Event], times: Sequence[int]) -> tuple[int, list[Result]]:
        """Deal with events in order; `times` are their processing times, microseconds. Results in order of index.

        Answers also how many events it has taken: it stops behind the one with which there are `MOST` results or more,
        or `MANY` bytes, since what follows from them is stored in one piece. For the same reason one event causes about
        that much at most: what else is due (windows of thousands of keys end together) comes with the events and ticks
        after it, and until then `wakes` says: at once.
        """
        ...

    def dump(self) -> dict[str, bytes | None]:
        """What has changed since the last dump; None for what is gone."""
        ...

    def wakes(self) -> int | None:
        """The processing time at which a tick is needed next; None if time alone changes nothing."""
        ...

    def shrink(self, most: int) -> None:
        """Let go of state that has not changed since the last dump, so that it takes about `most` bytes of memory.

        `needs` will ask for it.
        """
        ...
