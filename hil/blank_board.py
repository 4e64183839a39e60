"""A board fresh from its bag, at the end of a pseudo-terminal: first the boot loader in its ROM, then MicroPython.

What is written to its flash decides nothing but when it starts: the MicroPython that then runs is the unix port, with
a real littlefs (`raw_repl.py`). A pseudo-terminal has no DTR and RTS; in their place, the board starts anew
whenever the port is closed while its flash holds an image.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import select
import signal
import subprocess
import threading
import time
import tty
from pathlib import Path

from hil import raw_repl
from hil.board import BoardError
from hil.rom_loader import CablePulled, RomLoader
from hil.unix_board import find_micropython

DISK_BYTES = 1 << 20
_CTRL_C = 3
_CHUNK = 4096
_POLL = 0.02
_FULL = 64 << 10


class BlankBoard:
    """The board. `port` is a link to its pseudo-terminal, whose name changes when it is plugged in again.

    With `rom` None it has MicroPython on it already. A context manager: leaving it unplugs the board.
    """

    def __init__(
        self, folder: Path, rom: RomLoader | None = None, *, disk_bytes: int = DISK_BYTES, heap: str = "256k"
    ) -> None:
        self.port = folder / "port"
        self.rom = rom
        self.pull_at = b""
        """The cable is pulled, once, when these bytes come in; empty for never."""
        self.starts = 0
        """How often MicroPython has started after a reset."""
        self._disk = folder / "disk"
        self._heap = heap
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._said = bytearray()
        self._taken = b""
        micropython = find_micropython()
        if micropython is None:
            raise BoardError("there is no MicroPython (unix port) for this machine's Python")
        self._micropython = micropython
        if not self._disk.exists():
            self._disk.write_bytes(b"\xff" * disk_bytes)

    def __enter__(self) -> BlankBoard:
        self.plug()
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()

    @property
    def plugged(self) -> bool:
        """Whether its port is there."""
        return self._thread is not None and self._thread.is_alive()

    def said(self) -> str:
        """What MicroPython has written to the port, over all starts."""
        return self._said.decode("utf-8", "replace")

    def plug(self) -> None:
        """Connect it and give it power."""
        master, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(slave))
        os.close(slave)
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(master,), daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """Pull the cable."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.port.unlink(missing_ok=True)

    def _run(self, master: int) -> None:
        out = b""
        closed = True
        try:
            if self.rom is None or self.rom.boots:
                self._start(raw=False)
            while not self._stop.is_set():
                child = self._process.stdout.fileno() if self._process and self._process.stdout else None
                wanted = [master] if child is None or len(out) > _FULL else [master, child]
                readable, _, _ = select.select(wanted, [master] if out else [], [], _POLL)
                if child in readable and child is not None:
                    said = os.read(child, _CHUNK)
                    if not said:
                        self._restart()
                    self._said += said
                    out += said
                try:
                    data = os.read(master, _CHUNK) if master in readable else b""
                    closed = closed and not data
                except BlockingIOError:
                    data = b""
                except OSError as error:  # nobody has the port open
                    if error.errno != errno.EIO:
                        raise
                    if not closed and self._process is None and self.rom is not None and self.rom.boots:
                        self._start(raw=False)
                    closed, data, out = True, b"", b""
                    time.sleep(_POLL)
                if data:
                    out += self._take(data)
                if out:
                    with contextlib.suppress(BlockingIOError):
                        out = out[os.write(master, out) :]
        except CablePulled:
            self.port.unlink(missing_ok=True)
        finally:
            os.close(master)
            self._kill()

    def _take(self, data: bytes) -> bytes:
        self._taken = (self._taken + data)[-2 * _CHUNK :]
        if self.pull_at and self.pull_at in self._taken:
            self.pull_at = b""
            raise CablePulled
        if self._process is None:
            return self.rom.feed(data) if self.rom is not None else b""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):
            for at, part in enumerate(data.split(bytes([_CTRL_C])) if self._interrupts() else [data]):
                if at:
                    self._process.send_signal(signal.SIGINT)
                stdin.write(part)
                stdin.flush()
        return b""

    def _interrupts(self) -> bool:
        """Whether Ctrl-C interrupts: a program may have switched that off with `micropython.kbd_intr(-1)`."""
        file = self._disk.with_name(self._disk.name + ".interrupts")
        return not file.exists() or file.read_text() != " -1"

    def _restart(self) -> None:
        """Its program has ended, and its last words were heard."""
        assert self._process is not None
        status = self._process.wait()
        self._kill()
        self._start(raw=status == raw_repl.SOFT_RAW)

    def _start(self, *, raw: bool) -> None:
        if not raw:
            self.starts += 1
        command = [str(self._micropython), "-X", f"heapsize={self._heap}", "-c", raw_repl.script(self._disk, raw=raw)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
