"""The kinds of boards that scenarios run on, each with its link."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hil import port_board, qemu_board, rp2040_board
from hil.board import Board, BoardConfig, BoardError
from hil.faulty_line import FaultyLine
from hil.faulty_network import FaultyTcp, FaultyUdp
from hil.port_board import PortBoard
from hil.process_board import ProcessBoard
from hil.qemu_board import QemuBoard
from hil.rp2040_board import Rp2040Board
from hil.script import installed
from hil.unix_board import UnixBoard
from hil.wasi_board import WasiBoard

Link = FaultyTcp | FaultyUdp | FaultyLine

PROGRAM = Path(__file__).parent / "bench"
_QUICK = {"patience": 4, "keepalive": 4, "backoff": 1, "queue": 200, "queue_bytes": 20_000}
"""A board's patience in tests, and room for the readings of some 20 s."""
_PROCESS = frozenset({"power", "reset", "buttons", "pins", "link", "journal"})
_PORT = frozenset({"link", "unplug", "presence"})


@dataclass(frozen=True)
class Doors:
    """Where a gateway can be reached."""

    mqtt: int
    """A port of 127.0.0.1."""
    coap: int
    """A port of 127.0.0.1."""
    lines: Path
    """A folder: `tty*` in it are lines of boards with keys, `bare*` of boards that cannot prove anything."""


@dataclass(frozen=True)
class Place:
    """What one board gets for itself."""

    folder: Path
    device: str
    key: str = field(repr=False)
    doors: Doors
    period_ms: int
    image: Path | None = None
    """What a board has to run that this project cannot bring."""

    def config(self, link: str, port: int = 1883) -> BoardConfig:
        """Its settings for this link."""
        options = {**_QUICK, "link": link}
        return BoardConfig(self.device, self.key, port=port, options=options, settings={"period_ms": self.period_ms})

    def line(self, name: str, *, terminal: bool = False) -> FaultyLine:
        """A serial line to the gateway, plugged in."""
        line = FaultyLine(self.doors.lines / f"{name}-{self.device}", terminal=terminal)
        line.plug()
        return line

    def program(self) -> Path:
        """The scenarios' program with a journal, which the example of the greenhouse has."""
        made = self.folder / "program"
        made.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROGRAM / "main.py", made / "main.py")
        journal = Path(__file__).resolve().parent.parent / "examples" / "greenhouse" / "board" / "journal.py"
        shutil.copyfile(journal, made / "journal.py")
        return made


@dataclass(frozen=True)
class Kind:
    """What there is to know of a kind of board on its link."""

    has: frozenset[str]
    """Its capabilities, of `scenario.CAPABILITIES`."""
    missing: Callable[[Path | None], str]
    """Why it cannot be had here with that image, or none; empty where it can."""
    make: Callable[[Place], Awaitable[tuple[Board, Link]]]
    """A board, without power yet, and its link."""


async def _over_tcp(type_: type[ProcessBoard], place: Place) -> tuple[Board, Link]:
    network = FaultyTcp("127.0.0.1", place.doors.mqtt)
    return type_(place.folder, place.program(), place.config("mqtt", await network.start()), heap="256k"), network


async def _over_udp(place: Place) -> tuple[Board, Link]:
    network = FaultyUdp("127.0.0.1", place.doors.coap)
    return UnixBoard(place.folder, place.program(), place.config("coap", await network.start()), heap="256k"), network


async def _on_a_terminal(place: Place) -> tuple[Board, Link]:
    line = place.line("tty", terminal=True)
    board = UnixBoard(place.folder, place.program(), place.config("serial"), heap="256k")
    board.line = line.board
    return board, line


async def _in_qemu(place: Place) -> tuple[Board, Link]:
    line = place.line("bare")
    return QemuBoard(place.folder, place.config("serial"), line), line


async def _rp2040(place: Place) -> tuple[Board, Link]:
    assert place.image is not None
    line = place.line("tty")
    return Rp2040Board(place.folder, PROGRAM / "main.py", place.config("serial"), line, place.image), line


async def _at_port(port: Path, place: Place) -> tuple[Board, Link]:
    line = place.line("tty")
    return PortBoard(port, place.folder, PROGRAM / "main.py", place.config("serial"), line), line


def _no_micropython(machine: str, _: Path | None) -> str:
    return "" if installed(machine) else f"no MicroPython ({machine}): requirements/micropython.txt"


_UNIX = partial(_no_micropython, "unix")

KINDS = {
    "unix": Kind(_PROCESS | {"stream", "network", "presence"}, _UNIX, partial(_over_tcp, UnixBoard)),
    "unix-coap": Kind(_PROCESS | {"network"}, _UNIX, _over_udp),
    "unix-serial": Kind(_PROCESS | {"unplug", "presence"}, _UNIX, _on_a_terminal),
    "wasi": Kind(
        _PROCESS | {"stream", "network", "presence"}, partial(_no_micropython, "wasi"), partial(_over_tcp, WasiBoard)
    ),
    "qemu": Kind(_PROCESS | {"unplug", "presence"} - {"journal"}, lambda _: qemu_board.missing(), _in_qemu),
    "rp2040": Kind(_PORT, rp2040_board.missing, _rp2040),
}
BY_DEFAULT = ("unix", "unix-coap", "unix-serial", "wasi", "qemu")
"""What runs without hardware and without a file that is not there."""


def kind_of(name: str) -> Kind:
    """The kind of board by its name, or the board at the port that is named. Raises BoardError."""
    if name in KINDS:
        return KINDS[name]
    port = Path(name)
    if "/" not in name and not port.exists():
        raise BoardError(f"there is no kind of board '{name}'", hint=f"{', '.join(KINDS)}, or a port: /dev/ttyACM0.")
    return Kind(_PORT, lambda _: port_board.missing(port), partial(_at_port, port))
