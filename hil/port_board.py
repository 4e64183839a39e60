"""A real board at a serial port: files and resets through its prompt, with mpremote; the port is its line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hil.board import BoardConfig, BoardError
from hil.faulty_line import FaultyLine
from hil.flash import write_flash
from hil.journal import BoardJournal

LEASE = 100
"""Seconds after which the program gives the prompt back: until then Ctrl-C is a byte like others."""
GIVE_UP = LEASE + 20
"""Seconds after which a board whose prompt is not there is given up."""
_BACK = 30.0
"""Seconds that a port may be away after a reset."""
_COPY = 120.0


class PortBoard:
    """A board whose USB port is at `port`; its power cannot be cut from here, nor its buttons pressed."""

    def __init__(self, port: Path, folder: Path, program: Path, config: BoardConfig, line: FaultyLine) -> None:
        """`folder` is for what is put together here; `line` has no terminal at the board's end."""
        self.port = port
        self.folder = folder
        self.config = config
        self._program = program
        self._line = line
        self._log = ""
        self._opened: Any = None

    @property
    def device(self) -> str:
        """Its device id."""
        return self.config.device

    @property
    def running(self) -> bool:
        """Whether it has been started."""
        return self._opened is not None

    async def start(self) -> None:
        """Put the program, the firmware and the settings onto the board, and reset it. Raises BoardError."""
        if self.running:
            raise BoardError(f"board '{self.device}' is running already")
        if find_spec("mpremote") is None:
            raise BoardError("mpremote is not installed", hint="pip install 'edge-runtime[flashing]'")
        settings = {**self.config.settings, "lease": LEASE}
        config = BoardConfig(self.device, self.config.key, options=self.config.options, settings=settings)
        with tempfile.TemporaryDirectory(dir=self.folder.parent) as made:
            root = Path(made) / "flash"
            await asyncio.to_thread(write_flash, root, self._program, config)
            await self._prompt()
            files = sorted(str(path) for path in root.iterdir())
            await self._remote("cp", "-r", *files, ":", timeout=_COPY)
        await self._remote("reset")
        self._opened = await asyncio.to_thread(self._open)
        self._line.attach(self._opened.fileno())

    async def reset(self) -> None:
        """Start its program anew, once it has given the prompt back."""
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        """Let go of the port; the board runs on, until its lease is over."""
        opened, self._opened = self._opened, None
        if opened is not None:
            self._line.detach()
            opened.close()

    async def kill(self) -> None:
        """The same: a cable that can be cut from here is not there."""
        await self.stop()

    def logs(self) -> str:
        """What mpremote has said; what the board prints goes to the gateway's log."""
        return self._log

    def journal(self, *, last_start: bool = False) -> BoardJournal:
        """Nothing: the board's flash is not worn with a journal."""
        return BoardJournal()

    async def _prompt(self) -> None:
        """Wait for the prompt: a program of ours gives it back when its lease is over."""
        end = asyncio.get_running_loop().time() + GIVE_UP
        while True:
            try:
                await self._remote("exec", "pass")
                return
            except BoardError:
                if asyncio.get_running_loop().time() > end:
                    raise
                await asyncio.sleep(1)

    async def _remote(self, *arguments: str, timeout: float = 20) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mpremote", "connect", str(self.port), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await asyncio.wait_for(process.communicate(), timeout)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise BoardError(f"the board at {self.port} does not answer '{arguments[0]}' in {timeout:g} s") from None
        self._log = (self._log + said.decode(errors="replace"))[-8192:]
        if process.returncode:
            last = self._log.strip().rpartition("\n")[2]
            raise BoardError(f"the board at {self.port} does not do '{arguments[0]}': {last}")

    def _open(self) -> Any:
        """The port, which is away for a moment after a reset of boards that are a USB device themselves."""
        # Not imported before it is needed: most kinds of boards have no port.
        from serial import Serial, SerialException

        end = time.monotonic() + _BACK
        while True:
            try:
                opened = Serial(os.path.realpath(self.port), 115_200, timeout=0, write_timeout=0, exclusive=True)
            except (SerialException, OSError) as error:
                if time.monotonic() > end:
                    raise BoardError(f"{self.port} does not come back after a reset: {error}") from error
                time.sleep(0.2)
            else:
                os.set_blocking(opened.fileno(), False)
                return opened
