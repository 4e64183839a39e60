"""Functions in the sandbox: how fast one starts, how fast it is called, how many events it takes, what it weighs.

The executors are the gateway's own, jailed, with all limits in force; what is measured is the way from the daemon to
the function and back. Beside it, in the same run, the same function under functions-framework (a real server process,
over HTTP) and in a fresh `python -I` process for every call.

    python bench/functions.py [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import uvloop
from report import Report, Result, compared, machine, show

from edge_runtime.clock import SystemClock
from edge_runtime.events import Event
from edge_runtime.flows.ports import NOTHING, Outcome, Success
from edge_runtime.functions.engines import Engine, python_engine
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.native import native_engine
from edge_runtime.functions.pool import Pool
from edge_runtime.functions.sandbox import prepare
from edge_runtime.functions.stats import Recorder, percentile
from edge_runtime.manifest import FunctionRef

COLD_WARM = 150
COLD_EMPTY = 60
SETTLE = 0.06
"""Seconds between cold starts: the executor fills its stock up 20 ms after the last request, in 5 ms."""
CALLS = 2000
BATCH = 256
SECONDS = 1.5
"""Of each round of batches."""
ROUNDS = 3
APPS = 20
"""Instances over which the weight of one is measured."""
FRESH = 40
FRAMEWORK_STARTS = 8
CONNECTIONS = 16

FRAMEWORK = "functions-framework"
PYTHON = "fresh python -I"

APP = """
from edge import App

app = App("bench")


@app.on("climate")
def overheat(event, ctx):
    if event.data["temperature"] > 30:
        ctx.command(event.device, "fan", {"on": True})
"""

SERVED = """
def overheat(request):
    event = request.get_json()
    if event["data"]["temperature"] > 30:
        return {"commands": [{"device": event["device"], "name": "fan", "args": {"on": True}}]}
    return {"commands": []}
"""

FRESH_SOURCE = """
import json, sys
event = json.load(sys.stdin)
commands = []
if event["data"]["temperature"] > 30:
    commands.append({"device": event["device"], "name": "fan", "args": {"on": True}})
print(json.dumps({"commands": commands}))
"""

LIMITS = Limits()
OVERHEAT = FunctionRef("bench", "v", "overheat")


def reading(seq: int, temperature: float) -> Event:
    data = {"temperature": temperature, "humidity": 61.2, "battery": 3.71}
    return Event(f"board-{seq % 50}", b"bootboot", seq, "climate", 1_700_000_000_000_000, 1_700_000_000_000_100, data)


def request(name: str) -> str:
    """The app as the guest takes it."""
    return json.dumps({"files": {f"{name}.py": APP}, "entry": f"{name}.py", "limits": {}})


@contextlib.asynccontextmanager
async def running(engine: Engine, executors: int) -> AsyncIterator[Pool]:
    pool = Pool(engine, executors, SystemClock(), Recorder())
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()


def checked(outcomes: list[Outcome], commands: int) -> None:
    """The function did what it should: a benchmark of failures would be fast."""
    assert all(isinstance(outcome, Success) and len(outcome.effects) == commands for outcome in outcomes), outcomes[:1]


def quantiles(name: str, micros: list[float], unit: str = "ms") -> Iterator[tuple[str, float, str]]:
    scale = 1000 if unit == "ms" else 1
    for percent in (50, 99):
        yield f"{name}, p{percent}", round(percentile(sorted(map(int, micros)), percent) / scale, 3), unit


def elapsed(since: int) -> float:
    return (time.perf_counter_ns() - since) / 1000


async def cold_starts(pool: Pool, engine: Engine, number: int, settle: float) -> list[float]:
    """Microseconds from an app's source to its first result."""
    found = []
    event = [reading(1, 31.0)]
    for _ in range(number):
        await asyncio.sleep(settle)
        started = time.perf_counter_ns()
        await pool.load(("bench", "v"), engine, request("bench"), LIMITS)
        outcomes = await pool.run(OVERHEAT, event, NOTHING)
        found.append(elapsed(started))
        checked(outcomes, 1)
        await pool.unload(("bench", "v"))
    return found


async def single_calls(pool: Pool) -> list[float]:
    found = []
    for seq in range(CALLS):
        event = [reading(seq, 31.0)]
        started = time.perf_counter_ns()
        outcomes = await pool.run(OVERHEAT, event, NOTHING)
        found.append(elapsed(started))
        checked(outcomes, 1)
    return found[CALLS // 10 :]


async def batches(pool: Pool, callers: int, temperature: float) -> float:
    """Events a second, the median of some rounds."""
    commands = 1 if temperature > 30 else 0
    events = [reading(seq, temperature) for seq in range(BATCH)]

    async def call(until: int) -> int:
        done = 0
        while time.perf_counter_ns() < until:
            outcomes = await pool.run(OVERHEAT, events, NOTHING)
            checked(outcomes, commands)
            done += len(outcomes)
        return done

    rates = []
    for _ in range(ROUNDS):
        started = time.perf_counter_ns()
        until = started + int(SECONDS * 1e9)
        done = sum(await asyncio.gather(*(call(until) for _ in range(callers))))
        rates.append(done / elapsed(started) * 1e6)
    return statistics.median(rates)


def weight(*pids: int) -> float:
    """MiB: the processes' proportional share of memory."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


async def ours(engine: Engine, empty: Engine) -> dict[str, tuple[float, str]]:
    """All our figures, by name."""
    rows: list[tuple[str, float, str]] = []
    async with running(engine, 1) as pool:
        idle = weight(pool.lanes[0].remote.pid)
        rows += quantiles("cold start, stock of instances full", await cold_starts(pool, engine, COLD_WARM, SETTLE))
        await pool.load(("bench", "v"), engine, request("bench"), LIMITS)
        rows += quantiles("warm call", await single_calls(pool))
        rows.append(("events/s in batches, 1 executor, no effects", await batches(pool, 2, 20.0), "events/s"))
        rows.append(("events/s in batches, 1 executor, a command each", await batches(pool, 2, 31.0), "events/s"))
    async with running(empty, 1) as pool:
        rows += quantiles("cold start, stock empty", await cold_starts(pool, empty, COLD_EMPTY, 0))
        before = weight(pool.lanes[0].remote.pid)
        for number in range(APPS):
            await pool.load(("bench", str(number)), empty, request("bench"), LIMITS)
            checked(await pool.run(FunctionRef("bench", str(number), "overheat"), [reading(1, 31.0)], NOTHING), 1)
        rows.append(("memory of an executor at rest", idle, "MiB"))
        rows.append(("memory of each instance", (weight(pool.lanes[0].remote.pid) - before) / APPS, "MiB"))
    async with running(engine, 2) as pool:
        await pool.load(("bench", "v"), engine, request("bench"), LIMITS)
        await pool.scale(("bench", "v"), 2)
        rows.append(("events/s in batches, 2 executors, no effects", await batches(pool, 4, 20.0), "events/s"))
        rows.append(("events/s in batches, 2 executors, a command each", await batches(pool, 4, 31.0), "events/s"))
    return {name: (value, unit) for name, value, unit in rows}


async def ours_natively(engine: Engine) -> dict[str, tuple[float, str]]:
    """The figures of the native tier, by name."""
    rows: list[tuple[str, float, str]] = []
    async with running(engine, 1) as pool:
        pid = pool.lanes[0].remote.pid
        idle = weight(*children(pid))
        rows += quantiles("native tier: cold start, stock full", await cold_starts(pool, engine, COLD_WARM, SETTLE))
        rows += quantiles("native tier: cold start, stock empty", await cold_starts(pool, engine, COLD_EMPTY, 0))
        await pool.load(("bench", "v"), engine, request("bench"), LIMITS)
        rows += quantiles("native tier: warm call", await single_calls(pool))
        for what, temperature in (("no effects", 20.0), ("a command each", 31.0)):
            rate = await batches(pool, 2, temperature)
            rows.append((f"native tier: events/s in batches, 1 executor, {what}", rate, "events/s"))
        before = weight(*children(pid))
        for number in range(APPS):
            await pool.load(("bench", str(number)), engine, request("bench"), LIMITS)
            checked(await pool.run(FunctionRef("bench", str(number), "overheat"), [reading(1, 31.0)], NOTHING), 1)
        rows.append(("native tier: memory of an executor at rest", idle, "MiB"))
        rows.append(("native tier: memory of each instance", (weight(*children(pid)) - before) / APPS, "MiB"))
    return {name: (value, unit) for name, value, unit in rows}


BODY = msgspec.json.encode({"device": "board-1", "data": {"temperature": 31.0, "humidity": 61.2, "battery": 3.71}})
EXPECTED = {"commands": [{"device": "board-1", "name": "fan", "args": {"on": True}}]}


def fresh_processes() -> list[float]:
    """Microseconds for a call in a process of its own."""
    found = []
    for _ in range(FRESH):
        started = time.perf_counter_ns()
        done = subprocess.run([sys.executable, "-I", "-c", FRESH_SOURCE], input=BODY, capture_output=True, check=True)
        found.append(elapsed(started))
        assert json.loads(done.stdout) == EXPECTED
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def framework(folder: Path) -> Iterator[tuple[int, int, float]]:
    """A functions-framework process: its port, its id, and the microseconds from its start to its first result."""
    port = free_port()
    script = "import sys; from functions_framework._cli import _cli; sys.exit(_cli())"
    arguments = [
        "--target",
        "overheat",
        "--source",
        str(folder / "main.py"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    started = time.perf_counter_ns()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=log, stderr=log)
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError((folder / "log").read_text()[-2000:])
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as peer:
                ask(peer)
                break
            time.sleep(0.002)
        yield port, process.pid, elapsed(started)
    finally:
        process.terminate()
        process.wait()


QUESTION = (
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
) + BODY


def answered(reply: bytes) -> bool:
    """Whether this is a whole answer; raises for a wrong one."""
    head, separator, body = reply.partition(b"\r\n\r\n")
    if not separator:
        return False
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    if len(body) < length:
        return False
    if not head.startswith(b"HTTP/1.1 200") or json.loads(body) != EXPECTED:
        raise RuntimeError(f"functions-framework answered {reply[:200]!r}")
    return True


def ask(peer: socket.socket) -> None:
    peer.sendall(QUESTION)
    reply = b""
    while not answered(reply):
        data = peer.recv(65536)
        if not data:
            raise ConnectionError
        reply += data


async def served(port: int) -> float:
    """Events a second over several connections, as its one process gives them."""

    async def ask_often(until: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        done = 0
        while time.perf_counter_ns() < until:
            writer.write(QUESTION)
            reply = b""
            while not answered(reply):
                reply += await reader.read(65536)
            done += 1
        writer.close()
        return done

    started = time.perf_counter_ns()
    until = started + int(SECONDS * 1e9)
    done = sum(await asyncio.gather(*(ask_often(until) for _ in range(CONNECTIONS))))
    return done / elapsed(started) * 1e6


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in found for below in children(int(child)))]


def theirs(folder: Path) -> dict[str, float]:
    """What functions-framework takes, by what is measured."""
    (folder / "main.py").write_text(SERVED)
    starts: list[float] = []
    calls: list[float] = []
    found: dict[str, float] = {}
    for last in [False] * (FRAMEWORK_STARTS - 1) + [True]:
        with framework(folder) as (port, pid, first):
            starts.append(first)
            if not last:
                continue
            found["memory"] = weight(*children(pid))
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for _ in range(CALLS):
                    started = time.perf_counter_ns()
                    ask(peer)
                    calls.append(elapsed(started))
            found["rate"] = asyncio.run(served(port))
    for name, values in (("cold", starts), ("warm", calls[CALLS // 10 :])):
        for label, value, _ in quantiles(name, values):
            found[label] = value
    return found


def bench() -> Report:
    """Run it all."""
    found = machine()
    notes = [
        "A cold start runs from an app's source to its first result; for functions-framework from the start of its"
        " process, for python -I it is the whole process.",
        "functions-framework has one process with threads and takes events one by one; it limits and isolates nothing.",
    ]
    compiled = prepare.prepare(lambda *_: None)
    figures = uvloop.run(ours(python_engine(compiled, 2), python_engine(compiled, 0)))
    figures |= uvloop.run(ours_natively(native_engine([])))
    fresh = {label: value for label, value, _ in quantiles("cold", fresh_processes())}
    peer: dict[str, float] = {}
    if importlib.util.find_spec("functions_framework") is None:
        notes.append("functions-framework is not installed: pip install 'edge-runtime[clouds]'.")
    else:
        with tempfile.TemporaryDirectory(prefix="edge-bench-") as folder:
            peer = theirs(Path(folder))
    rows = []
    for name, (value, unit) in figures.items():
        percent = name.rpartition(", ")[2]
        beside = {
            "cold": peer.get(f"cold, {percent}"),
            "warm": peer.get(f"warm, {percent}"),
            "even": peer.get("rate"),
        }.get(name.removeprefix("native tier: ")[:4], peer.get("memory") if "executor" in name else None)
        shown = round(value, 3) if unit == "ms" else round(value, 1) if unit == "MiB" else round(value)
        rows.append(compared(name, shown, unit, FRAMEWORK, None if beside is None else round(beside, 3)))
        if "cold" in name:
            rows.append(compared(f"{name}, beside {PYTHON}", shown, unit, PYTHON, fresh[f"cold, {percent}"]))
    return Report("functions", found, [*rows, *_shares(figures)], notes)


def _shares(figures: dict[str, tuple[float, str]]) -> Iterator[Result]:
    """What the second executor adds."""
    for what in ("no effects", "a command each"):
        one, two = (figures[f"events/s in batches, {n}, {what}"][0] for n in ("1 executor", "2 executors"))
        yield Result(f"2 executors by 1, {what}", round(two / one, 2), "times")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    show(bench(), parser.parse_args().json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
