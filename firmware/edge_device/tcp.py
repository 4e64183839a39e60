"""A TCP connection, with TLS where the link wants it, on non-blocking sockets."""

import asyncio
import errno
import select
import socket

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
        self._stream = None
        self._again = 0

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
        if getattr(link, "tls", None):  # a plain link, without `links.py`, has none
            from .tls import wrap

            self._socket = sock = wrap(sock, link, self._hal)  # shakes hands while it is read and written
        self._stream = asyncio.StreamReader(sock)

    async def read(self):
        """What has come; empty where the other side has closed."""
        return await self._stream.read(_CHUNK)

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
            self._socket = self._stream = None


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
