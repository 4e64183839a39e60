"""Large effects: what one commit or one firing can take is bounded by bytes, and nothing gets stuck by it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.clock import ManualClock
from edge_runtime.events import Event, Origin
from edge_runtime.flows.flow import Done, Taken, Turn
from edge_runtime.flows.flows import Flows
from edge_runtime.flows.lane import BATCH
from edge_runtime.flows.timers import MAX_PENDING_BYTES, Timers
from edge_runtime.journal.records import Timer
from edge_runtime.journal.sqlite.client import SqliteJournal
from edge_runtime.size import rough
from tests.flows.conftest import Orders, event

LARGE = [1.5] * 62_000
"""Less than 256 KiB of JSON, and more than half a MiB in the journal."""


class Large(Orders):
    """Emits a large event for each; notes how many it is given at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[int] = []

    async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
        self.given.append(len(events))
        await super().take(events, turn)
        return Taken([Done([self._emitted(item, turn)]) for item in events])

    def _emitted(self, item: Event, turn: Turn) -> Event:
        origin = Origin(self.name, turn.epoch, item.id, 0)
        return Event(item.device, b"", 0, "large", 1, 1, LARGE, 1, origin)


async def test_a_backlog_of_large_effects_is_committed_in_parts(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    flows = Flows(journal, await journal.tables(), ManualClock(10**15), random.Random(1))
    flow = Large()
    await journal.append([event(number) for number in range(BATCH)])
    await flows.install(flow)
    try:
        async with asyncio.timeout(60):
            while flows.find(flow.name).stats.effects < BATCH:
                await asyncio.sleep(0.01)
        assert flow.given[0] == BATCH
        assert sum(flow.given) < 3 * BATCH, "a function is not run on all of them for each part"
        runner = flows.find(flow.name)
        assert runner.stats.waiting == ""
    finally:
        await flows.stop()
        await journal.close()


async def test_large_deferred_events_do_not_keep_the_others_from_coming(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    clock = ManualClock(1_800_000_000_000_000)
    timers = Timers(journal, await journal.tables(), clock, done=lambda flow, at: True, draw=lambda: b"8 bytes.")

    def timer(flow: str, number: int, data: object) -> Timer:
        later = Event("d", b"", 0, "later", 0, 0, data, 1, Origin(flow, 0, f"c/{number}", 0))
        return Timer(flow, later, timers.now(), 10_000_000, "")

    try:
        for number in range(120):
            await journal.append([timer("greedy.f", number, LARGE)])
        await journal.append([timer("modest.f", 0, {})])
        clock.advance(11_000_000)
        await timers.look()
        assert (timers.fired, timers.waiting_for) == (121, "")
    finally:
        await journal.close()


async def test_what_may_wait_is_bounded_by_bytes(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    clock = ManualClock(1_800_000_000_000_000)
    timers = Timers(journal, await journal.tables(), clock, done=lambda flow, at: True, draw=lambda: b"8 bytes.")
    later = Event("d", b"", 0, "later", 0, 0, LARGE, 1, Origin("f.g", 0, "c", 0))
    size = rough(later)
    try:
        count = 0
        while not timers.full("f.g", 1, size):
            fresh = Event("d", b"", 0, "later", 0, 0, LARGE, 1, Origin("f.g", 0, f"c/{count}", 0))
            await journal.append([Timer("f.g", fresh, timers.now(), 10_000_000, "")])
            count += 1
        assert 0 < count * size <= MAX_PENDING_BYTES
        assert not timers.full("f.other", 1, size)
    finally:
        await journal.close()
