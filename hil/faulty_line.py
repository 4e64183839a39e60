"""A serial line between a board and a gateway, with all that happens to a cable."""

from __future__ import annotations

import asyncio
import os
import re
import tty
from pathlib import Path

from hil.faults import Faults, InTurn

_CHUNK = 64
_BACKLOG = 4096
"""Bytes under way each way; beyond these the sender has to wait."""
_TICK = 0.01
_KEPT = 4096
"""Bytes kept of what the board has sent."""
_TEXT = re.compile(rb"[\t\r\n -~]{12,}")
_GATHER = 0.003
"""Seconds that an emulator gets to put its bytes together, each of which it writes by itself."""


class FaultyLine(Faults):
    """`path` names the gateway's end, as long as it is plugged in; `board` is the descriptor of the board's.

    A piece is what is read at once: up to 64 bytes. Both ends are pseudo-terminals; a board that brings an end of its
    own, as an emulator's socket, is given to `attach`.
    """

    def __init__(self, path: Path, *, seed: int = 1, terminal: bool = True) -> None:
        """Without `terminal` the board's end is not there before `attach`."""
        super().__init__(seed)
        self.path = path
        self.passed = [0, 0]
        """Bytes from the board and to it."""
        self.board = -1
        self.said = b""
        """The last that the board has sent, before anything happened to it."""
        self.heard = 0
        """Bytes that it has sent in all."""
        self._loop = asyncio.get_running_loop()
        self._slave = -1
        self._own = -1
        self._gateway_end = _End(self, to_board=False)
        self._board_end = _End(self, to_board=True)
        if terminal:
            self._own, self.board = _pair()
            self._board_end.open(self._own)

    @property
    def plugged(self) -> bool:
        """Whether the gateway's end is there."""
        return self._gateway_end.fd >= 0

    def plug(self) -> None:
        """The gateway's end is there (again)."""
        master, self._slave = _pair()
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(self._slave))
        self._gateway_end.open(master)

    def unplug(self) -> None:
        """The gateway's end is gone, and what was under way with it."""
        if self.plugged:
            self.path.unlink(missing_ok=True)
            master = self._gateway_end.fd
            self._gateway_end.close()
            self._board_end.forget()
            os.close(self._slave)
            os.close(master)

    def since(self, heard: int) -> bytes:
        """What the board has sent since `heard` was so much, as far as it is kept."""
        return self.said[-(self.heard - heard) :] if self.heard > heard else b""

    def text(self) -> str:
        """What of the last that the board has sent can be read by people: its log, a traceback."""
        return "\n".join(part.decode() for part in _TEXT.findall(self.said))

    def attach(self, fd: int) -> None:
        """The board's end is this descriptor, which does not block and stays its owner's."""
        self._board_end.close()
        self._board_end.open(fd, _GATHER)

    def detach(self) -> None:
        """The board's end is gone, and what was under way to it."""
        self._board_end.close()

    def close(self) -> None:
        """Take the whole line away."""
        self.unplug()
        self._board_end.close()
        if self._own >= 0:
            os.close(self._own)
            os.close(self.board)
            self._own = -1

    async def stop(self) -> None:
        """The same, as networks have it."""
        self.close()

    def other(self, end: _End) -> _End:
        """The end at the other side."""
        return self._board_end if end is self._gateway_end else self._gateway_end


class _End:
    """One end: what is read here goes to the other; what goes out here waits here."""

    def __init__(self, line: FaultyLine, *, to_board: bool) -> None:
        self.fd = -1
        self._line = line
        self._to_board = to_board
        self._gather = 0.0
        self._loop = asyncio.get_running_loop()
        self._turn = InTurn(line, self._loop.time)
        self._held: list[asyncio.TimerHandle] = []
        self._late = 0
        self._out = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None

    def open(self, fd: int, gather: float = 0) -> None:
        """Read from this descriptor, `gather` seconds after something has come: for who writes byte by byte."""
        self.fd = fd
        self._gather = gather
        self._loop.add_reader(fd, self._readable)

    def _readable(self) -> None:
        if self._gather:
            self._loop.remove_reader(self.fd)
            self._pause = self._loop.call_later(self._gather, self._gathered, self.fd)
        else:
            self._read()

    def _gathered(self, fd: int) -> None:
        if fd == self.fd:
            self._loop.add_reader(fd, self._readable)
            self._read()

    def close(self) -> None:
        if self.fd >= 0:
            self._loop.remove_reader(self.fd)
            self.fd = -1
        if self._pause is not None:
            self._pause.cancel()
        self.forget()

    def forget(self) -> None:
        """What was on its way to this end is lost."""
        for handle in self._held:
            handle.cancel()
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._out.clear()
        self._late = 0

    def _read(self) -> None:
        far = self._line.other(self)
        if far.full:  # leave the rest to the terminal's own buffer for a while
            self._loop.remove_reader(self.fd)
            self._pause = self._loop.call_later(_TICK, self._resume, self.fd)
            return
        try:
            data = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # its owner has gone, or the terminal has nobody: look again later
            self._loop.remove_reader(self.fd)
            self._pause = self._loop.call_later(_TICK, self._resume, self.fd)
            return
        if self._to_board:  # what is read at the board's end comes from it
            self._line.said = (self._line.said + data)[-_KEPT:]
            self._line.heard += len(data)
        for piece in self._line.fate(data, not self._to_board):
            far.take(piece)

    def _resume(self, fd: int) -> None:
        if fd == self.fd:
            self._loop.add_reader(fd, self._readable)

    @property
    def full(self) -> bool:
        """Whether enough is under way to this end."""
        return self._late + len(self._out) >= _BACKLOG

    def take(self, data: bytes) -> None:
        """Put out a piece once it is due."""
        due = self._turn.due(len(data))
        if not self._held and due <= self._loop.time():
            self._put(data)
        else:
            self._late += len(data)
            self._held.append(self._loop.call_at(due, self._arrive, data))

    def _arrive(self, data: bytes) -> None:
        self._held.pop(0)
        self._late -= len(data)
        self._put(data)

    def _put(self, data: bytes) -> None:
        if self.fd < 0:
            return  # nobody is there: it goes into the air
        self._out += data
        if self._timer is None:
            self._flush()

    def _flush(self) -> None:
        self._timer = None
        try:
            written = os.write(self.fd, self._out)
        except OSError:
            written = 0
        self._line.passed[self._to_board] += written
        del self._out[:written]
        if self._out:
            self._timer = self._loop.call_later(_TICK, self._flush)


def _pair() -> tuple[int, int]:
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    return master, slave
