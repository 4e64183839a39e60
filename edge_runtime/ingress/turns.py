"""A connection's turns of the event loop: what it has sent in one go is read in slices, with the others in between.

An event loop reads a connection as long as there is something, megabytes at a time; a hundred thousand tiny packets
in them would hold everybody else up for seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SLICE = 4096
"""Bytes of one turn: 2,048 packets of the smallest kind; one of the largest takes 64 turns. What boards send, even
sixteen readings at once, takes one."""


class Turns:
    """Between a transport and the protocol that reads it; it also keeps the account of who has stopped the reading."""

    def __init__(self, transport: asyncio.Transport, take: Callable[[bytes], None]) -> None:
        """`take(data)` reads; it may call `pause`."""
        self._transport = transport
        self._take = take
        self._rest = b""
        self._at = 0
        """What was read from the socket, and from where on it waits for its turn."""
        self._next: asyncio.Handle | None = None
        self._paused = False
        self._over = False

    @property
    def paused(self) -> bool:
        """Whether the protocol wants nothing more for now."""
        return self._paused

    def feed(self, data: bytes) -> None:
        """As `Protocol.data_received`."""
        if self._rest or self._paused or self._next is not None:
            self._rest, self._at = self._rest[self._at :] + data, 0  # the transport had read it when it was stopped
        elif len(data) <= SLICE:
            self._take(data)
        else:
            self._transport.pause_reading()
            self._rest = data
            self._turn()

    def pause(self) -> None:
        """Take nothing more until `resume`."""
        self._paused = True
        self._transport.pause_reading()

    def resume(self) -> None:
        """Go on, with what waits first."""
        if self._paused:
            self._paused = False
            if self._rest:
                self._later()
            else:
                self._transport.resume_reading()

    def end(self) -> bytes:
        """Nothing more is taken here, nor is the transport touched; returns what waits."""
        self._over = True
        if self._next is not None:
            self._next.cancel()
        rest, self._rest, self._at, self._next = self._rest[self._at :], b"", 0, None
        return rest

    def _later(self) -> None:
        if self._next is None and not self._over:
            self._next = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._next = None
        if self._paused or self._transport.is_closing():
            return
        if not self._rest:
            self._transport.resume_reading()
            return
        data = self._rest[self._at : self._at + SLICE]
        self._at += SLICE
        if self._at >= len(self._rest):
            self._rest, self._at = b"", 0
        self._take(data)
        if not self._paused:
            self._later()
