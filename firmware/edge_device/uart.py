"""A serial port: the USB port that the prompt is on, or a UART."""

import asyncio
import select
import sys

import micropython
from micropython import const

_CHUNK = const(64)
_MOST = const(256)
_TAKES = const(20)  # ms for the line to take a chunk: at 115,200 baud it takes 6
_AGAIN = const(500)
_STALE = const(4096)


class Transport:
    """The port that the link names. It is never closed: there is no connection to be made or to end."""

    def __init__(self, link, hal):
        uart = link.uart
        if uart is None:
            if hasattr(micropython, "kbd_intr"):
                micropython.kbd_intr(-1)  # a 3 in a frame is not Ctrl-C
            self._in = sys.stdin.buffer
            self._out = sys.stdout.buffer
        else:
            from machine import UART

            self._in = self._out = UART(uart["id"], **{name: uart[name] for name in uart if name != "id"})
        self._stream = asyncio.StreamReader(self._in)
        self._readable = select.poll()
        self._readable.register(self._in, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(self._out, select.POLLOUT)

    async def open(self):
        """Forget what came while nobody listened."""
        for _ in range(_STALE):
            if not _ready(self._readable, select.POLLIN, 0) or not self._in.read(1):
                break

    async def read(self):
        """What has come."""
        while True:
            data = await self._stream.read(1)
            if data:
                break
            await asyncio.sleep_ms(_AGAIN)  # nobody at the other end
        data = bytearray(data)
        while len(data) < _MOST and _ready(self._readable, select.POLLIN, 0):
            more = self._in.read(1)
            if not more:
                break
            data.extend(more)
        return data

    def write(self, out):
        """Send of `out` what the line takes, waiting a little: what the program prints would stand inside a frame."""
        return self._out.write(out[:_CHUNK]) if _ready(self._writable, select.POLLOUT, _TAKES) else 0

    def close(self):
        """Nothing."""


def _ready(poll, what, timeout):
    for ready in poll.poll(timeout):
        if ready[1] & what:
            return True
    return False
