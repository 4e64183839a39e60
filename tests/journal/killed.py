"""A program that writes to a journal until it is killed, and says on standard output what has been acknowledged.

    python -m tests.journal.killed PATH FIRST

Lines: `writer PID`, `stored N` (all events below N are acknowledged), `done OFFSET` (a commit is acknowledged).
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from edge_runtime.events import Event, Origin
from edge_runtime.journal.records import Command, FlowState, Progress
from edge_runtime.journal.sqlite.client import SqliteJournal

FLOW = "app.flow"
BOOT = b"8 bytes."


def event(seq: int) -> Event:
    """The event that stands at `seq`; every tenth is longer than a page."""
    return Event("gh-1", BOOT, seq, "climate", seq, seq, {"n": seq, "pad": "x" * (1500 if seq % 10 == 0 else 40)})


def effect(cause: Event, index: int) -> Command:
    """The `index`-th effect of the flow on an event."""
    return Command("gh-1", "fan", index, 1, 10**9, Origin(FLOW, 0, cause.id, index))


async def work(path: Path, seq: int) -> None:
    """Append events, and commit two effects for each group of them."""
    journal = await SqliteJournal.open(path)
    print("writer", journal.writer_pid, flush=True)
    if FLOW not in (await journal.tables()).flows:
        await journal.append([FlowState(FLOW, 1, 0, -1)])
    while True:
        group = [event(seq + index) for index in range(1 + seq % 5)]
        appended = await journal.append(group)
        seq += len(group)
        print("stored", seq, flush=True)
        if appended.stored:
            offset = appended.stored[-1].offset
            await journal.commit(Progress(FLOW, 1, offset), [effect(group[-1], 0), effect(group[-1], 1)])
            print("done", offset, flush=True)


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2])))
