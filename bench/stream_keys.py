"""A stream with many keys through a real journal, a real worker and its commits: most of its state is not in memory.

The journal is filled with readings first, without the stream; then the stream catches up. At first each key is new, and
then each event is of one that is there: all of them alike (uniform), or few of them most of the time (zipf, exponent
1.1). Windows are a day long and none ends: nothing is measured but keys coming and going. Bytes are those that the
journal's writer hands to the disk (Linux: /proc); the speed is by processor time of all three processes, the daemon,
the worker and the writer, since they share what cores there are.

    python bench/stream_keys.py [--keys 1000,100000,1000000] [--events 100000] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
from bisect import bisect
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from report import Report, Result, machine, show

from edge_runtime.clock import SystemClock
from edge_runtime.events import Event
from edge_runtime.flows.flows import Flows
from edge_runtime.journal.sqlite.client import SqliteJournal
from edge_runtime.streams.client import StreamWorker
from edge_runtime.streams.flow import StreamFlow
from edge_runtime.streamspec import SECOND, Aggregate, Fixed, Source, Stream, Window

COMPUTE = {"n": Aggregate("count"), "mean": Aggregate("mean", "temperature"), "max": Aggregate("max", "temperature")}
DAY = 86_400 * SECOND
BASE = 20_000 * DAY
DEVICES = 50
STREAM = Stream([Source("climate")], Window(Fixed(DAY), COMPUTE, "data.key"))
LIMIT = 600.0
"""Seconds after which a case is ended as it stands."""


class Bench:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal.db"
        self._seq = 0

    async def open(self) -> None:
        self.journal = await SqliteJournal.open(self._path)
        self.worker = StreamWorker()
        self.flows = Flows(self.journal, await self.journal.tables(), SystemClock(), random.Random(1))

    async def close(self) -> None:
        await self.flows.stop()
        await self.worker.stop()
        await self.journal.close()

    async def fill(self, keys: Iterator[int]) -> int:
        """Store readings; the offset of the last."""
        batch: list[Event] = []
        waiting = []
        for key in keys:
            at = BASE + self._seq * 1000
            data = {"temperature": 20.25 + key % 7, "key": f"key-{key}"}
            seq, device = divmod(self._seq, DEVICES)
            batch.append(Event(f"dev-{device}", b"8 bytes.", seq, "climate", at, at, data))
            self._seq += 1
            if len(batch) == 1000:
                waiting.append(asyncio.ensure_future(self.journal.append(batch)))
                batch = []
                if len(waiting) == 8:
                    await waiting.pop(0)
        await asyncio.gather(*waiting)
        return (await self.journal.tables()).head

    async def take(self, last: int, number: int) -> tuple[float, float]:
        """Have the stream take what is there: events by second of processor time, bytes written by event."""
        begun, first = time.perf_counter(), last - number
        if "bench.s" in self.flows.runners:
            await self.flows.resume("bench.s")
        else:
            stream = StreamFlow(
                "bench.s", "$stream.bench", STREAM, worker=self.worker, clock=SystemClock(), start="earliest"
            )
            await self.flows.install(stream)
        while self.worker.pid is None:
            await asyncio.sleep(0)
        spent, written = self._spent(), _written(self.writer)
        runner = self.flows.runners["bench.s"]
        while runner.position().lowest < last and time.perf_counter() - begun < LIMIT:
            await asyncio.sleep(0.05)
        await runner.save()
        done = min(runner.position().lowest, last) - first
        spent, written = self._spent() - spent, _written(self.writer) - written
        await self.flows.pause("bench.s")
        return done / spent, written / max(1, done)

    def _spent(self) -> float:
        """Seconds of processor time: the daemon, the worker, the writer."""
        ticks = 0
        for pid in (os.getpid(), self.worker.pid, self.writer):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    @property
    def writer(self) -> int:
        """The journal's process."""
        process = self.journal._process
        assert process is not None
        return process.pid

    @property
    def memory(self) -> int:
        """MiB that the worker takes."""
        status = Path(f"/proc/{self.worker.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) >> 10


def _written(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar")).split()[1])


def uniform(keys: int, number: int) -> Iterator[int]:
    rng = random.Random(2)
    return (rng.randrange(keys) for _ in range(number))


def zipf(keys: int, number: int) -> Iterator[int]:
    rng = random.Random(3)
    weights = list(accumulate(1 / (rank + 1) ** 1.1 for rank in range(keys)))
    return (bisect(weights, rng.random() * weights[-1]) * 7919 % keys for _ in range(number))


async def measured(keys: int, number: int) -> list[Result]:
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        await bench.open()
        for name, made, count in (
            ("new", iter(range(keys)), keys),
            ("uniform", uniform(keys, number), number),
            ("zipf", zipf(keys, number), number),
        ):
            count = count // 1000 * 1000
            last = await bench.fill(made)
            rate, written = await bench.take(last, count)
            results.append(Result(f"{keys:,} keys, {name}", round(rate), "events/s"))
            results.append(Result(f"{keys:,} keys, {name}: written by event", round(written), "B"))
        results.append(Result(f"{keys:,} keys: memory of the worker", bench.memory, "MiB"))
        await bench.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", default="1000,100000,1000000", help="how many, separated by commas")
    parser.add_argument("--events", type=int, default=100_000, help="of keys that are there")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()
    at = machine()
    results = [one for keys in given.keys.split(",") for one in asyncio.run(measured(int(keys), given.events))]
    show(Report("stream keys", at, results), given.json)


if __name__ == "__main__":
    main()
