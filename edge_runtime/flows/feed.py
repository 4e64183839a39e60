"""Hands the journal's records to the flows: from memory at the head, from the journal to those who are behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import Stored
from edge_runtime.size import rough

CAPACITY = 4096
"""How many newest records are held in memory for the flows at the head."""


MAX_BYTES = 32 << 20
"""About how much they may hold together."""


class Feed:
    """One per journal. `head` is the newest record's offset at the time it is made."""

    def __init__(self, journal: Journal, head: int, capacity: int = CAPACITY) -> None:
        self._journal = journal
        self._capacity = capacity
        self._recent: list[Stored] = []
        self._sizes: list[int] = []
        """Of each of them, about: it is estimated once."""
        self._bytes = 0
        self._head = head
        self._news: asyncio.Future[None] | None = None
        journal.listen(self._hear)

    @property
    def head(self) -> int:
        """The offset of the newest record."""
        return self._head

    def _hear(self, stored: Sequence[Stored]) -> None:
        recent = self._recent
        recent.extend(stored)
        self._head = stored[-1].offset
        sizes = [rough(item.record) for item in stored]
        self._sizes.extend(sizes)
        self._bytes += sum(sizes)
        if len(recent) > 2 * self._capacity or self._bytes > MAX_BYTES:
            gone = len(recent) - min(self._capacity, len(recent) // 2)
            self._bytes -= sum(self._sizes[:gone])
            del recent[:gone], self._sizes[:gone]
        if self._news is not None:
            self._news.set_result(None)
            self._news = None

    async def after(self, offset: int, limit: int) -> Sequence[Stored]:
        """Records that follow `offset`, in order: at least one, about `limit`; waits until there is one."""
        while offset >= self._head:
            if self._news is None:
                self._news = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._news)
        if self._recent and offset >= self._recent[0].offset - 1:
            start = offset + 1 - self._recent[0].offset
            return self._recent[start : start + limit]
        return await self._journal.read(offset, limit)
