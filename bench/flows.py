"""Events per second through flows over the real journal, with and without effects, behind the journal and at its head.

The flows do nothing but count or emit: what is measured is the reading, the bookkeeping and the commits around them.
Beside it, as the peer, the bare journal: the same events read, or the same effects appended, without any flow.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop
from report import Report, Result, compared, machine, show

from edge_runtime.clock import SystemClock
from edge_runtime.events import Event, Origin
from edge_runtime.flows.flow import Done, Failed, Policy, Taken, Turn
from edge_runtime.flows.flows import Flows
from edge_runtime.journal.records import Record
from edge_runtime.journal.sqlite.client import SqliteJournal

EVENTS = 30_000
DEVICES = 50
GROUP = 500
BOOT = b"8 bytes."


class Counting:
    """A flow that looks at every event; one in `every` has an emitted event as its effect (0: none)."""

    start = "earliest"
    policy = Policy()

    def __init__(self, name: str, every: int) -> None:
        self.name = name
        self.every = every
        self.seen = 0
        self.all_seen = asyncio.Event()

    def wants(self, event: Event) -> bool:
        return event.kind == "climate"

    def key(self, event: Event) -> str:
        return event.device

    async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
        results: list[Done | Failed] = []
        for event in events:
            effects: list[Record] = []
            if self.every and event.seq % self.every == 0:
                origin = Origin(self.name, turn.epoch, event.id, 0)
                effects.append(Event(event.device, b"", 0, "climate.hot", event.time, 0, {"on": True}, 1, origin))
            results.append(Done(effects))
        self.seen += len(events)
        if self.seen >= EVENTS:
            self.all_seen.set()
        return Taken(results)

    def settled(self, events: Sequence[Event], turn: Turn) -> None:
        pass


def events() -> list[list[Event]]:
    made = [
        Event(f"gh-{seq % DEVICES}", BOOT, seq, "climate", seq, seq, {"temperature": 21.5, "humidity": 40, "n": seq})
        for seq in range(EVENTS)
    ]
    return [made[start : start + GROUP] for start in range(0, EVENTS, GROUP)]


async def open_journal(folder: Path) -> SqliteJournal:
    return await SqliteJournal.open(folder / "journal.db")


async def fill(journal: SqliteJournal) -> float:
    started = time.perf_counter()
    await asyncio.gather(*(journal.append(group) for group in events()))
    return EVENTS / (time.perf_counter() - started)


async def behind(count: int, every: int, lanes: int) -> float:
    """Events per second and flow, of `count` flows that catch up from the start."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        journal = await open_journal(Path(folder))
        await fill(journal)
        flows = Flows(journal, await journal.tables(), SystemClock(), random.Random(1))
        counting = [Counting(f"bench.f{number}", every) for number in range(count)]
        started = time.perf_counter()
        for flow in counting:
            await flows.install(flow)
            if lanes > 1:
                await flows.scale(flow.name, lanes)
        await asyncio.gather(*(flow.all_seen.wait() for flow in counting))
        await flows.stop()
        taken = time.perf_counter() - started
        await journal.close()
        return EVENTS / taken


async def at_head(count: int, every: int) -> float:
    """Events per second, appended while `count` flows take them as they come."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        journal = await open_journal(Path(folder))
        flows = Flows(journal, await journal.tables(), SystemClock(), random.Random(1))
        counting = [Counting(f"bench.f{number}", every) for number in range(count)]
        for flow in counting:
            await flows.install(flow)
        started = time.perf_counter()
        for group in events():
            await journal.append(group)
        await asyncio.gather(*(flow.all_seen.wait() for flow in counting))
        await flows.stop()
        taken = time.perf_counter() - started
        await journal.close()
        return EVENTS / taken


async def bare() -> tuple[float, float]:
    """The journal alone: events appended and read per second."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        journal = await open_journal(Path(folder))
        appended = await fill(journal)
        started = time.perf_counter()
        after = -1
        while batch := await journal.read(after, 256):
            after = batch[-1].offset
        read = EVENTS / (time.perf_counter() - started)
        await journal.close()
        return appended, read


async def run() -> list[Result]:
    appended, read = await bare()
    results = []
    for count in (1, 10):
        for every, words in ((0, "no effects"), (10, "1 effect in 10"), (1, "1 effect each")):
            flows = f"{count} flow{'s' * (count > 1)}, {words}"
            rate = round(await behind(count, every, 1))
            results.append(compared(f"catching up, {flows}", rate, "events/s", "journal read", round(read)))
            rate = round(await at_head(count, every))
            results.append(compared(f"at the head, {flows}", rate, "events/s", "journal append", round(appended)))
    rate = round(await behind(1, 1, 4))
    name = "catching up, 1 flow, 1 effect each, 4 lanes"
    results.append(compared(name, rate, "events/s", "journal read", round(read)))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    show(Report("flows", machine(), uvloop.run(run())), arguments.json)


if __name__ == "__main__":
    main()
