"""A serial line between a board and a gateway, made of two pseudo-terminals, with all that happens to a cable."""

from __future__ import annotations

import asyncio
import os
import tty
from pathlib import Path
from random import Random

_CHUNK = 64
_BACKLOG = 4096
"""Bytes under way each way; beyond these the sender has to wait."""
_TICK = 0.01


class FaultyLine:
    """`board` is the descriptor for the board's end; `path` names the gateway's, as long as it is plugged in."""

    def __init__(self, path: Path, *, seed: int = 1) -> None:
        self.path = path
        self.loss = 0.0
        """The share of pieces (up to 64 bytes) that get lost."""
        self.damage = 0.0
        """The share of pieces in which a bit flips."""
        self.deaf_board = False
        """Half open: nothing reaches the board, though what it says arrives."""
        self.cut = False
        """Nothing reaches anybody, and nobody notices."""
        self.rate = 0
        """Bytes per second; 0 for as fast as it goes."""
        self.passed = [0, 0]
        """Bytes from the board and to it."""
        self._random = Random(seed)
        self._loop = asyncio.get_running_loop()
        self._board_master, self.board = _pair()
        self._master = self._slave = -1
        self._pending = {True: bytearray(), False: bytearray()}
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._board_master, self._read, True)

    @property
    def plugged(self) -> bool:
        """Whether the gateway's end is there."""
        return self._master >= 0

    def plug(self) -> None:
        """The gateway's end is there (again)."""
        self._master, self._slave = _pair()
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(self._slave))
        self._loop.add_reader(self._master, self._read, False)

    def unplug(self) -> None:
        """The gateway's end is gone, and what was under way with it."""
        if self.plugged:
            self._loop.remove_reader(self._master)
            self.path.unlink(missing_ok=True)
            os.close(self._slave)
            os.close(self._master)
            self._master = self._slave = -1
            for pending in self._pending.values():
                pending.clear()

    def close(self) -> None:
        """Take the whole line away."""
        self.unplug()
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._board_master)
        os.close(self._board_master)
        os.close(self.board)

    def _read(self, from_board: bool) -> None:
        pending = self._pending[from_board]
        if len(pending) < _BACKLOG:
            try:
                data = os.read(self._board_master if from_board else self._master, _CHUNK)
            except (BlockingIOError, OSError):
                return
            pending += self._spoil(data, from_board)
        elif not self.rate:
            # The other end does not read: leave the rest to the terminal's own buffer for a while.
            fd = self._board_master if from_board else self._master
            self._loop.remove_reader(fd)
            self._loop.call_later(_TICK, self._resume, fd, from_board)
        self._move()

    def _resume(self, fd: int, from_board: bool) -> None:
        if fd == (self._board_master if from_board else self._master):
            self._loop.add_reader(fd, self._read, from_board)
            self._move()

    def _spoil(self, data: bytes, from_board: bool) -> bytes:
        chance = self._random.random
        if self.cut or (self.deaf_board and not from_board) or chance() < self.loss:
            return b""
        if chance() < self.damage:
            at = self._random.randrange(len(data))
            data = data[:at] + bytes((data[at] ^ (1 << self._random.randrange(8)),)) + data[at + 1 :]
        return data

    def _move(self) -> None:
        share = max(1, round(self.rate * _TICK)) if self.rate else _BACKLOG
        if self.rate and self._timer is not None:
            return
        for from_board, pending in self._pending.items():
            target = self._master if from_board else self._board_master
            if target < 0:
                pending.clear()  # nobody is there: it goes into the air
            elif pending:
                try:
                    written = os.write(target, pending[:share])
                except OSError:
                    written = 0
                self.passed[not from_board] += written
                del pending[:written]
        if any(self._pending.values()):
            self._timer = self._loop.call_later(_TICK, self._again)

    def _again(self) -> None:
        self._timer = None
        self._move()


def _pair() -> tuple[int, int]:
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    return master, slave
