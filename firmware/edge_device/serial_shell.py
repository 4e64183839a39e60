"""The core on a serial line: the USB port that the prompt is on, or a UART."""

import asyncio
import gc
import select
import sys

import micropython
from micropython import const

from .commands import describe

_CHUNK = const(64)
_MOST = const(256)
_TAKES = const(20)  # ms for the line to take a chunk: at 115,200 baud it takes 6
_AGAIN = const(500)


class Shell:
    """Drives a core: reads, writes, and waits until the core wants to be called again."""

    def __init__(self, core):
        self._core = core
        self._wake = asyncio.Event()
        uart = core.config.uart
        if uart is None:
            if hasattr(micropython, "kbd_intr"):
                micropython.kbd_intr(-1)  # a 3 in a frame is not Ctrl-C
            self._in = sys.stdin.buffer
            self._out = sys.stdout.buffer
        else:
            from machine import UART

            self._in = self._out = UART(uart["id"], **{name: uart[name] for name in uart if name != "id"})
        self._readable = select.poll()
        self._readable.register(self._in, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(self._out, select.POLLOUT)

    def wake(self):
        """There is something to send: do not wait any longer."""
        self._wake.set()

    async def serve(self):
        """Run for ever."""
        core = self._core
        uptime = core.hal.uptime
        gc.collect()
        gc.threshold((gc.mem_free() + gc.mem_alloc()) // 8)  # as in shell.py
        reading = asyncio.create_task(self._read())
        try:
            while True:
                try:
                    wait = core.step(uptime())
                    if core.wants_link and not core.session.state:  # there is no connection to be made
                        core.link_up(uptime())
                        wait = 0
                    if core.out:
                        wait = self._send(wait)
                except Exception as error:
                    self._broken(error)
                    wait = 1000
                await self._sleep(wait)
        finally:
            reading.cancel()

    async def _sleep(self, wait):
        if wait > 0:
            try:
                await asyncio.wait_for_ms(self._wake.wait(), wait)
            except asyncio.TimeoutError:
                pass
        else:
            await asyncio.sleep_ms(0)
        self._wake.clear()

    async def _read(self):
        core = self._core
        stream = asyncio.StreamReader(self._in)
        while True:
            try:
                data = await stream.read(1)
                if data:
                    data = bytearray(data)
                    while len(data) < _MOST and self._ready(self._readable, select.POLLIN, 0):
                        more = self._in.read(1)
                        if not more:
                            break
                        data.extend(more)
                    if core.wants_link:
                        core.receive(data, core.hal.uptime())
                    self._wake.set()
            except Exception as error:
                data = None
                self._broken(error)
            if not data:
                await asyncio.sleep_ms(_AGAIN)  # nobody at the other end

    def _ready(self, poll, what, timeout):
        for ready in poll.poll(timeout):
            if ready[1] & what:
                return True
        return False

    def _send(self, wait):
        """Send what the line takes, whole frames where it can: what the program prints would stand inside them."""
        core = self._core
        while core.out:
            if not self._ready(self._writable, select.POLLOUT, _TAKES):
                return _TAKES
            number = self._out.write(core.out[:_CHUNK])
            if not number:
                return _TAKES
            core.sent(number)
        return wait

    def _broken(self, why):
        if self._core.wants_link:
            self._core.link_down(self._core.hal.uptime(), "the line broke (" + describe(why) + ")")
