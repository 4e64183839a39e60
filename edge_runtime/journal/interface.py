"""The journal as everybody else sees it: one atomic append at a time, offsets, and tables made from the records."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import Protocol

import msgspec

from edge_runtime.errors import StorageError
from edge_runtime.events import Event
from edge_runtime.journal.records import (
    AppToken,
    AppVersion,
    Command,
    Device,
    FlowState,
    Progress,
    Record,
    State,
    Stored,
    Timer,
)

_log = logging.getLogger("edge.journal")


class Placed(Enum):
    """What became of a record that was to be appended."""

    STORED = 0
    DUPLICATE = 1
    """An event with this identity is there already."""
    CONFLICT = 2
    """An event with this identity and other content is there already; a dead letter was stored instead."""
    SCATTERED = 3
    """The sequences of its boot have too many gaps to keep track of; a dead letter was stored instead."""


class Appended(msgspec.Struct, frozen=True):
    """The durable outcome of an append: one `placed` for each record handed in, and what was stored, in order."""

    placed: list[Placed]
    stored: list[Stored]


class Tables(msgspec.Struct):
    """The projections as they stand after the last commit."""

    first: int
    """The offset of the oldest record that is kept; `head + 1` when there is none."""
    head: int
    """The offset of the newest record; -1 for an empty journal."""
    flows: dict[str, FlowState]
    """Each flow with its current cursor."""
    devices: dict[str, Device]
    apps: dict[str, AppVersion]
    outbox: list[Command]
    """Commands without an end, oldest first."""
    stateful: set[str] = set()
    """The flows that keep something, or once did."""
    timers: list[Timer] = []
    """Events that are to come, oldest first."""
    ticks: dict[str, int] = {}
    """Of flows with a schedule: where the newest event of it stands."""
    tokens: dict[str, AppToken] = {}
    """By app."""


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """How full a journal is."""

    first: int
    head: int
    bytes: int
    """What the retained records and tables take."""
    max_bytes: int
    """The quota; 0 for none."""
    full: bool
    """There is no room for more events at the moment; progress and effects may still find some in the reserve."""


Listener = Callable[[Sequence[Stored]], None]

Settled = Callable[[Appended | Exception], None]
"""Is told the outcome of an append: what was stored, or the error that `append` would have raised."""


class Journal(Protocol):
    """A durable, ordered log.

    Every call that writes returns only once what it wrote survives a loss of power. `StorageFull` means nothing was
    written. All records of one call stand next to each other, or none does. Retention removes the oldest records and
    says so in the log itself: `Trimmed` for the journal, `Gap` for a flow that had not dealt with them.
    """

    def append(self, records: Sequence[Record]) -> Awaitable[Appended]:
        """Append at most 1,000 records; events that are there already are recognised and left out."""
        ...

    def submit(self, records: Sequence[Record], settled: Settled) -> None:
        """As `append`, for who appends with every message: no future for each of them.

        `settled` is called exactly once, in a later turn of the event loop, after the listeners. It does not raise.
        """
        ...

    def commit(self, progress: Progress, effects: Sequence[Record]) -> Awaitable[Appended]:
        """Append a flow's effects and its progress together; `StaleGeneration` refuses both."""
        ...

    def read(self, after: int, limit: int) -> Awaitable[list[Stored]]:
        """Records with offsets greater than `after`, in order: at least one where there is one, about `limit`.

        What retention has removed is passed over: the first may stand further on than `after + 1`.
        """
        ...

    def states(self, flow: str, keys: Sequence[str]) -> Awaitable[dict[str, State]]:
        """What a flow keeps of these partition keys; those of which it keeps nothing are left out.

        Expired entries may be there still, or not.
        """
        ...

    def entries(self, flow: str, names: Mapping[str, Sequence[str]]) -> Awaitable[dict[str, State]]:
        """As `states`, of each partition key the entries of these names alone: the rest is not looked at."""
        ...

    def state_keys(self, flow: str, after: str, limit: int) -> Awaitable[list[str]]:
        """Partition keys of which a flow keeps something, in order: those greater than `after`, about `limit`.

        An empty list is the end.
        """
        ...

    def tables(self) -> Awaitable[Tables]:
        """The projections, consistent with each other."""
        ...

    def listen(self, listener: Listener, *, events: bool = True) -> None:
        """Have `listener` called with everything stored from now on: in order, once it is durable.

        That includes what the journal stores by itself, such as `Trimmed` and `Gap`. Without `events` it hears of all
        but these, which are most of what is stored: whoever has no use for them is not kept busy by them.
        """
        ...


class Listeners:
    """Those who follow a journal."""

    def __init__(self, *, raising: bool = False) -> None:
        """`raising`: let a listener's error through, as tests want it."""
        self._raising = raising
        self._all: list[Listener] = []
        self._without_events: list[Listener] = []

    def add(self, listener: Listener, *, events: bool) -> None:
        """As `Journal.listen`."""
        (self._all if events else self._without_events).append(listener)

    def tell(self, stored: Sequence[Stored]) -> None:
        """Call them. A defect of one must not keep the others, or those who wait for the fsync, in the dark."""
        if not stored:
            return
        others = [item for item in stored if type(item.record) is not Event]
        self._call(self._all, stored)
        if others:
            self._call(self._without_events, others)

    def _call(self, listeners: Sequence[Listener], stored: Sequence[Stored]) -> None:
        for listener in listeners:
            try:
                listener(stored)
            except Exception:
                if self._raising:
                    raise
                _log.exception("somebody who follows the journal failed on records %d on", stored[0].offset)


def settle_with(appending: Awaitable[Appended], settled: Settled) -> None:
    """`Journal.submit` by means of `append`."""

    def done(future: asyncio.Future[Appended]) -> None:
        error = StorageError("the append was cancelled") if future.cancelled() else future.exception()
        if error is None:
            settled(future.result())
        elif isinstance(error, Exception):
            settled(error)

    asyncio.ensure_future(appending).add_done_callback(done)
