"""A real board at a serial port: files and resets through its prompt, with mpremote; the port is its line."""

from __future__ import annotations

import asyncio
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
from hil.ports import trouble
from hil.unix_board import OLDEST

LEASE = 100
"""Seconds after which the program gives the prompt back: until then Ctrl-C is a byte like others."""
GIVE_UP = LEASE + 20
"""Seconds after which a board whose prompt is not there is given up."""
_BACK = 30.0
"""Seconds that a port may be away after a reset."""
_ANSWER = 20.0
_COPY = 120.0
_SILENT: set[Path] = set()
"""Ports at which nobody has answered: each is waited for once."""
_WHO = "import sys; print('runs', sys.implementation[0], *sys.implementation[1][:2])"


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
        """Whether it has been started, and its port is there."""
        return self._opened is not None and self.port.exists()

    async def start(self) -> None:
        """Put the program, the firmware and the settings onto the board, and reset it. Raises BoardError."""
        if self._opened is not None:
            raise BoardError(f"board '{self.device}' is running already")
        if why := missing(self.port):
            raise BoardError(why)
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
        """Wait for the prompt, which a program of ours gives back when its lease is over, and look who is there."""
        loop = asyncio.get_running_loop()
        end = loop.time() + (0 if self.port in _SILENT else GIVE_UP)
        while True:
            try:
                said = await self._remote("exec", _WHO)
                break
            except BoardError as error:
                if why := trouble(self.port):
                    raise BoardError(why) from None
                if loop.time() > end:
                    _SILENT.add(self.port)
                    raise BoardError(
                        f"nobody gives MicroPython's prompt at {self.port} in {GIVE_UP} s; the last try: {error}",
                        hint="Press the board's reset button. `edge flash` puts MicroPython onto it.",
                    ) from None
                await asyncio.sleep(1)
        name, *version = said.rpartition("runs ")[2].split()
        if name != "micropython" or tuple(map(int, version)) < OLDEST:
            raise BoardError(
                f"the board at {self.port} runs {name} {'.'.join(version)}; the firmware needs MicroPython "
                f"{'.'.join(map(str, OLDEST))} or later",
                hint="`edge flash` puts a newer one onto it.",
            )

    async def _remote(self, *arguments: str, timeout: float | None = None) -> str:
        timeout = timeout or _ANSWER
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mpremote", "connect", str(self.port), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), timeout)
        except TimeoutError:
            raise BoardError(f"the board at {self.port} does not answer '{arguments[0]}' in {timeout:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        said = output.decode(errors="replace")
        self._log = (self._log + said)[-8192:]
        if process.returncode:
            last = said.strip().rpartition("\n")[2]
            raise BoardError(f"the board at {self.port} does not do '{arguments[0]}': {last}")
        return said

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


def missing(port: Path) -> str:
    """Why scenarios cannot run on the board at a port; empty where they can be tried."""
    if find_spec("mpremote") is None:
        return "mpremote is not installed: pip install 'edge-runtime[flashing]'"
    return trouble(port)
