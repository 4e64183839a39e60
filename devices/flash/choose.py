"""One board on the bench: which kind it is, and having MicroPython answer on it, by whichever way it is written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from devices.boards import BOARDS, Board, EspFlash
from devices.flash import drive as uf2
from devices.flash import esp
from devices.flash.errors import FlashError, NoAnswer
from devices.flash.images import Image
from devices.flash.ports import Found as Attached
from devices.flash.ports import check, drive_of, find
from devices.flash.prompt import Found, Prompt

PROBE = 12.0
"""Seconds for MicroPython to answer where it may not be: more than mpremote gives a board, whose boot.py may take long.
Who does not is taken for blank, and erased, if the person says so."""
START = 60.0
"""Seconds until it answers after it was written: its first start makes the file system."""
_AGAIN = 0.5
DRIVE = 30.0
"""Seconds for a drive to be mounted."""


class Bench:
    """A board that is connected. `port` is its serial port as far as that is known."""

    def __init__(self, attached: Attached, port: Path | None) -> None:
        self.drive = attached.where if attached.drive else None
        self.port = Path(os.path.abspath(port)) if port is not None else None if attached.drive else attached.where
        self.number = attached.number
        self._kinds = drive_of(attached.where) if attached.drive else attached.boards

    def running(self) -> Found | None:
        """What MicroPython says that runs there; None where none answers. Raises FlashError."""
        if self.drive is not None or self.port is None:
            return None
        check(self.port)
        try:
            return Prompt(self.port).look(timeout=PROBE)
        except NoAnswer:
            return None

    def profile(self, named: Board | None, seen: Board | None) -> Board:
        """The kind of board: the one that was named, it says itself, or that alone it can be. Raises FlashError."""
        if named is not None:
            if seen is not None and seen != named:
                raise FlashError(f"this board is a {seen.title}, not a {named.title}", hint=f"Say --board {seen.name}.")
            if self._kinds and named not in self._kinds:
                kinds = " or ".join(board.title for board in self._kinds)
                raise FlashError(f"what is connected is {kinds}, not {named.title}", hint="Name its --port.")
            return named
        if seen is not None:
            return seen
        if len(self._kinds) == 1:
            return self._kinds[0]
        if self.drive is not None or any(not isinstance(board.flash, EspFlash) for board in self._kinds):
            names = ", ".join(board.name for board in self._kinds or BOARDS.values())
            raise FlashError("a blank board cannot say which of several it is", hint=f"Say --board: {names}.")
        assert self.port is not None
        return esp.chip_at(self.port)

    def write(self, board: Board, image: Image, progress: Callable[[float], None], *, erase: bool) -> None:
        """Write MicroPython; with `erase`, nothing else stays. Raises FlashError."""
        if isinstance(board.flash, EspFlash):
            if self.port is None:
                raise FlashError(f"the {board.title} has no drive", hint="Name its --port.")
            esp.write(self.port, board, image, progress, erase=erase)
            return
        if self.drive is None:
            assert self.port is not None
            try:
                Prompt(self.port).to_boot_loader()
            except NoAnswer as error:
                hint = "Plug it in with BOOTSEL held, and give the same command (with --erase, if its program is why)."
                raise FlashError(str(error), hint=hint) from None
            self.drive = _awaited(lambda: [each.where for each in find() if each.drive], DRIVE)
            if self.drive is None:
                raise FlashError(
                    f"the drive of the {board.title} does not show",
                    hint="Plug it in with BOOTSEL held, mount its drive, and name that with --drive.",
                )
        uf2.write(self.drive, board, image, progress, erase=erase)

    def answers(self, board: Board) -> Found:
        """Return once MicroPython answers after it was written, whatever its port is called then. Raises FlashError."""
        end = time.monotonic() + START
        failed = FlashError(
            f"the {board.title} has not come back as a serial port",
            hint="Unplug it, plug it in again (without BOOTSEL), and give the same command.",
        )
        while time.monotonic() < end:
            port = self.port if self.port is not None and self.port.exists() else self._back(board)
            if port is not None:
                try:
                    found = Prompt(port).look(timeout=max(5.0, end - time.monotonic()))
                    self.port = port
                    return found
                except FlashError as error:
                    failed = error
            time.sleep(_AGAIN)
        raise failed

    def _back(self, board: Board) -> Path | None:
        """The port that such a board has come back with: MicroPython's own USB may have another id than the ROM's."""
        same = [each for each in find() if not each.drive and board in each.boards]
        if self.number:
            same = [each for each in same if _plain(each.number) == _plain(self.number)] or same
        return same[0].where if len(same) == 1 else None


def _plain(number: str) -> str:
    """A USB serial number as all firmwares of a chip write it: some put colons between the bytes."""
    return number.replace(":", "").lower()


def _awaited(look: Callable[[], list[Path]], seconds: float) -> Path | None:
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found[0]
        if time.monotonic() > end:
            return None
        time.sleep(0.3)
