"""What every benchmark shares: the machine, the results, and how they are shown."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from edge_runtime.streams import engine


class BenchError(Exception):
    """The benchmark cannot run; says why."""


class Machine(msgspec.Struct, frozen=True):
    """Where the figures come from."""

    cpu: str
    cores: int
    python: str
    kernel: str
    load: float
    """The load average of the last minute before the run: above 0, others were at work too."""
    machines: str
    """"compiled" or "interpreted": docs/adr/0031-compiled-machines.md."""


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """One figure, and the peer's in the same run where there is one. `ratio` is ours by theirs."""

    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None


class Report(msgspec.Struct, frozen=True):
    """One run of one benchmark."""

    bench: str
    machine: Machine
    results: list[Result]
    notes: list[str] = []


def machine() -> Machine:
    """This machine."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        kernel=platform.release(),
        load=round(os.getloadavg()[0], 2),
        machines="interpreted" if engine.__file__.endswith(".py") else "compiled",
    )


def _cpu() -> str:
    """The processor's name: /proc/cpuinfo on x86, the board's on ARM."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def compared(name: str, value: float, unit: str, peer: str, peer_value: float | None) -> Result:
    """A result beside a peer's; without a peer's value, one that stands alone."""
    if peer_value is None:
        return Result(name, value, unit)
    return Result(name, value, unit, peer, peer_value, round(value / peer_value, 3) if peer_value else None)


def show(report: Report, as_json: bool) -> None:
    """Print a report: one JSON object, or a table for people."""
    if as_json:
        print(msgspec.json.encode(report).decode())
        return
    console = Console()
    at = report.machine
    table = Table(
        title=f"{report.bench} on {at.cores} x {at.cpu}, Python {at.python} ({at.machines} machines), load {at.load}"
    )
    table.add_column("what")
    for heading in ("value", "peer", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    for result in report.results:
        peer = "" if result.peer_value is None else f"{result.peer_value:g}"
        ratio = "" if result.ratio is None else f"{result.ratio:.2f}"
        table.add_row(result.name, f"{result.value:g}", peer, ratio, result.unit)
    console.print(table)
    for peer in sorted({result.peer for result in report.results if result.peer}):
        console.print(f"peer: {peer}")
    for note in report.notes:
        console.print(note)


def command(bench: Callable[[float, Path], Report], about: str | None, *, seconds: float, place: Path) -> int:
    """The command line of a benchmark that takes the measured time of a round and a folder for its data."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"measured time of a round (default: {seconds})")
    parser.add_argument("--place", type=Path, default=place, help=f"folder for the data (default: {place})")
    arguments = parser.parse_args()
    try:
        report = bench(arguments.seconds, arguments.place)
    except (BenchError, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    show(report, arguments.json)
    return 0
