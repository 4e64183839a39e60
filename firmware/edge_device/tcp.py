"""A TCP connection, with TLS where the link wants it, on non-blocking sockets."""

import asyncio
import errno
import select
import socket
from asyncio import core as loop

from micropython import const

_CONNECT_TIMEOUT = const(10000)
_CONNECT_POLL = const(20)
_CHUNK = const(256)
_PIECE = const(1024)


class Transport:
    """To a link's host and port."""

    def __init__(self, link, hal):
        self._link = link
        self._hal = hal
        self._attempt = 0
        self._socket = None
        self._again = 0
        self._context = None
        if link.tls:
            from . import tls

            self._tls = tls

    async def open(self):
        """Connect; raises OSError."""
        link = self._link
        # Resolving a name blocks, as on all ports. Where it has several addresses, each gets its turn.
        found = socket.getaddrinfo(link.host, link.port, 0, socket.SOCK_STREAM)
        address = found[self._attempt % len(found)]
        self._attempt += 1
        self._again = 0
        self._socket = sock = socket.socket(address[0], address[1])
        sock.setblocking(False)
        await _connect(sock, address[-1])
        if link.tls:
            if self._context is None:
                self._context = self._tls.context(link.tls, self._hal)
            self._socket = self._tls.wrap(sock, self._context, link.tls.get("name", link.host))

    def read(self):
        """What has come; empty where the other side has closed. To be awaited."""
        # As asyncio's StreamReader does it, which would load a module of servers and writers.
        while True:
            yield loop._io_queue.queue_read(self._socket)
            data = self._socket.read(_CHUNK)
            if data is not None:
                return data

    def write(self, out):
        """Send of `out` what can be sent."""
        # TLS must be given what it did not take a second time as it was, however much has been added behind it.
        number = self._again or min(len(out), _PIECE)
        try:
            sent = self._socket.write(memoryview(out)[:number])
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            sent = None
        self._again = 0 if sent else number
        return sent

    def close(self):
        """End the connection."""
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
