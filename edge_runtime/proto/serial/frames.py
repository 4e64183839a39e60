"""Frames of the serial link: COBS between zeros, a type, a number, a body, and a check-sum.

COBS: Cheshire and Baker, "Consistent Overhead Byte Stuffing", 1999. A frame is at most 253 bytes before it, so there
is one block and one byte of overhead.
"""

from __future__ import annotations

import hmac
from enum import IntEnum
from zlib import crc32

import msgspec

VERSION = 1
MAX_FRAME = 253
"""Bytes of type, number, body and check-sum."""
MAX_WIRE = MAX_FRAME + 3
"""The same with COBS and both zeros."""
HEAD, CHECK = 2, 4
OVERHEAD = HEAD + CHECK + 3
"""What a body costs more on the wire; an answer without a body is this long."""
NONCE = 8


class Type(IntEnum):
    """What a frame is for. Those below 0x10 belong to no session."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    REFUSED = 5
    RESET = 6
    DATA = 0x10
    """Lowest bit: the first fragment of a message; next bit: the last."""
    DATA_END = 0x13
    ACK = 0x14
    PING = 0x15
    PONG = 0x16
    CLOSE = 0x17


FIRST, LAST = 1, 2
SESSION = 0x10


class Refusal(IntEnum):
    """The body of REFUSED."""

    VERSION = 1
    CREDENTIALS = 2
    MALFORMED = 3


class Why(IntEnum):
    """The body of CLOSE."""

    NOT_STORED = 1
    TAKEN_OVER = 2
    STOPPING = 3
    DEVICE_CHANGED = 4
    NO_ANSWER = 5


class Frame(msgspec.Struct, frozen=True):
    """A frame whose check-sum was right."""

    type: int
    number: int
    body: bytes


class Hello(msgspec.Struct, frozen=True):
    """The body of HELLO."""

    proves: bool
    """Whether the board can compute HMAC-SHA256."""
    configures: bool
    """Whether it wants its configuration."""
    ring: int
    """How many bytes it can take before it reads."""
    keep_alive: int
    """Seconds after half of which without a word it sends a PING."""
    nonce: bytes
    device: str


def stuff(data: bytes) -> bytes:
    """COBS of at most 254 bytes."""
    out = bytearray()
    for block in data.split(b"\0"):
        out.append(len(block) + 1)
        out += block
    return bytes(out)


def unstuff(data: bytes) -> bytes | None:
    """The inverse of `stuff`; None for what it cannot have made."""
    out = bytearray()
    at, end = 0, len(data)
    while at < end:
        following = at + data[at]
        if following == at or following > end:
            return None
        out += data[at + 1 : following]
        at = following
        if at < end:
            out.append(0)
    return bytes(out) if data else None


def encode(kind: int, number: int, body: bytes = b"", seed: int = 0) -> bytes:
    """A frame as it stands on the wire, between its zeros; `seed` is the session's (see `seed_of`)."""
    inner = bytes((kind, number)) + body
    check = crc32(inner, seed if kind >= SESSION else 0)
    return b"\0" + stuff(inner + check.to_bytes(4)) + b"\0"


def decode(piece: bytes, seed: int) -> Frame | None:
    """What stands between two zeros, if it is a frame of this session or of none; otherwise None."""
    inner = unstuff(piece)
    if inner is None or not HEAD + CHECK <= len(inner) <= MAX_FRAME:
        return None
    check = crc32(inner[:-CHECK], seed if inner[0] >= SESSION else 0)
    if check.to_bytes(4) != inner[-CHECK:]:
        return None
    return Frame(inner[0], inner[1], inner[HEAD:-CHECK])


def seed_of(board: bytes, gateway: bytes) -> int:
    """What the check-sums of a session start from: frames of another session fail them."""
    return crc32(board + gateway)


def read_hello(body: bytes) -> Hello | Refusal:
    """The body of HELLO, or what to refuse it for."""
    if not body or body[0] != VERSION:
        return Refusal.VERSION
    device = body[5 + NONCE :]
    if not 1 <= len(device) <= 128 or not device.isascii():
        return Refusal.MALFORMED
    return Hello(
        bool(body[1] & 1),
        bool(body[1] & 2),
        body[2],
        int.from_bytes(body[3:5]),
        body[5 : 5 + NONCE],
        device.decode("ascii"),
    )


def proof(digest: bytes, side: bytes, board: bytes, gateway: bytes, device: str) -> bytes:
    """HMAC-SHA256 by which `side` (b"board" or b"gateway") shows that it has the key with this SHA-256 digest."""
    return hmac.digest(digest, b"edge serial " + side + b"\0" + board + gateway + device.encode(), "sha256")
