"""Datagrams to and from one address. Each stands in `out` behind its length, two bytes, big-endian."""

import errno
import socket
from asyncio import core as loop

from micropython import const

_LARGEST = const(1280)  # what the gateway sends at most


class Transport:
    """To a link's host and port."""

    def __init__(self, link, hal):
        self._link = link
        self._attempt = 0
        self._socket = None

    async def open(self):
        """Choose the address; nothing is sent yet. Raises OSError."""
        found = socket.getaddrinfo(self._link.host, self._link.port, 0, socket.SOCK_DGRAM)
        address = found[self._attempt % len(found)]
        self._attempt += 1
        self._socket = sock = socket.socket(address[0], socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect(address[-1])  # only what comes from there is let through

    def read(self):
        """One datagram. To be awaited."""
        while True:
            yield loop._io_queue.queue_read(self._socket)
            try:
                # Not `readinto`: that goes on until the buffer is full, and so makes one datagram of several.
                data = self._socket.recv(_LARGEST)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
                continue
            if data:
                return data

    def write(self, out):
        """Send the first datagram in `out`."""
        size = 2 + (out[0] << 8 | out[1])
        try:
            sent = self._socket.write(memoryview(out)[2:size])
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            sent = None
        return size if sent else 0

    def close(self):
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
