"""Many connections: memory of each, and the latency of those that are active among them.

10,000 boards connect over MQTT and subscribe to their commands; 1,000 of them publish with QoS 1, each event durable
before its PUBACK. Then the same with 500 over TLS. Beside it mosquitto (which keeps messages in memory only), in the
same run.

    python bench/connections.py [--json]
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from ingest import MOSQUITTO, Load, Run, Side, build, cpu_time, load, start_gateway, start_mosquitto
from loop import PLACE, fsync_times
from report import BenchError, Report, Result, command, compared, machine

from devices.authority import Authority

CONNECTIONS = 10_000
"""The gateway's default of `mqtt.max_connections`."""
ACTIVE = 1000
OVER_TLS = 500
RATES = (1000, 5000)
"""Events a second of all active boards together."""
TLS_RATE = 500
ROUNDS = 3
WARM_UP = 0.5
SPARE = 300
"""Files that a gateway has open beside its connections, at most."""
SETTLING = 1.0
"""Seconds before memory is read: what only connecting needed is given back by then."""


class Measured(msgspec.Struct):
    """What connections of one side have cost."""

    memory: float
    """KiB of the daemon for each connection."""
    connecting: float
    """Microseconds of its CPU time for each connection made."""
    rounds: dict[int, list[Run]]
    """By rate."""

    def p(self, name: str, rate: int) -> float:
        """A latency of the median round, milliseconds."""
        micros: float = statistics.median(getattr(run, name) for run in self.rounds[rate])
        return round(micros / 1e3, 3)

    def late(self) -> float:
        """How late the load generator was at worst, milliseconds."""
        return max(run.late for rounds in self.rounds.values() for run in rounds) / 1e3


def proportional_memory(process: int) -> int:
    """KiB: the proportional share (PSS) of a process."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0])
    raise BenchError(f"the memory of process {process} cannot be read")


def raise_limit() -> int:
    """Let this process and those it starts open as many files as the machine allows; returns how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


@contextlib.contextmanager
def connected(program: Path, side: Side, count: int, *more: str) -> Iterator[tuple[Load, float, float]]:
    """`count` connections: the load generator, KiB of the daemon for each, and microseconds of CPU time."""
    daemon = side.processes["daemon"]
    before, used = proportional_memory(daemon), cpu_time(daemon)
    with load(program, side.credentials, side.port, count, *more) as driver:
        used = cpu_time(daemon) - used
        time.sleep(SETTLING)
        yield driver, (proportional_memory(daemon) - before) / count, used * 1e6 / count


def measure(driver: Load, active: int, rate: int, seconds: float) -> Run:
    """One round in an open loop."""
    run = driver.run(active, 1, rate, WARM_UP, seconds)
    if run.acked < run.sent:
        raise BenchError(f"{run.sent - run.acked} of {run.sent} messages were not acknowledged")
    return run


def plain(program: Path, sides: dict[str, Side], count: int, active: int, seconds: float) -> dict[str, Measured]:
    """All connections to one side after the other: memory on a fresh daemon, then the rounds."""
    found = {}
    for name, side in sides.items():
        with connected(program, side, count) as (driver, memory, connecting):
            rounds = {rate: [measure(driver, active, rate, seconds) for _ in range(ROUNDS)] for rate in RATES}
            found[name] = Measured(memory, connecting, rounds)
    return found


def results(found: dict[str, Measured], count: int, active: int) -> Iterator[Result]:
    """The figures of plain connections."""
    ours, theirs = found[""], found.get(MOSQUITTO)
    for what, unit, attribute in (("memory", "KiB", "memory"), ("CPU time to connect", "us", "connecting")):
        peer = round(getattr(theirs, attribute), 2) if theirs else None
        yield compared(
            f"{what} per connection, {count} idle", round(getattr(ours, attribute), 2), unit, MOSQUITTO, peer
        )
    for rate in RATES:
        for name in ("p50", "p99"):
            what = f"publish to PUBACK, {active} active of {count}, {rate} events/s, {name}"
            yield compared(what, ours.p(name, rate), "ms", MOSQUITTO, theirs.p(name, rate) if theirs else None)


def over_tls(folder: Path, seconds: float) -> Iterator[Result]:
    """The figures of connections over TLS, and of as many without it to the same gateway."""
    program = build(folder, tls=True)
    house = folder / "tls"
    house.mkdir()
    authority = Authority(house / "ca")
    now = time.time_ns() // 1000
    authority.make("bench", now)
    authority.renew(["127.0.0.1"], now)
    settings = (
        f'tls_listen = "127.0.0.1:0"\ncertificate = "{authority.server_certificate}"\nkey = "{authority.server_key}"\n'
    )
    with start_gateway(house, OVER_TLS, settings) as (side, client):
        port = next(int(url.rpartition(":")[2]) for url in client.status().mqtt_more if url.startswith("mqtts:"))
        secure = Side(port, side.credentials, side.processes)
        for what, at, more in (("TLS", secure, [str(authority.certificate)]), ("plain", side, [])):
            with connected(program, at, OVER_TLS, *more) as (driver, memory, connecting):
                rounds = [measure(driver, OVER_TLS, TLS_RATE, seconds) for _ in range(ROUNDS)]
                found = Measured(memory, connecting, {TLS_RATE: rounds})
            if (
                what == "TLS"
            ):  # memory that it gave back is used again by what comes after: the second has no such figure
                yield Result(f"memory per connection over TLS, {OVER_TLS} idle", round(memory, 2), "KiB")
            yield Result(f"CPU time to connect, {what}, {OVER_TLS} connections", round(connecting, 1), "us")
            for name in ("p50", "p99"):
                cell = f"{OVER_TLS} active, {TLS_RATE} events/s, {name}"
                yield Result(f"publish to PUBACK, {what}, {cell}", found.p(name, TLS_RATE), "ms")


def bench(seconds: float, place: Path) -> Report:
    """Run it all."""
    notes = ["The gateway acknowledges after an fsync; mosquitto keeps the message in memory only."]
    found = machine()
    most = raise_limit()
    count = min(CONNECTIONS, most - SPARE)
    active = min(ACTIVE, count)
    if count < CONNECTIONS:
        notes.append(f"This machine allows {most} open files: {count} connections instead of {CONNECTIONS}.")
    if count < OVER_TLS:
        raise BenchError(f"This machine allows {most} open files, too few (ulimit -Hn).")
    mosquitto = shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/opt/homebrew/sbin")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-bench-", dir=place)))
        program = build(folder)
        with contextlib.ExitStack() as running:
            sides = {"": running.enter_context(start_gateway(folder / "gateway", count))[0]}
            if mosquitto:
                sides[MOSQUITTO] = running.enter_context(start_mosquitto(folder / "mosquitto", mosquitto, count))[0]
            else:
                notes.append("mosquitto is not installed: not compared with (on Debian: apt install mosquitto).")
            fsyncs = fsync_times(folder)
            measured = plain(program, sides, count, active, seconds)
        rows = list(results(measured, count, active))
        late = max(side.late() for side in measured.values())
        if late > 5:
            notes.append(f"The load generator itself was up to {late:.1f} ms late.")
        try:
            rows += over_tls(folder, seconds)
        except subprocess.CalledProcessError:
            notes.append("The load generator cannot be built with OpenSSL: no TLS (on Debian: apt install libssl-dev).")
        rows.append(Result("a bare fsync on this disk, p50", round(statistics.median(fsyncs), 3), "ms"))
    return Report("connections", found, rows, notes)


if __name__ == "__main__":
    sys.exit(command(bench, __doc__, seconds=2, place=PLACE))
