"""What the quiet feel of one that floods: the latency of 50 boards, alone and beside one that sends as fast as it can.

50 boards publish together 200 events a second with QoS 1, each durable before its PUBACK; one more has 64 messages
under way all the time. With the gateway's default pace, and with none. Beside it mosquitto (which keeps messages in
memory only), in the same run.

    python bench/flood.py [--json]
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
from ingest import MOSQUITTO, Run, Side, build, load, start_gateway, start_mosquitto
from loop import PLACE, fsync_times
from report import BenchError, Report, Result, command, compared, machine

QUIET = 50
RATE = 200
"""Events a second of the quiet ones together."""
WINDOW = 64
"""Messages that the one who floods has under way."""
ROUNDS = 3
HEAD_START = 2.0
"""Seconds that the flood is on before the quiet ones begin: its burst is over by then where it has a pace."""
WARM_UP = 0.3
NO_PACE = "[admission]\nrate = 0\nbytes = 0\n"


class Measured(msgspec.Struct):
    """Rounds of one side."""

    alone: list[Run] = []
    beside: list[Run] = []
    flood: list[Run] = []

    def p(self, rounds: list[Run], name: str) -> float:
        """A latency of the median round, milliseconds."""
        micros: float = statistics.median(getattr(run, name) for run in rounds)
        return round(micros / 1e3, 3)

    def rate(self) -> float:
        """Messages a second of the one who floods."""
        return round(statistics.median(run.rate for run in self.flood))


def _last_board(side: Side) -> Path:
    """The credentials of the board behind the quiet ones, in a file of its own."""
    path = side.credentials.with_name("flooding")
    path.touch(mode=0o600)
    path.write_text(side.credentials.read_text().splitlines(keepends=True)[QUIET])
    return path


def measure(program: Path, side: Side, seconds: float, found: Measured) -> None:
    """One round: the quiet ones alone, then beside the flood."""
    with load(program, side.credentials, side.port, QUIET) as quiet:
        found.alone.append(quiet.run(QUIET, 1, RATE, WARM_UP, seconds))
        with load(program, _last_board(side), side.port, 1) as flooding:
            whole = HEAD_START + WARM_UP + seconds
            thread = threading.Thread(
                target=lambda: found.flood.append(flooding.run(1, WINDOW, 0, HEAD_START, whole - HEAD_START))
            )
            thread.start()
            time.sleep(HEAD_START)
            beside = quiet.run(QUIET, 1, RATE, WARM_UP, seconds)
            thread.join()
    for run in (found.alone[-1], beside):
        if run.acked < run.sent:
            raise BenchError(f"{run.sent - run.acked} of {run.sent} messages were not acknowledged")
    found.beside.append(beside)


def bench(seconds: float, place: Path) -> Report:
    """Run it all."""
    notes = ["The gateway acknowledges after an fsync; mosquitto keeps the message in memory only, and has no pace."]
    mosquitto = shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/opt/homebrew/sbin")
    at = machine()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-bench-", dir=place)))
        program = build(folder)
        sides = {
            "its pace": stack.enter_context(start_gateway(folder / "paced", QUIET + 1))[0],
            "no pace": stack.enter_context(start_gateway(folder / "free", QUIET + 1, NO_PACE))[0],
        }
        if mosquitto:
            sides[MOSQUITTO] = stack.enter_context(start_mosquitto(folder / "mosquitto", mosquitto, QUIET + 1))[0]
        else:
            notes.append("mosquitto is not installed: not compared with (on Debian: apt install mosquitto).")
        fsyncs = fsync_times(folder)
        found = {name: Measured() for name in sides}
        for _ in range(ROUNDS):
            for name, side in sides.items():
                measure(program, side, seconds, found[name])
    theirs = found.pop(MOSQUITTO, None)
    rows = []
    for how, ours in found.items():
        for name in ("p50", "p99"):
            for what, rounds, peer in (
                ("alone", ours.alone, theirs.alone if theirs else None),
                ("beside a flood", ours.beside, theirs.beside if theirs else None),
            ):
                value = theirs.p(peer, name) if theirs and peer else None
                rows.append(
                    compared(f"quiet boards {what}, {how}, {name}", ours.p(rounds, name), "ms", MOSQUITTO, value)
                )
        rows.append(compared(f"the flood, {how}", ours.rate(), "msg/s", MOSQUITTO, theirs.rate() if theirs else None))
    rows.append(Result("a bare fsync on this disk, p50", round(statistics.median(fsyncs), 3), "ms"))
    return Report("flood", at, rows, notes)


if __name__ == "__main__":
    sys.exit(command(bench, __doc__, seconds=2, place=PLACE))
