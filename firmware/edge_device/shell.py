"""The core on asyncio and a non-blocking socket: what a board with a network stack runs."""

import asyncio
import errno
import gc
import select
import socket

from micropython import const

from .commands import describe

_CONNECT_TIMEOUT = const(10000)
_CONNECT_POLL = const(20)
_SEND_RETRY = const(20)
_CHUNK = const(256)


class Shell:
    """Drives a core: connects, reads, writes, and waits until the core wants to be called again."""

    def __init__(self, core):
        self._core = core
        self._socket = None
        self._reader = None
        self._wake = asyncio.Event()
        self._attempt = 0

    def wake(self):
        """There is something to send: do not wait any longer."""
        self._wake.set()

    async def serve(self):
        """Run for ever."""
        core = self._core
        uptime = core.hal.uptime
        # Collecting early keeps what lives long together: a heap left to fill up first is soon one of small pieces.
        gc.collect()
        gc.threshold((gc.mem_free() + gc.mem_alloc()) // 8)
        while True:
            try:
                wait = core.step(uptime())
            except Exception as error:  # out of memory, most likely: what was begun is taken back with the connection
                self._broken(error)
                wait = 1000
            if core.wants_link and self._socket is None:
                await self._open()
                wait = 0
            elif not core.wants_link and self._socket is not None:
                self._close()
            elif core.out and self._socket is not None:
                wait = self._send(wait)
            await self._sleep(wait)

    async def _sleep(self, wait):
        if wait > 0:
            try:
                await asyncio.wait_for_ms(self._wake.wait(), wait)
            except asyncio.TimeoutError:
                pass
        else:
            await asyncio.sleep_ms(0)  # always a chance for the other tasks
        self._wake.clear()

    async def _open(self):
        core = self._core
        uptime = core.hal.uptime
        sock = None
        try:
            # Resolving a name blocks, as on all ports. Where it has several addresses, each gets its turn.
            found = socket.getaddrinfo(core.config.host, core.config.port, 0, socket.SOCK_STREAM)
            address = found[self._attempt % len(found)]
            self._attempt += 1
            sock = socket.socket(address[0], address[1])
            sock.setblocking(False)
            await _connect(sock, address[-1])
        except OSError as error:
            if sock:
                sock.close()
            where = core.config.host + ":" + str(core.config.port)
            core.link_down(uptime(), "no connection to " + where + " (" + str(error) + ")")
            return
        self._socket = sock
        self._reader = asyncio.create_task(self._read(sock))
        core.link_up(uptime())

    async def _read(self, sock):
        core = self._core
        stream = asyncio.StreamReader(sock)
        why = None
        try:
            while True:
                data = await stream.read(_CHUNK)
                if not data:
                    break
                core.receive(data, core.hal.uptime())
                self._wake.set()
        except Exception as error:
            why = error
        if self._socket is sock:
            self._reader = None
            self._broken(why)
            self._wake.set()

    def _send(self, wait):
        """Send what can be sent; returns how long to wait: `wait`, or less where something is left."""
        core = self._core
        try:
            number = self._socket.write(core.out)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                self._broken(error)
                return 0
            number = 0
        if number:
            core.sent(number)
        return _SEND_RETRY if core.out else wait

    def _broken(self, why):
        self._close()
        text = "the gateway closed the connection" if why is None else "the connection broke (" + describe(why) + ")"
        self._core.link_down(self._core.hal.uptime(), text)

    def _close(self):
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def _connect(sock, address):
    try:
        sock.connect(address)
        return
    except OSError as error:
        if error.errno != errno.EINPROGRESS:
            raise
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    for _ in range(_CONNECT_TIMEOUT // _CONNECT_POLL):
        for ready in poll.poll(0):
            if ready[1] & (select.POLLERR | select.POLLHUP):
                raise OSError(errno.ECONNREFUSED)
            return
        await asyncio.sleep_ms(_CONNECT_POLL)
    raise OSError(errno.ETIMEDOUT)
