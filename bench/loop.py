"""The whole loop: a board publishes an event, a function answers it, the board has the command.

Latency from publish to PUBACK and from publish to command at a fixed rate of events, through the whole gateway (durable
log, sandboxed function, outbox), beside the same loop built from mosquitto and a Python service, in the same run.

    python bench/loop.py [--json]
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from report import BenchError, Report, Result, command, compared, machine

from edge_runtime.planes.client import Client, NotRunning

HERE = Path(__file__).parent
BOARDS = 50
RATES = (100, 1000)
ROUNDS = 3
"""Rounds at each rate, gateway and peer in turn; the median one counts, lest a neighbour's burst of work decides."""
WARM_UP = 0.5
"""Seconds of each round before anything counts."""
PEER = "mosquitto + paho-mqtt service"
PLACE = Path("/var/tmp")
"""Where the gateway's data goes: unlike /tmp, never in memory only, where an fsync would cost nothing."""
START_LIMIT = 120.0
"""Seconds for a start; the gateway may have to build its sandbox guest first."""

APP = """
from edge import App

app = App("bench")


@app.on("climate", where="temperature > 30")
def overheat(event, ctx):
    ctx.command(event.device, "fan", {"on": True})
"""


class Latency(msgspec.Struct):
    """Microseconds."""

    count: int
    p50: float
    p99: float
    max: float


class Run(msgspec.Struct):
    """What the load generator prints."""

    sent: int
    acked: int
    commands: int
    repeated: int
    unreadable: int
    replied: int
    sender_late_max: float
    puback: Latency | None
    command: Latency | None


class Loop(msgspec.Struct):
    """Something boards can connect to."""

    port: int
    credentials: Path


def build_load_generator(folder: Path) -> Path:
    """Compile the load generator."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchError("There is no C compiler 'cc' for the load generator: install gcc or clang.")
    program = folder / "mqttload"
    source = HERE / "load" / "mqttload.c"
    subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    return program


def write_credentials(path: Path, keys: dict[str, str]) -> Path:
    """The file that the load generator reads its boards from."""
    path.touch(mode=0o600)
    path.write_text("".join(f"{device} {key}\n" for device, key in keys.items()))
    return path


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str], log: Path, what: str) -> None:
    """Poll until `ready`, as long as the process lives."""
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.05)
    raise BenchError(f"{what} did not start:\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """End the process on exit."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def start_gateway(folder: Path) -> Iterator[Loop]:
    """A real gateway with its boards registered and the app deployed."""

    def answers() -> bool:
        try:
            client.status()
        except NotRunning:
            return False
        return True

    folder.mkdir()
    config, log = folder / "edge.toml", folder / "gateway.log"
    config.write_text('[mqtt]\nlisten = "127.0.0.1:0"\n')
    with log.open("w") as output:
        command = [sys.executable, "-m", "edge_runtime.cli", "run", "--config", str(config)]
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True
        )
    with running(process), Client(folder / "data" / "edge.sock") as client:
        wait_until(answers, process, log, "the gateway")
        keys = {device: client.add_device(device).key for device in _devices()}
        client.deploy({"bench.py": APP.encode()})
        port = int(client.status().mqtt.rpartition(":")[2])
        yield Loop(port, write_credentials(folder / "boards", keys))


def _devices() -> list[str]:
    return [f"bench-{number}" for number in range(BOARDS)]


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def start_peer(folder: Path, mosquitto: str) -> Iterator[Loop]:
    """mosquitto with the same boards, and the Python service beside it."""
    folder.mkdir()
    keys = {device: secrets.token_hex(32) for device in (*_devices(), "service")}
    passwords = folder / "passwords"
    passwords.touch(mode=0o600)
    passwords.write_text("".join(f"{name}:{key}\n" for name, key in keys.items()))
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config, log = folder / "mosquitto.conf", folder / "mosquitto.log"
    config.write_text(
        # Started by root it would become another user, who cannot read the password file.
        ("user root\n" if os.geteuid() == 0 else "")
        + f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n"
        # Its best: no waiting for Nagle's algorithm, and no queue that runs over.
        "set_tcp_nodelay true\nmax_inflight_messages 1000\nmax_queued_messages 100000\n"
    )
    with log.open("w") as output:
        broker = subprocess.Popen([mosquitto, "-c", str(config)], stdout=output, stderr=output, text=True)
    with running(broker):
        wait_until(lambda: _accepts(port), broker, log, "mosquitto")
        service = subprocess.Popen(
            [sys.executable, str(HERE / "load" / "paho_service.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with running(service):
            assert service.stdin is not None
            assert service.stdout is not None
            service.stdin.write(f"127.0.0.1 {port} service {keys.pop('service')}\n")
            service.stdin.close()
            if service.stdout.readline() != "ready\n":
                raise BenchError("the paho-mqtt service did not start")
            yield Loop(port, write_credentials(folder / "boards", keys))


def measure(program: Path, loop: Loop, rate: int, seconds: float) -> Run:
    """Drive a loop at a rate."""
    command = [str(program), str(loop.credentials), str(loop.port), str(rate), str(WARM_UP), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + seconds)
    # Status 2 says that something did not arrive: the counts tell, and are reported.
    if done.returncode not in (0, 2):
        raise BenchError(done.stderr.strip())
    return msgspec.json.decode(done.stdout, type=Run)


def combined(runs: list[Run]) -> Run:
    """Rounds as one run: counts added up, of latencies the median round, of the sender's lateness the worst."""

    def median(latencies: list[Latency | None]) -> Latency | None:
        found = [latency for latency in latencies if latency is not None]
        if not found:
            return None
        return Latency(
            count=sum(latency.count for latency in found),
            p50=statistics.median(latency.p50 for latency in found),
            p99=statistics.median(latency.p99 for latency in found),
            max=max(latency.max for latency in found),
        )

    return Run(
        sent=sum(run.sent for run in runs),
        acked=sum(run.acked for run in runs),
        commands=sum(run.commands for run in runs),
        repeated=sum(run.repeated for run in runs),
        unreadable=sum(run.unreadable for run in runs),
        replied=sum(run.replied for run in runs),
        sender_late_max=max(run.sender_late_max for run in runs),
        puback=median([run.puback for run in runs]),
        command=median([run.command for run in runs]),
    )


def results(rate: int, ours: Run, theirs: Run | None) -> Iterator[Result]:
    """The figures of one rate."""
    pairs = (
        ("PUBACK", ours.puback, theirs.puback if theirs else None),
        ("command", ours.command, theirs.command if theirs else None),
    )
    for what, mine, peers in pairs:
        for name in ("p50", "p99"):
            if mine is not None:
                value = round(getattr(mine, name) / 1e3, 3)
                peer = round(getattr(peers, name) / 1e3, 3) if peers else None
                yield compared(f"publish to {what}, {rate} events/s, {name}", value, "ms", PEER, peer)
    theirs_lost = _lost(theirs) if theirs else {}
    for what, count in _lost(ours).items():
        yield compared(f"{what}, {rate} events/s", count, "events", PEER, theirs_lost.get(what))


def _lost(run: Run) -> dict[str, int]:
    return {
        "events without a PUBACK": run.sent - run.acked,
        "events without a command": run.sent - run.commands,
        "commands received again": run.repeated,
    }


def fsync_times(folder: Path, count: int = 40) -> list[float]:
    """What the disk itself takes to make 1 KiB durable, milliseconds: the floor under every durable figure."""
    times = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(count):
            started = time.perf_counter()
            file.write(bytes(1024))
            os.fsync(file.fileno())
            times.append((time.perf_counter() - started) * 1e3)
    return times


def bench(seconds: float, place: Path) -> Report:
    """Run it all."""
    notes = [
        "The gateway acknowledges after an fsync; mosquitto keeps the message in memory only.",
        "A latency runs from the moment an event was due, not from when it was sent.",
    ]
    mosquitto = shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/opt/homebrew/sbin")
    found = machine()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-bench-", dir=place)))
        program = build_load_generator(folder)
        gateway = stack.enter_context(start_gateway(folder / "gateway"))
        peer = stack.enter_context(start_peer(folder / "peer", mosquitto)) if mosquitto else None
        if peer is None:
            notes.append("mosquitto is not installed: nothing to compare with (on Debian: apt install mosquitto).")
        rows: list[Result] = []
        fsyncs: list[float] = []
        for rate in RATES:
            mine: list[Run] = []
            peers: list[Run] = []
            for _ in range(ROUNDS):
                fsyncs += fsync_times(folder)
                mine.append(measure(program, gateway, rate, seconds))
                if peer:
                    peers.append(measure(program, peer, rate, seconds))
            ours, theirs = combined(mine), combined(peers) if peers else None
            rows += results(rate, ours, theirs)
            late = max(run.sender_late_max for run in (ours, theirs) if run) / 1e3
            if late > 5:
                notes.append(f"At {rate} events/s the load generator itself was up to {late:.1f} ms late.")
        fsyncs.sort()
        for name, part in (("p50", 0.5), ("p99", 0.99)):
            rows.append(Result(f"a bare fsync on this disk, {name}", round(fsyncs[int(len(fsyncs) * part)], 3), "ms"))
    return Report("loop", found, rows, notes)


if __name__ == "__main__":
    sys.exit(command(bench, __doc__, seconds=2, place=PLACE))
