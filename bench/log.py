"""The journal alone: records a second, commit latency, and what it writes to the disk for each event.

Every commit is fsynced, on both sides. The peer is a bare loop over apsw in this process: a transaction of one row per
event, `synchronous=FULL`, and nothing else: no identities, no tables, nobody else to serve.

    python bench/log.py [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import apsw
import msgspec
import uvloop
from report import Report, Result, compared, machine, show

from edge_runtime.errors import EdgeError
from edge_runtime.events import Event
from edge_runtime.journal.sqlite.client import SqliteJournal

PEER = "a bare apsw loop"
PLACE = Path("/var/tmp")
"""Unlike /tmp, never in memory only, where an fsync would cost nothing."""
BATCHES = (1, 50, 1000)
CALLERS = 50
BOARDS = 50
RATES = (1000, 5000, 20_000)
GROUPS = {1: 3000, 10: 1500, 100: 400, 1000: 60}
"""Sizes of groups, and how many of them: several times what the write-ahead log holds before it is copied back."""
BUSY, FREE = 0.001, 0.002
"""The loop works for the first, and is free for the second: seconds, in turn."""

_encode = msgspec.msgpack.Encoder().encode
Write = Callable[[Sequence[Event]], Awaitable[object]]


def event(number: int) -> Event:
    """About 100 bytes on disk."""
    seq, board = divmod(number, BOARDS)
    data = {"temperature": 21.5, "humidity": 40.25, "battery": 3.71, "n": number}
    return Event(f"bench-{board}", b"8 bytes.", seq, "climate", number, number, data)


class Bare:
    """What a program would do that only wants its events stored."""

    def __init__(self, path: Path) -> None:
        self._db = apsw.Connection(str(path))
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE event (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")

    def write(self, events: Sequence[Event]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO event (body) VALUES (?)", [(_encode(item),) for item in events])
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()


def percentile(times: list[float], share: float) -> float:
    """Milliseconds, of seconds."""
    ordered = sorted(times)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3, 3)


def written(pid: int) -> int:
    """Bytes that a process has had written to its disks."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise OSError("no write_bytes")


class Numbers:
    """New event numbers, so that no event is a duplicate."""

    def __init__(self) -> None:
        self._next = 0

    def take(self, count: int) -> list[Event]:
        first, self._next = self._next, self._next + count
        return [event(number) for number in range(first, self._next)]


async def closed_loop(write: Write, numbers: Numbers, batch: int, seconds: float) -> tuple[float, list[float]]:
    """One caller, one append in flight; records a second and the latencies."""
    times: list[float] = []
    started = time.perf_counter()
    while (before := time.perf_counter()) < started + seconds:
        await write(numbers.take(batch))
        times.append(time.perf_counter() - before)
    return len(times) * batch / (time.perf_counter() - started), times


async def many_callers(journal: SqliteJournal, numbers: Numbers, seconds: float) -> tuple[float, list[float]]:
    """Fifty callers with one append of one record in flight each."""
    runs = await asyncio.gather(*(closed_loop(journal.append, numbers, 1, seconds) for _ in range(CALLERS)))
    return sum(rate for rate, _ in runs), [moment for _, times in runs for moment in times]


async def open_loop(journal: SqliteJournal, numbers: Numbers, rate: int, seconds: float) -> list[float]:
    """Single records at moments fixed beforehand; latencies from the moment each was due."""
    times: list[float] = []

    def done(due: float) -> Callable[[object], None]:
        return lambda _: times.append(time.perf_counter() - due)

    waiting = set()
    started = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = started + number / rate
        ahead = due - time.perf_counter()
        if ahead > 0 or number % 64 == 0:
            await asyncio.sleep(max(ahead, 0))
        future = asyncio.ensure_future(journal.append(numbers.take(1)))
        future.add_done_callback(done(due))
        waiting.add(future)
        future.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)
    return times


async def keep_busy() -> None:
    """Other work on the loop, as a gateway has it."""
    while True:
        until = time.perf_counter() + BUSY
        while time.perf_counter() < until:
            pass
        await asyncio.sleep(FREE)


async def throughput(folder: Path, seconds: float) -> list[Result]:
    """Closed loop, ours and the peer's in turn."""
    rows: list[Result] = []
    numbers = Numbers()
    journal = await SqliteJournal.open(folder / "closed.db")
    bare = Bare(folder / "closed-bare.db")

    async def bare_write(events: Sequence[Event]) -> None:
        bare.write(events)

    for batch in BATCHES:
        ours, times = await closed_loop(journal.append, numbers, batch, seconds)
        theirs, their_times = await closed_loop(bare_write, numbers, batch, seconds)
        rows.append(compared(f"batches of {batch}", round(ours), "records/s", PEER, round(theirs)))
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            mine, peers = percentile(times, share), percentile(their_times, share)
            rows.append(compared(f"batches of {batch}, commit {name}", mine, "ms", PEER, peers))
    rate, times = await many_callers(journal, numbers, seconds)
    rows.append(Result(f"{CALLERS} callers, single records", round(rate), "records/s"))
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        rows.append(Result(f"{CALLERS} callers, commit {name}", percentile(times, share), "ms"))
    await journal.close()
    bare.close()
    return rows


async def latency(folder: Path, seconds: float) -> list[Result]:
    """Open loop, with the event loop busy; and once more while somebody reads everything from the start."""
    rows: list[Result] = []
    numbers = Numbers()
    journal = await SqliteJournal.open(folder / "open.db")
    other = asyncio.create_task(keep_busy())
    for rate in RATES:
        times = await open_loop(journal, numbers, rate, seconds)
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            rows.append(Result(f"{rate} records/s, loop busy, {name}", percentile(times, share), "ms"))
    reader = asyncio.create_task(catch_up(journal))
    times = await open_loop(journal, numbers, 1000, seconds)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        rows.append(Result(f"1000 records/s, loop busy, a reader catching up, {name}", percentile(times, share), "ms"))
    for task in (reader, other):
        task.cancel()
    await asyncio.gather(reader, other, return_exceptions=True)
    await journal.close()
    return rows


async def catch_up(journal: SqliteJournal) -> None:
    """Read the journal over and over, as a flow does that is behind."""
    after = -1
    while True:
        batch = await journal.read(after, 256)
        after = batch[-1].offset if batch else -1


async def wear(folder: Path) -> list[Result]:
    """Bytes to disk for each event, by the size of the groups in which they are committed."""
    rows: list[Result] = []
    numbers = Numbers()
    for group, count in GROUPS.items():
        journal = await SqliteJournal.open(folder / f"wear-{group}.db")
        before = written(journal.writer_pid)
        for _ in range(count):
            await journal.append(numbers.take(group))
        mine = (written(journal.writer_pid) - before) / (count * group)
        await journal.close()
        bare = Bare(folder / f"wear-{group}-bare.db")
        before = written(os.getpid())
        for _ in range(count):
            bare.write(numbers.take(group))
        peers = (written(os.getpid()) - before) / (count * group)
        bare.close()
        rows.append(compared(f"written for each event, groups of {group}", round(mine), "bytes", PEER, round(peers)))
    rows.append(Result("an event's own size", len(_encode(event(100_000))), "bytes"))
    return rows


async def bench(place: Path, seconds: float) -> Report:
    """Run it all."""
    found = machine()
    with tempfile.TemporaryDirectory(prefix="edge-bench-", dir=place) as name:
        folder = Path(name)
        rows = await throughput(folder, seconds)
        rows += await latency(folder, seconds)
        rows += await wear(folder)
    notes = [
        "Every commit has an fsync behind it, the peer's too.",
        "Ours goes to a process of its own and back, knows duplicates and keeps tables; the peer only stores.",
        f"Loop busy: {BUSY * 1e3:g} ms of other work, {FREE * 1e3:g} ms free, in turn.",
    ]
    return Report("log", found, rows, notes)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=1.5, help="measured time of each figure (default: 1.5)")
    parser.add_argument("--place", type=Path, default=PLACE, help=f"folder for the data (default: {PLACE})")
    arguments = parser.parse_args()
    try:
        report = uvloop.run(bench(arguments.place, arguments.seconds))
    except (EdgeError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    show(report, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
