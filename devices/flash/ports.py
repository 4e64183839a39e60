"""Where boards are: serial ports and the drives of boards that wait for their image."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from devices.boards import BOARDS, Board, Uf2Flash, fitting
from devices.flash.errors import busy, forbidden, gone

_PSEUDO_TERMINAL = 136
"""The first of the major numbers that Linux gives to them (`admin-guide/devices.txt`); the last is 143."""
INFO = "INFO_UF2.TXT"


class Listed(Protocol):
    """What pyserial tells of a port."""

    device: str
    vid: int | None
    pid: int | None
    serial_number: str | None


@dataclass(frozen=True)
class Found:
    """A board that is connected, on a serial port or as a drive."""

    where: Path
    boards: tuple[Board, ...]
    """What it can be."""
    usb: str = ""
    """Its USB id."""
    number: str = ""
    """Its USB serial number."""
    drive: bool = False

    @property
    def line(self) -> str:
        """For a person who has to choose."""
        kinds = " or ".join(board.title for board in self.boards) or "unknown"
        return f"{self.where}  {self.usb}  {'drive of a ' if self.drive else ''}{kinds}  {self.number}".rstrip()


def serial_ports() -> Iterable[Listed]:
    """What the system knows; it needs no right of its own."""
    from serial.tools.list_ports import comports

    listed: list[Any] = comports()
    return listed


def find(ports: Callable[[], Iterable[Listed]] = serial_ports, mounts: Path = Path("/proc/self/mounts")) -> list[Found]:
    """All boards that are connected: serial ports with a board's USB id, and mounted UF2 drives."""
    found = []
    for port in sorted(ports(), key=lambda each: each.device):
        kinds = fitting(port.vid, port.pid)
        if kinds:
            usb = f"{port.vid:04x}:{port.pid:04x}"
            found.append(Found(Path(port.device), kinds, usb, port.serial_number or ""))
    for folder in _mounted(mounts):
        kinds = drive_of(folder)
        if kinds:
            found.append(Found(folder, kinds, drive=True))
    return found


def _mounted(mounts: Path) -> list[Path]:
    """Where FAT file systems are mounted: those drives are nothing else."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []
    fields = [line.split(" ") for line in lines]
    return [Path(_unescaped(each[1])) for each in fields if len(each) > 2 and each[2] == "vfat"]


def _unescaped(text: str) -> str:
    """A path as the kernel writes it there: spaces and the like in octal, anything else as it is."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def drive_of(folder: Path) -> tuple[Board, ...]:
    """The boards whose boot loader's drive a folder is, by its INFO_UF2.TXT; none for another folder."""
    try:
        with (folder / INFO).open(encoding="ascii", errors="replace") as file:
            text = file.read(1024)
    except OSError:
        return ()
    ids = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Board-ID:")]
    return tuple(each for each in BOARDS.values() if isinstance(each.flash, Uf2Flash) and each.flash.board_id in ids)


def is_pseudo_terminal(port: Path) -> bool:
    """Whether it has no DTR and RTS, with which a board could be reset."""
    try:
        found = port.stat()
    except OSError:
        return False
    return stat.S_ISCHR(found.st_mode) and 0 <= os.major(found.st_rdev) - _PSEUDO_TERMINAL < 8


class Line(Protocol):
    """An open port. A context manager: leaving it closes the port."""

    def __enter__(self) -> Line: ...

    def __exit__(self, *_: object) -> None: ...

    def read(self) -> bytes:
        """What has come, after a fifth of a second at most. Raises OSError once nothing is connected any more."""
        ...


class _Serial:
    def __init__(self, serial: Any) -> None:
        self._serial = serial

    def __enter__(self) -> _Serial:
        return self

    def __exit__(self, *_: object) -> None:
        self._serial.close()

    def read(self) -> bytes:
        data: bytes = self._serial.read(max(1, self._serial.in_waiting))
        return data


def opened(port: Path, baud: int = 115_200) -> Line:
    """A port to listen on, without the board being reset by that where it can be avoided. Raises FlashError."""
    from serial import Serial

    check(port)
    serial: Any = Serial(None, baud, timeout=0.2, exclusive=True)
    serial.port = str(port)
    serial.dtr = serial.rts = False
    try:
        serial.open()
    except OSError:
        raise gone(str(port)) from None
    return _Serial(serial)


def check(port: Path) -> None:
    """Raise FlashError, which says what to do, for a port that is not there, not ours, or taken by another program."""
    try:
        descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise forbidden(str(port)) from None
        if error.errno == errno.EBUSY:
            raise busy(str(port)) from None
        raise gone(str(port)) from None
    try:
        # The lock that pyserial takes, and with it the gateway and mpremote.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise busy(str(port)) from None
    finally:
        os.close(descriptor)
