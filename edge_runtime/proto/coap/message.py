"""The format of messages (RFC 7252 section 3): bytes to `Message` and back."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edge_runtime.proto.coap.numbers import EMPTY, MAX_TOKEN, PAYLOAD_MARKER, VERSION

HEADER = 4
"""Bytes before the token."""
_RESERVED_CLASSES = (1, 6, 7)


class FormatError(ValueError):
    """A message format error: the datagram is no message of section 3."""


class Message(msgspec.Struct, frozen=True):
    """One message."""

    type: int
    code: int
    mid: int
    token: bytes = b""
    options: tuple[tuple[int, bytes], ...] = ()
    """Numbers and values, in the order of their numbers; the order of equal ones counts."""
    payload: bytes = b""

    def all(self, number: int) -> list[bytes]:
        """The values of an option."""
        return [value for found, value in self.options if found == number]


def decode(data: bytes) -> Message:
    """Read a datagram. Raises FormatError."""
    if len(data) < HEADER:
        raise FormatError("shorter than a header")
    first, code = data[0], data[1]
    if first >> 6 != VERSION:
        raise FormatError(f"version {first >> 6}")
    length = first & 15
    if length > MAX_TOKEN:
        raise FormatError(f"a token of {length} bytes")
    mid = data[2] << 8 | data[3]
    if code == EMPTY:
        if len(data) > HEADER:
            raise FormatError("an empty message with something in it")
    elif code >> 5 in _RESERVED_CLASSES:
        raise FormatError(f"a code of the reserved class {code >> 5}")
    start = HEADER + length
    if len(data) < start:
        raise FormatError("it ends within its token")
    options, end = decode_options(data, start)
    if end < len(data) and end + 1 == len(data):
        raise FormatError("a payload marker without a payload")
    return Message(first >> 4 & 3, code, mid, data[HEADER:start], tuple(options), data[end + 1 :])


def decode_options(data: bytes, start: int) -> tuple[list[tuple[int, bytes]], int]:
    """The options from `start` on, and where they end: at the payload marker or the end of `data`."""
    options: list[tuple[int, bytes]] = []
    number, at, size = 0, start, len(data)
    while at < size:
        first = data[at]
        if first == PAYLOAD_MARKER:
            break
        at += 1
        delta, at = _extended(data, at, first >> 4)
        length, at = _extended(data, at, first & 15)
        number += delta
        if number > 0xFFFF:
            raise FormatError("an option number beyond 65535")
        if at + length > size:
            raise FormatError(f"it ends within option {number}")
        options.append((number, data[at : at + length]))
        at += length
    return options, at


def _extended(data: bytes, at: int, nibble: int) -> tuple[int, int]:
    if nibble < 13:
        return nibble, at
    if nibble == 15:
        raise FormatError("a reserved option delta or length")
    width = nibble - 12
    if at + width > len(data):
        raise FormatError("it ends within the head of an option")
    if width == 1:
        return data[at] + 13, at + 1
    return (data[at] << 8 | data[at + 1]) + 269, at + 2


def encode(message: Message) -> bytes:
    """A message for the wire."""
    assert len(message.token) <= MAX_TOKEN
    head = bytes(
        (VERSION << 6 | message.type << 4 | len(message.token), message.code, message.mid >> 8, message.mid & 255)
    )
    tail = b"\xff" + message.payload if message.payload else b""
    return head + message.token + encode_options(message.options) + tail


def encode_options(options: Iterable[tuple[int, bytes]]) -> bytes:
    """Options for the wire, sorted by number; equal numbers stay in their order."""
    out = bytearray()
    last = 0
    for number, value in sorted(options, key=lambda option: option[0]):
        delta, more = _nibble(number - last)
        length, and_more = _nibble(len(value))
        out.append(delta << 4 | length)
        out += more + and_more + value
        last = number
    return bytes(out)


def _nibble(value: int) -> tuple[int, bytes]:
    if value < 13:
        return value, b""
    if value < 269:
        return 13, bytes((value - 13,))
    return 14, (value - 269).to_bytes(2)


def uint(value: int) -> bytes:
    """An option value in the shortest form (section 3.2)."""
    return value.to_bytes((value.bit_length() + 7) // 8)
