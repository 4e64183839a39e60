"""What all boards that are processes on this machine have in common."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hil.board import JOURNAL, BoardConfig, BoardError
from hil.flash import write_flash
from hil.journal import BoardJournal, read_journal

_STOP_TIMEOUT = 5.0
"""Seconds that a board gets to end itself; it does so at once, unless the machine is overloaded."""

_LOG_TAIL = 64 * 1024


class ProcessBoard:
    """A board that runs as a process; `folder` holds its file system (`flash/`) and its log (`board.log`)."""

    machine: str
    """What `python -m hil.machine` is to run."""
    ports: Sequence[Path] = ()
    """Files that the firmware needs on this kind of board."""
    line: int | None = None
    """The descriptor of the serial line that its prompt is on, where it has one: what it prints goes there."""

    def __init__(self, folder: Path, program: Path, config: BoardConfig, *, heap: str = "128k") -> None:
        self.folder = folder
        self.config = config
        self._program = program
        self._heap = heap
        self._process: asyncio.subprocess.Process | None = None
        self._journal_start = 0

    @property
    def device(self) -> str:
        """Its device id."""
        return self.config.device

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """Its process, while it is running."""
        return self._process.pid if self._process is not None and self.running else None

    async def start(self) -> None:
        """Flash the program and run it. Raises BoardError."""
        if self.running:
            raise BoardError(f"board '{self.device}' is running already")
        root = self.folder / "flash"
        await asyncio.to_thread(write_flash, root, self._program, self.config, self.ports)
        (root / "buttons").unlink(missing_ok=True)
        await self._run(root)

    async def reset(self) -> None:
        """Start the program anew, with the file system as it is at this moment."""
        await self.kill()
        await self._run(self.folder / "flash")

    async def _run(self, root: Path) -> None:
        self._journal_start = self._journal_file.stat().st_size if self._journal_file.exists() else 0
        # The key stands in the settings file only; neither the arguments nor the environment show it.
        arguments = ["-m", "hil.machine", self.machine, "--heap", self._heap, "--parent", str(os.getpid()), str(root)]
        log = os.open(self.folder / "board.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL if self.line is None else self.line,
                stdout=log if self.line is None else self.line,
                stderr=log,
                start_new_session=True,  # Ctrl-C on the terminal is for the one who started the board
            )
        except OSError as error:
            raise BoardError(f"board '{self.device}' cannot be started: {error}") from error
        finally:
            os.close(log)

    async def stop(self) -> None:
        """End the process, with SIGKILL if it does not heed SIGTERM."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def kill(self) -> None:
        """End the process with SIGKILL, as a loss of power would."""
        process = self._process
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def wait(self) -> int:
        """Wait until the program ends by itself; its exit status."""
        if self._process is None:
            raise BoardError(f"board '{self.device}' has not been started")
        return await self._process.wait()

    def logs(self) -> str:
        """What it has printed, over all starts: at most the last 64 KiB."""
        try:
            with open(self.folder / "board.log", "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL))
                return file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    async def press(self, button: str) -> None:
        """Press a button, for programs that read presses from `/buttons` as `hil/bench/main.py` does."""
        await asyncio.to_thread(_append, self.folder / "flash" / "buttons", button)

    async def pin(self) -> bool:
        """Whether the output is on, of programs that keep it in `/pin`."""
        file = self.folder / "flash" / "pin"
        return file.exists() and await asyncio.to_thread(file.read_text) == "on"

    @property
    def _journal_file(self) -> Path:
        return self.folder / "flash" / JOURNAL.lstrip("/")

    def journal(self, *, last_start: bool = False) -> BoardJournal:
        """What its program wrote down, over all starts or since the last one."""
        return read_journal(self._journal_file, self.device, after=self._journal_start if last_start else 0)


def _append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)
