"""A boot whose sequences are scattered does not grow for ever, on either journal; nor does it let a repeat in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.events import Event
from edge_runtime.journal import seen
from edge_runtime.journal.interface import Journal, Placed
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import DeadLetter
from edge_runtime.journal.sqlite.client import SqliteJournal


def event(seq: int, boot: bytes = b"8 bytes.") -> Event:
    return Event("d", boot, seq, "climate", seq, seq, {"n": seq})


@pytest.fixture(params=["memory", "sqlite"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    if request.param == "memory":
        yield MemoryJournal()
        return
    opened = await SqliteJournal.open(tmp_path / "journal.db")
    yield opened
    await opened.close()


async def test_events_that_would_be_one_gap_too_many_become_dead_letters(journal: Journal) -> None:
    full = await journal.append([event(10 * n) for n in range(seen.MAX_INTERVALS)])
    assert set(full.placed) == {Placed.STORED}
    more = await journal.append([event(5), event(10), event(11), event(10 * seen.MAX_INTERVALS)])
    assert more.placed == [Placed.SCATTERED, Placed.DUPLICATE, Placed.STORED, Placed.SCATTERED]
    letter = more.stored[0].record
    assert isinstance(letter, DeadLetter)
    assert (letter.flow, letter.reason, letter.event) == ("ingress", "sequence", event(5))
    assert "1000 gaps" in letter.detail
    assert (await journal.append([event(5, b"another.")])).placed == [Placed.STORED], "a new boot begins anew"
    again = await journal.append([event(11), event(5)])
    assert again.placed == [Placed.DUPLICATE, Placed.SCATTERED], "what is in stays in, what was refused stays refused"


async def test_filling_gaps_makes_room_for_new_ones(journal: Journal) -> None:
    await journal.append([event(2 * n) for n in range(seen.MAX_INTERVALS)])
    assert (await journal.append([event(1)])).placed == [Placed.STORED], "joins two intervals"
    assert (await journal.append([event(100_000)])).placed == [Placed.STORED]
    assert (await journal.append([event(200_000)])).placed == [Placed.SCATTERED]


@given(st.sets(st.integers(0, 60)), st.integers(0, 60))
def test_only_what_touches_no_interval_scatters(known: set[int], seq: int) -> None:
    intervals: seen.Intervals = []
    for number in known - {seq}:
        seen.add(intervals, number)
    before, limit = len(intervals), seen.MAX_INTERVALS
    try:
        seen.MAX_INTERVALS = before
        scatters = seen.scatters(intervals, seq)
    finally:
        seen.MAX_INTERVALS = limit
    seen.add(intervals, seq)
    assert scatters == (len(intervals) > before)
