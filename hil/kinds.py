"""The kinds of boards that scenarios run on, each with its link."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hil.board import Board, BoardConfig
from hil.faulty_line import FaultyLine
from hil.faulty_network import FaultyTcp
from hil.qemu_board import QemuBoard
from hil.qemu_board import missing as qemu_missing
from hil.script import installed
from hil.unix_board import UnixBoard
from hil.wasi_board import WasiBoard

BY_DEFAULT = ("unix", "unix-serial", "wasi", "qemu")
"""What runs without hardware and without a file that is not there."""
PROGRAM = Path(__file__).parent / "bench"
_NETWORK = frozenset({"power", "buttons", "pins", "link", "stream", "journal"})
_SERIAL = frozenset({"power", "buttons", "pins", "link", "unplug", "journal"})
_QUICK = {"patience": 4, "keepalive": 4, "backoff": 1, "queue": 200, "queue_bytes": 20_000}
"""A board's patience in tests, and room for the readings of some 20 s."""


@dataclass(frozen=True)
class Doors:
    """Where a gateway can be reached."""

    port: int
    """MQTT, on 127.0.0.1."""
    lines: Path
    """A folder: `tty*` in it are lines of boards with keys, `bare*` of boards that cannot prove anything."""


def has(kind: str) -> frozenset[str]:
    """The capabilities of a kind of board on its link."""
    if kind in ("unix", "wasi"):
        return _NETWORK
    if kind == "unix-serial":
        return _SERIAL
    if kind == "qemu":
        return _SERIAL - {"journal"}
    return frozenset({"link", "unplug"})


def missing(kind: str, image: Path | None) -> str:
    """Why a kind cannot be had on this machine; empty where it can."""
    if kind == "qemu":
        return qemu_missing()
    if kind in ("unix", "unix-serial", "wasi"):
        machine = kind.partition("-")[0]
        return "" if installed(machine) else f"no MicroPython ({machine}): requirements/micropython.txt"
    if kind == "rp2040":
        from hil.rp2040_board import missing as rp2040_missing

        return rp2040_missing(image)
    return "" if Path(kind).exists() else f"there is no port {kind}"


async def make(
    kind: str, folder: Path, device: str, key: str, doors: Doors, period_ms: int, image: Path | None
) -> tuple[Board, FaultyTcp | FaultyLine]:
    """A board, without power yet, and its link."""
    settings = {"period_ms": period_ms}
    if kind in ("unix", "wasi"):
        network = FaultyTcp("127.0.0.1", doors.port)
        config = BoardConfig(device, key, port=await network.start(), options=_QUICK, settings=settings)
        type_ = UnixBoard if kind == "unix" else WasiBoard
        return type_(folder, _program(folder), config, heap="256k"), network
    line = FaultyLine(doors.lines / f"{'bare' if kind == 'qemu' else 'tty'}-{device}", terminal=kind == "unix-serial")
    line.plug()
    options: Mapping[str, object] = {**_QUICK, "link": "serial"}
    config = BoardConfig(device, key, options=options, settings=settings)
    if kind == "unix-serial":
        board = UnixBoard(folder, _program(folder), config, heap="256k")
        board.line = line.board
        return board, line
    if kind == "qemu":
        return QemuBoard(folder, config, line), line
    if kind == "rp2040":
        from hil.rp2040_board import Rp2040Board

        assert image is not None
        return Rp2040Board(folder, PROGRAM / "main.py", config, line, image), line
    from hil.port_board import PortBoard

    return PortBoard(Path(kind), folder, PROGRAM / "main.py", config, line), line


def _program(folder: Path) -> Path:
    """The scenarios' program with a journal, which the example of the greenhouse has."""
    made = folder / "program"
    made.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PROGRAM / "main.py", made / "main.py")
    journal = Path(__file__).resolve().parent.parent / "examples" / "greenhouse" / "board" / "journal.py"
    shutil.copyfile(journal, made / "journal.py")
    return made
