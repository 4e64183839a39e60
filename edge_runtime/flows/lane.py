"""A lane: events that wait to be taken one after the other. Some slots share a lane; a held key has one of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from edge_runtime.events import Event

BATCH = 256
"""Events taken at a time: enough to pay for a call into the sandbox, few enough to wait for."""
MAX_PENDING = 1024
MAX_PENDING_BYTES = 8 << 20
"""Events that wait in a lane, and about how much they hold: beyond either the flow reads no further, or a held key's
events are read again later."""
BATCH_BYTES = 2 << 20
"""Of a batch, about: the sandbox takes it as one text."""


class Item(msgspec.Struct, frozen=True):
    """An event where it stands in the journal."""

    offset: int
    event: Event
    key: str
    size: int = 0
    """About how many bytes it holds."""
    at: int = -1
    """Where the event itself stands, though it may come again by a retry."""


class Lane:
    """`key` is the partition key that is held in it; None for a lane of slots."""

    def __init__(self, reached: int, key: str | None = None) -> None:
        self.key = key
        self.pending: deque[Item] = deque()
        self.bytes = 0
        self.reached = reached
        """With nothing pending, everything of this lane up to here has been dealt with."""
        self.attempts = 0
        """How often the first pending event has failed."""
        self.most = BATCH
        """How many events are taken at a time: fewer where the effects of more did not fit into one commit."""
        self.hopeless = False
        """The last event was given up: the next ones get no retries, until one succeeds."""
        self.parked = False
        """Held until an operator releases it."""
        self.missing_after: int | None = None
        """Later events of a held key were not kept: they are to be read from the journal, from behind this offset."""
        self.task: asyncio.Task[None] | None = None
        self._news: asyncio.Future[None] | None = None

    @property
    def full(self) -> bool:
        """Whether no more should wait here."""
        return len(self.pending) >= MAX_PENDING or self.bytes >= MAX_PENDING_BYTES

    def at(self, without: frozenset[int] = frozenset()) -> int:
        """Up to where everything of this lane has been dealt with; `without` are offsets about to be."""
        for item in self.pending:
            if item.offset not in without:
                return item.offset - 1
        return self.reached if self.missing_after is None else self.missing_after

    def add(self, item: Item) -> None:
        """Queue an event. A held key keeps only so many; the rest is read again when its turn comes."""
        if self.missing_after is not None:
            return
        if self.key is not None and self.full:
            self.leave(item)
        else:
            self.put(item)

    def leave(self, item: Item) -> None:
        """Do not keep an event of a held key: from it on they are read again."""
        if self.missing_after is None:
            self.missing_after = self.pending[-1].offset if self.pending else item.offset - 1

    def put(self, item: Item) -> None:
        """Queue an event, whatever there is already."""
        self.pending.append(item)
        self.bytes += item.size

    def head(self, quiet: Callable[[Item], bool]) -> list[Item]:
        """The next events to take: alike in being quiet, and only one while it is being retried."""
        limit = 1 if self.attempts else self.most
        found: list[Item] = []
        size = 0
        for item in self.pending:
            if len(found) >= limit or size >= BATCH_BYTES or (found and quiet(item) != quiet(found[0])):
                break
            found.append(item)
            size += item.size
        return found

    def fewer(self, fitted: int) -> None:
        """Of the last batch only so many fitted into one commit."""
        self.most = max(1, fitted)

    def more(self) -> None:
        """Take more at a time again, bit by bit."""
        self.most = min(2 * self.most, BATCH)

    def drop(self, offsets: frozenset[int]) -> None:
        """These events have been dealt with."""
        pending = self.pending
        while pending and pending[0].offset in offsets:
            self.bytes -= pending.popleft().size
        if any(item.offset in offsets for item in pending):
            self._keep(lambda item: item.offset not in offsets)

    def give(self, key: str) -> Iterable[Item]:
        """Take out all events with a partition key, for a lane of their own."""
        moved = [item for item in self.pending if item.key == key]
        if moved:
            self._keep(lambda item: item.key != key)
        return moved

    def _keep(self, wanted: Callable[[Item], bool]) -> None:
        self.pending = deque(item for item in self.pending if wanted(item))
        self.bytes = sum(item.size for item in self.pending)

    def wake(self) -> None:
        """There is something new."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def news(self) -> None:
        """Return at the next `wake`."""
        self._news = asyncio.get_running_loop().create_future()
        await self._news
