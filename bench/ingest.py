"""Durable MQTT ingest: boards publish with QoS 1; each PUBACK comes after the event's fsync.

Messages a second, latency of the PUBACK and CPU time per message of the whole gateway, as `edge run` starts it, beside
mosquitto (which keeps messages in memory only), mosquitto with a subscriber that writes into SQLite, and amqtt, in the
same run.

    python bench/ingest.py [--json]
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from loop import PLACE, fsync_times, running, wait_until, write_credentials
from report import BenchError, Report, Result, command, compared, machine

from devices.credentials import new_key
from devices.exchange import DeviceLine, KeyLine
from edge_runtime.planes.client import Client, NotRunning

HERE = Path(__file__).parent
CELLS = ((50, 1), (500, 1), (50, 16))
"""Connections, and messages that each has under way."""
ROUNDS = 3
"""Rounds of each cell, the sides in turn; the median one counts."""
WARM_UP = 0.3
"""Seconds of each round before anything counts."""
START = 1_600_000_000_000_000
"""When the benchmark's devices were made: any moment that is past."""
DRAIN = 60.0
"""Seconds for the SQLite writer to catch up after a round."""
MOSQUITTO = "mosquitto, not durable"
STACK = "mosquitto + paho-mqtt + SQLite"
AMQTT = "amqtt, not durable"
_CHUNK = 2000
_SYSTEM = "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/opt/homebrew/sbin"


class Run(msgspec.Struct):
    """What the load generator prints of a run; latencies in microseconds."""

    sent: int
    acked: int
    unexpected: int
    rate: float
    late: float
    p50: float = 0
    p99: float = 0
    max: float = 0


class Load:
    """The load generator with its connections."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        if self._line() != "connected\n":
            raise BenchError("the load generator could not connect")

    def run(self, active: int, window: int, rate: float, warm_up: float, seconds: float) -> Run:
        """Drive the server: the first `active` connections, in a closed loop where `rate` is 0."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{active} {window} {rate} {warm_up} {seconds}\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._line(), type=Run)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("the load generator has ended: its last words are above")
        return line


class Side(msgspec.Struct):
    """A server and how its figures are taken."""

    port: int
    credentials: Path
    processes: dict[str, int]
    """What is to be charged for CPU time, and its process id."""
    stored: Callable[[], int] | None = None
    """How many messages are on the disk, where that is later than the PUBACK."""


class Measured(msgspec.Struct):
    """One round of one side."""

    run: Run
    rate: float
    """Messages a second: acknowledged, or stored where that is later."""
    cpu: dict[str, float]
    """Microseconds of CPU time for each message."""


def build(folder: Path, *, tls: bool = False) -> Path:
    """Compile the load generator."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchError("There is no C compiler 'cc' for the load generator: install gcc or clang.")
    program = folder / ("ingestload-tls" if tls else "ingestload")
    more = ["-DWITH_TLS", "-lssl", "-lcrypto"] if tls else []
    source = HERE / "load" / "ingestload.c"
    subprocess.run([compiler, "-O2", "-o", str(program), str(source), *more], check=True)
    return program


@contextlib.contextmanager
def load(program: Path, credentials: Path, port: int, connections: int, *more: str) -> Iterator[Load]:
    """The load generator, connected."""
    command = [str(program), str(credentials), str(port), str(connections), *more]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with running(process):
        yield Load(process)


def devices(count: int) -> tuple[list[DeviceLine], dict[str, str]]:
    """Devices to import, and the key of each."""
    lines, keys = [], {}
    for number in range(count):
        device = f"bench-{number}"
        keys[device], digest = new_key()
        lines.append(DeviceLine(device, START, [KeyLine("1", "token", digest, START)]))
    return lines, keys


@contextlib.contextmanager
def start_gateway(folder: Path, count: int, settings: str = "") -> Iterator[tuple[Side, Client]]:
    """A real gateway in a process of its own, with `count` devices; its settings are the defaults but for the ports."""

    def answers() -> bool:
        try:
            client.status()
        except NotRunning:
            return False
        return True

    folder.mkdir(exist_ok=True)
    config, log = folder / "edge.toml", folder / "gateway.log"
    config.write_text(f'[mqtt]\nlisten = "127.0.0.1:0"\n{settings}')
    with log.open("w") as output:
        command = [sys.executable, "-m", "edge_runtime.cli", "run", "--config", str(config)]
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True
        )
    with running(process), Client(folder / "data" / "edge.sock") as client:
        wait_until(answers, process, log, "the gateway")
        lines, keys = devices(count)
        for first in range(0, count, _CHUNK):
            client.import_devices(lines[first : first + _CHUNK])
        port = int(client.status().mqtt.rpartition(":")[2])
        charged = {"daemon": process.pid, "writer": _child(process.pid, "edge_runtime.journal.sqlite.writer")}
        yield Side(port, write_credentials(folder / "boards", keys), charged), client


def _child(parent: int, words: str) -> int:
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            if words in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
    raise BenchError(f"the process {parent} has no child '{words}'")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def start_mosquitto(folder: Path, program: str, count: int) -> Iterator[tuple[Side, str]]:
    """mosquitto with the same boards, and the key of one more user, `writer`."""
    folder.mkdir()
    keys = {f"bench-{number}": secrets.token_hex(32) for number in range(count)}
    extra = secrets.token_hex(32)
    passwords = folder / "passwords"
    passwords.touch(mode=0o600)
    passwords.write_text("".join(f"{name}:{key}\n" for name, key in (*keys.items(), ("writer", extra))))
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
    port = _free_port()
    config, log = folder / "mosquitto.conf", folder / "mosquitto.log"
    config.write_text(
        # Started by root it would become another user, who cannot read the password file.
        ("user root\n" if os.geteuid() == 0 else "")
        + f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n"
        # Its best: no waiting for Nagle's algorithm, and no queue that runs over.
        "set_tcp_nodelay true\nmax_inflight_messages 1000\nmax_queued_messages 10000000\n"
    )
    with log.open("w") as output:
        broker = subprocess.Popen([program, "-c", str(config)], stdout=output, stderr=output, text=True)
    with running(broker):
        wait_until(lambda: _accepts(port), broker, log, "mosquitto")
        yield Side(port, write_credentials(folder / "boards", keys), {"daemon": broker.pid}), extra


@contextlib.contextmanager
def start_stack(folder: Path, program: str, count: int) -> Iterator[Side]:
    """mosquitto, and the subscriber that writes into SQLite beside it."""
    with start_mosquitto(folder, program, count) as (side, key):
        service = subprocess.Popen(
            [sys.executable, str(HERE / "load" / "sqlite_writer.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with running(service):
            assert service.stdin is not None
            assert service.stdout is not None
            path = folder / "events.db"
            service.stdin.write(f"127.0.0.1 {side.port} writer {key} {path}\n")
            service.stdin.close()
            if service.stdout.readline() != "ready\n":
                raise BenchError("the SQLite writer did not start")
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:

                def stored() -> int:
                    return int(database.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0])

                yield Side(side.port, side.credentials, {**side.processes, "writer": service.pid}, stored)


@contextlib.contextmanager
def start_amqtt(folder: Path, program: str, count: int) -> Iterator[Side]:
    """amqtt as a broker that lets everybody in (its passwords are argon2: they would only make the start longer)."""
    folder.mkdir()
    port, config, log = _free_port(), folder / "amqtt.yaml", folder / "amqtt.log"
    config.write_text(
        f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{port}\n"
        "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
    )
    with log.open("w") as output:
        broker = subprocess.Popen([program, "-c", str(config)], stdout=output, stderr=output, text=True)
    with running(broker):
        wait_until(lambda: _accepts(port), broker, log, "amqtt")
        keys = {f"bench-{number}": "none" for number in range(count)}
        yield Side(port, write_credentials(folder / "boards", keys), {"daemon": broker.pid})


def cpu_time(process: int) -> float:
    """Seconds that a process has used, its threads included."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(driver: Load, side: Side, connections: int, window: int, seconds: float) -> Measured:
    """One round."""
    before = {what: cpu_time(process) for what, process in side.processes.items()}
    there = side.stored() if side.stored else 0
    started = time.monotonic()
    run = driver.run(connections, window, 0, WARM_UP, seconds)
    if run.acked < run.sent:
        raise BenchError(f"{run.sent - run.acked} of {run.sent} messages were not acknowledged")
    rate = run.rate
    if side.stored:
        while side.stored() < there + run.acked:
            if time.monotonic() > started + DRAIN:
                raise BenchError(f"the SQLite writer had not stored everything after {DRAIN:.0f} s")
            time.sleep(0.01)
        rate = run.acked / (time.monotonic() - started)
    cpu = {what: (cpu_time(process) - before[what]) * 1e6 / run.acked for what, process in side.processes.items()}
    return Measured(run, rate, cpu)


def _middle(rounds: list[Measured], figure: Callable[[Measured], float]) -> float:
    return statistics.median(figure(measured) for measured in rounds)


def results(connections: int, window: int, rounds: dict[str, list[Measured]]) -> Iterator[Result]:
    """The figures of one cell; the gateway's rounds are those of the name ""."""
    cell = f"{connections} connections, {window} under way"
    ours = rounds[""]
    figures: list[tuple[str, str, int, Callable[[Measured], float]]] = [
        ("durable QoS 1", "msg/s", 0, lambda measured: measured.rate),
        ("PUBACK p50", "ms", 3, lambda measured: measured.run.p50 / 1e3),
        ("PUBACK p99", "ms", 3, lambda measured: measured.run.p99 / 1e3),
        ("CPU of the daemon", "us/msg", 1, lambda measured: measured.cpu["daemon"]),
        ("CPU of daemon and writer", "us/msg", 1, lambda measured: sum(measured.cpu.values())),
    ]
    peers = [name for name in rounds if name]
    for what, unit, digits, figure in figures:
        value = round(_middle(ours, figure), digits)
        if not peers:
            yield Result(f"{what}, {cell}", value, unit)
        for peer in peers:
            yield compared(f"{what}, {cell}", value, unit, peer, round(_middle(rounds[peer], figure), digits))


def find_amqtt() -> str | None:
    """The program `amqtt`: of this environment, or on the path."""
    return shutil.which("amqtt", path=str(Path(sys.executable).parent)) or shutil.which("amqtt")


def bench(seconds: float, place: Path) -> Report:
    """Run it all."""
    notes = [
        "The gateway acknowledges after an fsync. mosquitto and amqtt keep nothing on disk.",
        "Of mosquitto + paho-mqtt + SQLite, msg/s is what was stored, the time after the last PUBACK included.",
    ]
    mosquitto, amqtt = shutil.which("mosquitto", path=_SYSTEM), find_amqtt()
    count = max(connections for connections, _ in CELLS)
    found = machine()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-bench-", dir=place)))
        program = build(folder)
        sides = {"": stack.enter_context(start_gateway(folder / "gateway", count))[0]}
        if mosquitto:
            sides[MOSQUITTO] = stack.enter_context(start_mosquitto(folder / "mosquitto", mosquitto, count))[0]
            sides[STACK] = stack.enter_context(start_stack(folder / "stack", mosquitto, count))
        else:
            notes.append("mosquitto is not installed: not compared with (on Debian: apt install mosquitto).")
        if amqtt:
            sides[AMQTT] = stack.enter_context(start_amqtt(folder / "amqtt", amqtt, count))
        else:
            notes.append(
                "amqtt is not installed: not compared with (pip install amqtt, best in an environment of its own)."
            )
        rows: list[Result] = []
        fsyncs: list[float] = []
        for connections, window in CELLS:
            rounds: dict[str, list[Measured]] = {name: [] for name in sides}
            for _ in range(ROUNDS):
                fsyncs += fsync_times(folder)
                for name, side in sides.items():
                    with load(program, side.credentials, side.port, connections) as driver:
                        rounds[name].append(measure(driver, side, connections, window, seconds))
            rows += results(connections, window, rounds)
        fsyncs.sort()
        rows.append(Result("a bare fsync on this disk, p50", round(fsyncs[len(fsyncs) // 2], 3), "ms"))
    return Report("ingest", found, rows, notes)


if __name__ == "__main__":
    sys.exit(command(bench, __doc__, seconds=1, place=PLACE))
