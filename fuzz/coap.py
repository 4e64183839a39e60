"""A CoAP datagram: a message that is encoded as it came, or a format error."""

from __future__ import annotations

from edge_runtime.proto.coap.message import FormatError, decode, encode

SEEDS = [
    b"\x40\x01\x00\x01\xb7devices",
    b"\x44\x02\x12\x34abcd\xb7devices\x02gh\x06events\x11\x3c\xff\xa0",
    b"\x50\x02\0\x02\xff1",
    b"\x40\0\0\0",
    b"\x70\0\0\0",
    b"\x40\x01\0\x01\xd1\xf2\x03\xe0\xff\xff",
]


def datagram(data: bytes) -> None:
    """One."""
    try:
        message = decode(data)
    except FormatError:
        return
    again = decode(encode(message))
    assert again == message, (message, again)
