"""A virtual board with the boot loader and two slots: it starts again when its program resets it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from hil.board import firmware_folder

PROGRAM = """
from edge_device import Device

device = Device.load()


@device.every(seconds=0.2)
def climate():
    return {"version": VERSION}


device.run()
"""


def program(version: str, text: str = PROGRAM) -> bytes:
    """A program that sends its version."""
    return text.replace("VERSION", repr(version)).encode()


def release_files(version: str, text: str = PROGRAM) -> dict[str, bytes]:
    """A whole version: the program, and the firmware beside it."""
    package = firmware_folder() / "edge_device"
    files = {f"lib/edge_device/{path.name}": path.read_bytes() for path in package.glob("*.py")}
    return files | {"main.py": program(version, text)}


class UpdatableBoard:
    """A process of the unix port, with a folder as its flash."""

    def __init__(self, folder: Path, settings: Mapping[str, object], *, heap: str = "256k") -> None:
        self.flash = folder / "flash"
        self.starts = 0
        self.settings = dict(settings)
        self._log = folder / "board.log"
        self._heap = heap
        self._line: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        for path, data in release_files("1.0").items():
            target = self.flash / "a" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        for loader in (firmware_folder() / "loader").glob("*.py"):
            shutil.copyfile(loader, self.flash / loader.name)

    async def start(self, line: int | None = None) -> None:
        """Power on; `line` is the descriptor of a serial line that its prompt is on."""
        (self.flash / "edge.json").write_text(json.dumps(self.settings))
        self._line = line
        self._supervisor = asyncio.create_task(self._supervise())

    async def cut(self) -> None:
        """Power off, at once."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _supervise(self) -> None:
        arguments = ["-m", "hil.machine", "unix", "--heap", self._heap, "--parent", str(os.getpid()), str(self.flash)]
        while True:
            self.starts += 1
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *arguments,
                    stdin=asyncio.subprocess.DEVNULL if self._line is None else self._line,
                    stdout=log if self._line is None else self._line,
                    stderr=log,
                )
            await self._process.wait()

    def logs(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def slot(self, name: str) -> dict[str, bytes]:
        """The program in a slot, by path."""
        root = self.flash / name
        found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".")}
