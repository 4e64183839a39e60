"""MQTT over WebSocket: an HTTP request or frames, cut anyhow; what is inside comes out, or the connection is closed."""

from __future__ import annotations

import asyncio
from typing import Any

from edge_runtime.ingress.websocket import WebSocket
from fuzz.pieces import cut

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: g\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
_MASK = b"\x80\0\0\0\0"
SEEDS_REQUEST = [
    REQUEST,
    REQUEST.replace(b"mqtt", b"soap"),
    REQUEST.replace(b"mqtt", b"so\xaap"),
    b"GET / HTTP/1.1\r\n\r\n",
]
SEEDS_FRAMES = [
    b"\x82\x82\0\0\0\0\xc0\0",
    b"\x02\x81\0\0\0\0\xc0\x89\x80\0\0\0\0\x80\x81\0\0\0\0\0",
    b"\x81\x82\0\0\0\0hi",
    b"\x88\x82\0\0\0\0\x03\xe8",
    b"\x82\xfe\0\x80\x01\x02\x03\x04" + bytes(128),
]


def request(data: bytes) -> None:
    """From the first byte on."""
    _Connection().feed(data)


def frames(data: bytes) -> None:
    """After a handshake."""
    connection = _Connection()
    connection.feed(REQUEST)
    assert connection.wire.sent
    connection.feed(data)


class _Wire(asyncio.Transport):
    """What is said to the client: how much of it, and that nothing follows an end."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.ended = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.ended
        self.sent += len(data)

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True


class _Inside(asyncio.Protocol):
    """What the door would read."""

    def __init__(self) -> None:
        self.received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)


class _Connection:
    def __init__(self) -> None:
        self.wire = _Wire()
        self._inside = _Inside()
        self._socket = WebSocket(lambda: self._inside)
        self._socket.connection_made(self.wire)

    def feed(self, data: bytes) -> None:
        for piece in cut(data):
            if self.wire.ended:
                break
            self._socket.data_received(piece)
        # An answer to each ping, the handshake and the closing: never much more than what came.
        assert self._inside.received <= len(data)
        assert self.wire.sent <= 2 * len(data) + 1_000
