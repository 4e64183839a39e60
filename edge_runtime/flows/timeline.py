"""Moments and offsets: which record stands where in time, and how to walk through the journal without blocking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from edge_runtime.events import Event
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import (
    AppToken,
    AppVersion,
    ClockSet,
    Command,
    CommandEnd,
    DeadLetter,
    Device,
    Dropped,
    FlowState,
    Gap,
    Progress,
    Record,
    Retry,
    StateChange,
    Stored,
    Timer,
    TimerCancelled,
    TimerFired,
    Trimmed,
)

PAGE = 500
"""Records read at a time: some milliseconds of the event loop."""


def moment(record: Record) -> int | None:
    """When the gateway stored a record, by its own clock; None for records without a date."""
    match record:
        case Event():
            return record.received
        case Command() | Device():
            return record.created
        case CommandEnd() | DeadLetter() | Retry() | Dropped() | Trimmed() | Gap() | AppVersion() | AppToken():
            return record.time
        case FlowState() | Progress() | StateChange() | Timer() | TimerFired() | TimerCancelled() | ClockSet():
            return None


async def pages(journal: Journal, after: int, upto: int) -> AsyncIterator[list[Stored]]:
    """The records behind `after` up to `upto`, oldest first; others get their turn between two pages."""
    while after < upto:
        page = await journal.read(after, min(PAGE, upto - after))
        if not page:
            return
        after = page[-1].offset
        yield [stored for stored in page if stored.offset <= upto] if after > upto else page
        await asyncio.sleep(0)


async def backwards(journal: Journal, first: int, last: int) -> AsyncIterator[Stored]:
    """The records from `last` back to `first`."""
    while last >= first:
        low = max(first, last - PAGE + 1)
        found = [stored async for page in pages(journal, low - 1, last) for stored in page]
        for stored in reversed(found):
            yield stored
        last = low - 1


async def first_dated(journal: Journal, first: int, upto: int) -> tuple[int, int] | None:
    """Offset and time of the first record with a date, from `first` up to `upto`."""
    after = first - 1
    while after < upto:
        page = await journal.read(after, 1)
        if not page:
            return None
        for stored in page:
            time = moment(stored.record)
            if stored.offset <= upto and time is not None:
                return stored.offset, time
        after = page[-1].offset
    return None


async def offset_at(journal: Journal, time: int, first: int, head: int) -> int:
    """The first offset from `first` on whose record was stored at `time` or later; `head + 1` if there is none.

    By bisection. Where the clock was set back there may be several such places: it is one of them.
    """
    low, high = first, head + 1
    while low < high:
        middle = (low + high) // 2
        found = await first_dated(journal, middle, high - 1)
        if found is None or found[1] >= time:
            high = middle
        else:
            low = found[0] + 1
    return low
