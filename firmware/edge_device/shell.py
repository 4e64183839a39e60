"""The core on asyncio: what drives it over whichever link is in use (`tcp.py`, `udp.py`, `uart.py`)."""

import asyncio
import gc
from asyncio import core as loop

from micropython import const

from .commands import describe

_SEND_RETRY = const(20)


def _transport(link, hal):
    # Imported only here: the file of a link that is not used may be left out.
    if link.kind == "serial":
        from .uart import Transport
    elif link.kind == "coap":
        from .udp import Transport
    else:
        from .tcp import Transport
    return Transport(link, hal)


class Shell:
    """Drives a core: connects, reads, writes, and waits until the core wants to be called again.

    A transport has `open()` and `read()` to be awaited (what has come, empty at the end), `write(out)` (how many bytes
    of `out` it has taken, 0 or None for none just now) and `close()`; they raise OSError, or ValueError with a text.
    """

    def __init__(self, core):
        self._core = core
        # Made at once: what it loads is loaded before the heap is in pieces.
        self._transports = {core.link: _transport(core.link, core.hal)}
        self._transport = None  # the one that is open
        self._task = None  # which opens it, and reads from it then
        self._woken = False
        self._sleeper = None

    def wake(self):
        """There is something to send: do not wait any longer."""
        self._woken = True
        if self._sleeper is not None:
            # What asyncio.Event does; with that and wait_for, each sleep would make a task, and load two more modules.
            loop._task_queue.remove(self._sleeper)
            loop._task_queue.push(self._sleeper)
            self._sleeper = None

    async def serve(self):
        """Run for ever."""
        core = self._core
        uptime = core.hal.uptime
        # Collecting early keeps what lives long together: a heap left to fill up first is soon one of small pieces.
        gc.collect()
        gc.threshold((gc.mem_free() + gc.mem_alloc()) // 8)
        try:
            while True:
                try:
                    wait = core.step(uptime())
                    if self._transport is not None and not core.session.state:
                        self._close()  # the core has given it up, and may want another already
                    if core.wants_link and self._task is None:
                        self._task = asyncio.create_task(self._run(core.link))
                    elif core.out and self._transport is not None:
                        wait = self._send(wait)
                except Exception as error:  # out of memory, or the connection broke: it is begun anew
                    self._broken(error)
                    wait = 1000
                await self._sleep(wait)
        finally:
            self._close()

    async def _sleep(self, wait):
        if wait > 0 and not self._woken:
            self._sleeper = loop.cur_task
            try:
                await asyncio.sleep_ms(wait)
            finally:
                self._sleeper = None
        else:
            await asyncio.sleep_ms(0)  # always a chance for the other tasks
        self._woken = False

    async def _run(self, link):
        """Open a link and read from it until it ends. The core goes on meanwhile: readings are taken all the time."""
        core = self._core
        uptime = core.hal.uptime
        transport = None
        try:
            transport = self._transports.get(link)
            if transport is None:
                transport = self._transports[link] = _transport(link, core.hal)
            await transport.open()
        except asyncio.CancelledError:
            if transport is not None:
                transport.close()
            raise
        except Exception as error:
            if transport is not None:
                transport.close()
            self._task = None
            if core.wants_link and core.link is link:
                core.link_down(
                    uptime(), "no connection to " + link.host + ":" + str(link.port) + " (" + describe(error) + ")"
                )
            self.wake()
            return
        if not core.wants_link or core.link is not link:  # it was given up meanwhile: the board is to sleep, say
            transport.close()
            self._task = None
            self.wake()
            return
        self._transport = transport
        core.link_up(uptime())
        self.wake()
        why = None
        try:
            while True:
                data = await transport.read()
                if not data:
                    break
                core.receive(data, uptime())
                self.wake()
        except Exception as error:
            why = error
        if self._transport is transport:
            self._task = None
            self._broken(why)
            self.wake()

    def _send(self, wait):
        """Send what can be sent; returns how long to wait: `wait`, or less where something is left."""
        core = self._core
        while core.out:
            number = self._transport.write(core.out)
            if not number:
                return _SEND_RETRY
            core.sent(number)
        return wait

    def _broken(self, why):
        self._close()
        text = "the gateway closed the connection" if why is None else "the connection broke (" + describe(why) + ")"
        self._core.link_down(self._core.hal.uptime(), text)

    def _close(self):
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._transport is not None:
            self._transport.close()
            self._transport = None
