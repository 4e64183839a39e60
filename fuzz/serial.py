"""A board's serial line: noise as it comes, and frames whose check-sums are right and nothing else need be."""

from __future__ import annotations

from edge_runtime.proto.serial import GatewayLink, Message, Proof
from edge_runtime.proto.serial.frames import NONCE, VERSION, Type, encode
from edge_runtime.proto.serial.reader import MAX_TEXT, Reader
from fuzz.pieces import cut

MAX_MESSAGE = 4096
HELLO = bytes((VERSION, 2, 64, 0, 60)) + bytes(NONCE) + b"gh"
SEEDS_LINE = [
    b">>> print(1)\r\n1\r\n",
    encode(Type.HELLO, 0, HELLO),
    b"\0" + encode(Type.HELLO, 0, HELLO) + encode(Type.PROOF, 0, bytes(32)),
]
SEEDS_FRAMES = [
    bytes((len(HELLO), Type.HELLO, 0)) + HELLO + bytes((0, Type.PROOF, 0)) + bytes((5, Type.DATA_END, 0)) + b"\x01e/c1",
    bytes((0, Type.PING, 7, 0, Type.ACK, 0, 0, Type.CLOSE, 0, 0, Type.PROOF, 0)),
]


def line(data: bytes) -> None:
    """Whatever comes, cut anyhow."""
    reader = Reader()
    whole = list(reader.feed(data))
    assert all(0 < len(piece) <= MAX_TEXT for piece in whole)
    _Line().feed(data)


def frames(data: bytes) -> None:
    """A length, a type, a number and a body, again and again, each made a frame of the session there is."""
    line = _Line()
    line.feed(encode(Type.HELLO, 0, HELLO))
    line.feed(encode(Type.PROOF, 0))
    assert line.link.device
    at = 0
    while at + 3 <= len(data):
        size, kind, number = data[at : at + 3]
        line.feed(encode(kind, number, data[at + 3 : at + 3 + size], line.link.seed if kind & 0x10 else 0))
        at += 3 + size


class _Line:
    """The gateway's end; who proves anything is let in, and each message is acknowledged."""

    def __init__(self) -> None:
        self.link = GatewayLink(bytes, max_message=MAX_MESSAGE)
        self._now = 0

    def feed(self, data: bytes) -> None:
        for piece in cut(data):
            self._now += 1_000
            for happening in list(self.link.feed(piece, self._now)):
                if isinstance(happening, Proof):
                    self.link.welcome(None, self._now)
                elif isinstance(happening, Message):
                    assert len(happening.payload) <= MAX_MESSAGE
                    self.link.acknowledge(happening.ticket)
            self.link.take()
        while (due := self.link.deadline) is not None and due <= self._now:
            list(self.link.tick(self._now))
