"""Durable CoAP ingest: 50 clients POST confirmable events; each 2.04 comes after the event's fsync.

Requests a second and latency of the whole gateway, beside libcoap's own server (in C) and aiocoap's (in Python), which
keep nothing, in the same run.

    python bench/coap.py [--json]
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from loop import (
    PLACE,
    fsync_times,
    running,
    wait_until,
    write_credentials,
)
from report import BenchError, Report, Result, command, compared, machine

from edge_runtime.planes.client import Client, NotRunning

HERE = Path(__file__).parent
CLIENTS = 50
ROUNDS = 3
"""Rounds, the sides in turn; the median one counts."""
WARM_UP = 1.0
LIBCOAP = "libcoap's coap-server, not durable"
AIOCOAP = "aiocoap's server, not durable"


class Run(msgspec.Struct):
    """What the load generator prints; latencies in microseconds."""

    answered: int
    failed: int
    repeated: int
    separate: int
    rate: float
    p50: float
    p99: float


class Side(msgspec.Struct):
    """A server and how it is driven."""

    port: int
    arguments: list[str]
    runs: list[Run] = []

    def rate(self) -> float:
        """Of the median round."""
        return statistics.median(run.rate for run in self.runs)


@contextlib.contextmanager
def gateway(folder: Path) -> Iterator[Side]:
    """A real gateway with a device for each client; an app that wants none of the events is not needed."""

    def answers() -> bool:
        try:
            client.status()
        except NotRunning:
            return False
        return True

    folder.mkdir()
    config, log = folder / "edge.toml", folder / "gateway.log"
    config.write_text('[mqtt]\nlisten = "127.0.0.1:0"\n[coap]\nlisten = "127.0.0.1:0"\n')
    with log.open("w") as output:
        command = [sys.executable, "-m", "edge_runtime.cli", "run", "--config", str(config)]
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True
        )
    with running(process), Client(folder / "data" / "edge.sock") as client:
        wait_until(answers, process, log, "the gateway")
        keys = {f"bench-{number}": client.add_device(f"bench-{number}").key for number in range(CLIENTS)}
        port = int(client.status().coap.rpartition(":")[2])
        yield Side(port, ["post", "-", str(write_credentials(folder / "boards", keys))])


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _pings(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.1)
        probe.connect(("127.0.0.1", port))
        try:
            probe.send(b"\x40\0\0\1")
            return probe.recv(16)[:1] == b"\x70"
        except OSError:
            return False


@contextlib.contextmanager
def libcoap(folder: Path, program: str) -> Iterator[Side]:
    """libcoap's example server, which takes a PUT into memory."""
    port, log = _free_port(), folder / "libcoap.log"
    with log.open("w") as output:
        command = [program, "-A", "127.0.0.1", "-p", str(port), "-v", "0"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True)
    with running(process):
        wait_until(lambda: _pings(port), process, log, "coap-server")
        yield Side(port, ["put", "example_data"])


@contextlib.contextmanager
def aiocoap(folder: Path) -> Iterator[Side]:
    """aiocoap's server with a resource that takes a POST and forgets it."""
    port, log = _free_port(), folder / "aiocoap.log"
    with log.open("w") as output:
        command = [sys.executable, str(HERE / "load" / "aiocoap_server.py"), str(port)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True)
    with running(process):
        wait_until(lambda: _pings(port), process, log, "aiocoap's server")
        yield Side(port, ["post", "events"])


def build_load_generator(folder: Path) -> Path:
    """Compile the load generator."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchError("There is no C compiler 'cc' for the load generator: install gcc or clang.")
    program = folder / "coapload"
    subprocess.run([compiler, "-O2", "-o", str(program), str(HERE / "load" / "coapload.c")], check=True)
    return program


def measure(program: Path, side: Side, seconds: float) -> None:
    """One round against a server."""
    command = [str(program), str(side.port), str(CLIENTS), str(WARM_UP), str(seconds), *side.arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + seconds)
    # Status 2 says that something was refused: the counts tell, and are reported.
    if done.returncode not in (0, 2):
        raise BenchError(done.stderr.strip())
    side.runs.append(msgspec.json.decode(done.stdout, type=Run))


def bench(seconds: float, place: Path) -> Report:
    """Run it all."""
    notes = ["The gateway answers after an fsync; the peers keep nothing on disk, and check no key."]
    program = shutil.which("coap-server-notls") or shutil.which("coap-server")
    found = machine()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-bench-", dir=place)))
        load = build_load_generator(folder)
        ours = stack.enter_context(gateway(folder / "gateway"))
        peers: list[tuple[str, Side]] = []
        if program:
            peers.append((LIBCOAP, stack.enter_context(libcoap(folder, program))))
        else:
            notes.append("libcoap's coap-server is not installed (on Debian: apt install libcoap3-bin).")
        peers.append((AIOCOAP, stack.enter_context(aiocoap(folder))))
        fsyncs: list[float] = []
        for _ in range(ROUNDS):
            fsyncs += fsync_times(folder)
            for side in (ours, *(side for _, side in peers)):
                measure(load, side, seconds)
    rows: list[Result] = []
    for name, peer in peers:
        rows.append(
            compared(f"durable CON POST, {CLIENTS} clients", round(ours.rate()), "req/s", name, round(peer.rate()))
        )
        for quantile in ("p50", "p99"):
            mine, theirs = (
                statistics.median(getattr(run, quantile) for run in side.runs) / 1e3 for side in (ours, peer)
            )
            rows.append(compared(f"request to 2.04, {quantile}", round(mine, 3), "ms", name, round(theirs, 3)))
    for what in ("failed", "repeated", "separate"):
        rows.append(Result(f"requests {_WORDS[what]}", sum(getattr(run, what) for run in ours.runs), "requests"))
    fsyncs.sort()
    rows.append(Result("a bare fsync on this disk, p50", round(fsyncs[len(fsyncs) // 2], 3), "ms"))
    return Report("coap", found, rows, notes)


_WORDS = {"failed": "refused", "repeated": "sent again after 2 s", "separate": "answered separately"}


if __name__ == "__main__":
    sys.exit(command(bench, __doc__, seconds=3, place=PLACE))
