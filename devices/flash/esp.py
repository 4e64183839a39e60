"""Writes MicroPython to an ESP chip, with esptool in a process of its own (it is GPL: it is run, not linked)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from devices.boards import BOARDS, Board, EspFlash
from devices.flash import tools
from devices.flash.errors import FlashError, gone
from devices.flash.images import Image
from devices.flash.ports import check, is_pseudo_terminal

PATIENCE = 600.0
"""Seconds: 4 MiB at 115,200 bits per second take 6 minutes."""
_PROGRESS = re.compile(r"Writing at .*?(\d+\.\d)\s*%")
_CHIP = re.compile(r"(?:Detecting chip type\.*|Chip type:) *(ESP\S+)")
_WRONG_CHIP = re.compile(r"This chip is (\S+), not (\S+?)\.")


def write(
    port: Path,
    board: Board,
    image: Image,
    progress: Callable[[float], None] = lambda part: None,
    *,
    erase: bool = False,
    attempts: int = 7,
) -> None:
    """Write an image and have its hash compared in the chip; `progress` gets what part of it is written.

    With `erase` the whole flash is erased first: files of something else would keep MicroPython from making its file
    system. On a pseudo-terminal the chip's own loader does all the work, and cannot erase all. Raises FlashError.
    """
    flash = board.flash
    assert isinstance(flash, EspFlash)
    check(port)
    pseudo = is_pseudo_terminal(port)
    options = ["--chip", flash.chip, "--port", str(port), "--baud", str(flash.baud)]
    options += ["--connect-attempts", str(attempts)]
    options += ["--before", "no-reset", "--after", "no-reset", "--no-stub"] if pseudo else ["--after", "hard-reset"]
    verb = ["write-flash", *(["--erase-all"] if erase and not pseudo else []), hex(flash.offset), str(image.path)]

    def heard(line: str) -> None:
        found = _PROGRESS.search(line)
        if found:
            progress(float(found[1]) / 100)

    ended = tools.run("esptool", [*options, *verb], heard, timeout=PATIENCE)
    if ended.status == 0:
        progress(1.0)
        return
    raise _failure(ended, port, board)


def _failure(ended: tools.Ended, port: Path, board: Board) -> FlashError:
    said = ended.said
    if not port.exists():
        return gone(str(port))
    wrong = _WRONG_CHIP.search(said)
    if wrong:
        return FlashError(
            f"the chip at {port} is an {wrong[1]}, and {board.name} has an {wrong[2]}",
            hint="Name the right profile with --board; nothing was written.",
        )
    if "Failed to connect" in said or "No serial data received" in said:
        return FlashError(
            f"the {board.title} at {port} does not answer in its boot loader",
            hint="Hold its BOOT button, press RESET (or plug it in) and let BOOT go; then give the same command.",
        )
    if "MD5 of file does not match" in said:
        return FlashError(
            "what stands in the flash is not what was written",
            hint="Give the same command again. If it happens again: another cable or port, or the flash is worn out.",
        )
    if ended.late:
        return FlashError(f"the {board.title} took longer than {PATIENCE:.0f} s", hint="Try another cable or USB port.")
    errors = [line.strip() for line in said.splitlines() if "error" in line.lower()]
    why = errors[-1] if errors else f"esptool has ended with status {ended.status}"
    return FlashError(f"the {board.title} at {port} was not written: {why}", hint="Give the same command again.")


def chip_at(port: Path) -> Board:
    """Ask the chip at a port what it is; raises FlashError, also for one that there is no profile of."""
    check(port)
    before = ["--before", "no-reset", "--after", "no-reset", "--no-stub"] if is_pseudo_terminal(port) else []
    options = ["--port", str(port), "--connect-attempts", "3", *before]
    ended = tools.run("esptool", [*options, "read-mac"], timeout=60)
    found = _CHIP.search(ended.said)
    for board in BOARDS.values():
        if found and isinstance(board.flash, EspFlash) and board.flash.chip == found[1].lower().replace("-", ""):
            return board
    if found:
        raise FlashError(f"there is no profile for the {found[1]} at {port}", hint=f"There is: {', '.join(BOARDS)}.")
    raise FlashError(
        f"nobody at {port} says which board it is: neither MicroPython nor a boot loader answers",
        hint="Hold its BOOT button, press RESET (or plug it in) and let BOOT go; then give the same command.",
    )
