"""A micro:bit in QEMU: a Cortex-M0 with 16 KB of RAM, MicroPython 1.9.2, its UART, its buttons and its pins."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

from hil.board import BoardConfig, BoardError, firmware_folder
from hil.faulty_line import FaultyLine
from hil.journal import BoardJournal
from hil.microbit import FIRMWARE, INLINED, image, known
from hil.subset import Subset, take

EMULATOR = "qemu-system-arm"
_BUTTONS = {"a": 17, "b": 26}
"""Pins of the buttons; low is pressed."""
_PRESSED = b"events/button"
"""What the board sends when it has seen a button go down."""
_TURNS = 6
"""Ends of frames after which its program has looked at its buttons since: it does so before each frame."""
_OUTPUTS = 0x50000504
"""The register of what the pins are set to."""
_PIN0 = 1 << 3
_ANSWER_TIMEOUT = 20.0
_POLL = 0.02


class QemuBoard:
    """One board on a serial line; `folder` holds its image and what the emulator says."""

    def __init__(self, folder: Path, config: BoardConfig, line: FaultyLine) -> None:
        """`line` has no terminal at the board's end. Of the settings, `period_ms` is known."""
        self.folder = folder
        self.config = config
        self._line = line
        self._process: asyncio.subprocess.Process | None = None
        self._uart: socket.socket | None = None
        self._test: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._monitor: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def device(self) -> str:
        """Its device id."""
        return self.config.device

    @property
    def running(self) -> bool:
        """Whether the emulator runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Power on. Raises BoardError."""
        if self.running:
            raise BoardError(f"board '{self.device}' is running already")
        why = missing()
        if why:
            raise BoardError(why, hint="sudo apt install qemu-system-arm firmware-microbit-micropython")
        self.folder.mkdir(parents=True, exist_ok=True)
        hexfile = self.folder / "microbit.hex"
        period = self.config.settings.get("period_ms", 1000)
        hexfile.write_text(image(FIRMWARE.read_text(), program(self.device, period).pieces))
        ours, uart = socket.socketpair()
        test, tested = socket.socketpair()
        control, controlled = socket.socketpair()
        command = [EMULATOR, "-M", "microbit", "-nographic", "-nodefaults", "-device", f"loader,file={hexfile}"]
        for name, end in (("uart", uart), ("qtest", tested), ("qmp", controlled)):
            command += ["-chardev", f"socket,id={name},fd={end.fileno()}"]
        command += ["-serial", "chardev:uart", "-qtest", "chardev:qtest", "-qtest-log", "none"]
        command += ["-mon", "chardev=qmp,mode=control"]
        with uart, tested, controlled, (self.folder / "board.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "hil.tied", str(os.getpid()), *command],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(uart.fileno(), tested.fileno(), controlled.fileno()),
                start_new_session=True,
            )
        ours.setblocking(False)
        self._uart = ours
        self._test = await asyncio.open_connection(sock=test)
        self._monitor = await asyncio.open_connection(sock=control)
        self._line.attach(ours.fileno())
        await self.pin()  # it answers, so it runs

    async def stop(self) -> None:
        """Power off: the board has no way to be told before."""
        await self.kill()

    async def kill(self) -> None:
        """Cut the power."""
        process = self._process
        if process is None or self._uart is None:
            return
        self._line.detach()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        self._uart.close()
        self._uart = None
        for _, writer in filter(None, (self._test, self._monitor)):
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def reset(self) -> None:
        """The processor begins anew, whatever it was doing; its line stays where it is."""
        for question in ("qmp_capabilities", "system_reset"):
            await self._order(question)

    async def press(self, button: str) -> None:
        """Press and release a button: `a` or `b`."""
        if button not in _BUTTONS:
            raise BoardError(f"a micro:bit has no button '{button}'", hint="Its buttons are a and b.")
        # Released first: an input that nothing was said about yet reads low, as if pressed.
        await self._set(button, 1, lambda sent: sent.count(0) >= _TURNS)
        await self._set(button, 0, lambda sent: _PRESSED in sent)
        await self._set(button, 1, lambda sent: sent.count(0) >= _TURNS)

    async def _set(self, button: str, level: int, seen: Callable[[bytes], bool]) -> None:
        """Set a button's pin, and wait until what the board sends on its line shows that it has seen that."""
        heard = self._line.heard
        await self._ask(f"set_irq_in /machine/nrf51 unnamed-gpio-in {_BUTTONS[button]} {level}")
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                while not seen(self._line.since(heard)):
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise BoardError(
                f"board '{self.device}' does not look at button '{button}'; it sent {self._line.since(heard)!r}"
            ) from None

    async def pin(self) -> bool:
        """Whether pin 0 is on."""
        return bool(int(await self._ask(f"readl {_OUTPUTS}"), 16) & _PIN0)

    def logs(self) -> str:
        """What the emulator has said; what the board prints goes out on its line, to the gateway's log."""
        try:
            return (self.folder / "board.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def journal(self, *, last_start: bool = False) -> BoardJournal:
        """Nothing: this board has no room to write down what it did."""
        return BoardJournal()

    async def _ask(self, question: str) -> str:
        """Say something to the test port, where pins are."""
        async for line in self._answers(self._test, question):
            if line.startswith("OK"):
                return line[2:].strip()
            if not line.startswith("IRQ"):
                break
        raise BoardError(f"the emulator does not understand '{question}': {line}")

    async def _order(self, name: str) -> None:
        """Have the emulator's monitor (QMP) do something."""
        async for line in self._answers(self._monitor, json.dumps({"execute": name})):
            answer = json.loads(line)
            if "return" in answer:
                return
            if "error" in answer:
                break
        raise BoardError(f"the emulator does not do '{name}': {line}")

    async def _answers(
        self, port: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None, question: str
    ) -> AsyncIterator[str]:
        if port is None or not self.running:
            raise BoardError(f"board '{self.device}' has no power")
        reader, writer = port
        writer.write(question.encode() + b"\n")
        while True:
            line = (await asyncio.wait_for(reader.readline(), _ANSWER_TIMEOUT)).decode().strip()
            if not line:
                raise BoardError(f"the emulator has ended: {self.logs()[-500:].strip()}")
            yield line


def program(device: str, period_ms: object) -> Subset:
    """What runs on the board: `firmware/boards/microbit/main.py` with what it needs of `edge_device`."""
    folder = firmware_folder()
    source = (folder / "boards" / "microbit" / "main.py").read_text()
    return take(
        folder / "edge_device", source, {**known(source, device), "DEVICE": device, "PERIOD": period_ms}, INLINED
    )


def missing() -> str:
    """What this machine lacks to run such a board; empty where it lacks nothing."""
    if shutil.which(EMULATOR) is None:
        return f"{EMULATOR} is not installed (Debian package qemu-system-arm)"
    if not FIRMWARE.is_file():
        return f"there is no {FIRMWARE} (Debian package firmware-microbit-micropython)"
    return ""
