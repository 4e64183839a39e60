"""What a client sends in MQTT: the same packets however it is cut, and never more held than one packet."""

from __future__ import annotations

from edge_runtime.proto.mqtt import Connect, Packet, ProtocolViolation, ServerMachine
from fuzz.pieces import cut

MAX_PACKET = 1024
CONNECT_4 = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c"
CONNECT_5 = b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01c"
_COMMON = [b"\xc0\0", b"\xe0\0", b"\x40\x02\0\x01", b"\x50\x02\0\x01", b"\x62\x02\0\x01", b"\x70\x02\0\x01"]
SEEDS_4 = [
    b"\x30\x06\0\x03a/bx",
    b"\x32\x08\0\x03a/b\0\x01x",
    b"\x82\x08\0\x01\0\x03a/#\x01",
    b"\xa2\x07\0\x01\0\x03a/+",
    *_COMMON,
]
SEEDS_5 = [
    b"\x30\x07\0\x03a/b\0x",
    b"\x34\x0c\0\x03a/b\0\x01\x03\x23\0\x01x",
    b"\x30\x0f\0\x03a/b\x08\x02\0\0\0\x09\x23\0\x02x",
    b"\x82\x0b\0\x01\x02\x0b\x07\0\x03a/#\x2d",
    b"\xa2\x08\0\x01\0\0\x03a/+",
    b"\xe0\x07\0\x05\x11\0\0\0\x09",
    b"\xf0\0",
    *_COMMON,
]
SEEDS_CONNECT = [
    CONNECT_4,
    CONNECT_5,
    b"\x10\x25\0\x04MQTT\x05\xc6\0\x3c\x05\x11\0\0\0\x09\0\x01c\x05\x18\0\0\0\x01\0\x01w\0\x01m\0\x01u\0\x01p",
]


def connect(data: bytes) -> None:
    """From the first byte on."""
    _feed(b"", data)


def version_4(data: bytes) -> None:
    """After a CONNECT of 3.1.1."""
    _feed(CONNECT_4, data)


def version_5(data: bytes) -> None:
    """After a CONNECT of 5.0."""
    _feed(CONNECT_5, data)


def _feed(before: bytes, data: bytes) -> None:
    whole, parts = _machine(before), _machine(before)
    at_once = whole.feed(data)
    by_and_by: list[Packet | ProtocolViolation] = []
    for piece in cut(data):
        by_and_by += parts.feed(piece)
        assert parts.buffered <= MAX_PACKET
    assert [_comparable(packet) for packet in at_once] == [_comparable(packet) for packet in by_and_by]
    assert not any(isinstance(packet, ProtocolViolation) for packet in at_once[:-1])


def _machine(before: bytes) -> ServerMachine:
    machine = ServerMachine(max_packet=MAX_PACKET, max_connect=MAX_PACKET)
    if before:
        (first,) = machine.feed(before)
        assert isinstance(first, Connect)
    return machine


def _comparable(packet: Packet | ProtocolViolation) -> object:
    return (str(packet), packet.reason) if isinstance(packet, ProtocolViolation) else packet
