"""The control packets of MQTT 3.1.1: those that a server receives as types, those that it sends as encoders."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from edge_runtime.errors import EdgeError


class ProtocolViolation(EdgeError):
    """The peer broke the protocol; its connection must be closed ([MQTT-4.8.0-1]) and nothing more read from it."""

    def __init__(self, message: str, statement: str = "MQTT-4.8.0-1", *, answer: bytes = b"") -> None:
        super().__init__(f"{message} [{statement}]")
        self.statement = statement
        """The normative statement that was broken, by its name in the standard; for a limit, its setting."""
        self.answer = answer
        """What the standard wants sent before the connection is closed: a CONNACK, or nothing."""


class ConnectCode(IntEnum):
    """The return codes of a CONNACK (section 3.2.2.3)."""

    ACCEPTED = 0
    BAD_PROTOCOL_LEVEL = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_CREDENTIALS = 4
    NOT_AUTHORISED = 5


class Will(msgspec.Struct, frozen=True):
    """What the client wants published when it is lost."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Connect(msgspec.Struct, frozen=True):
    """A client introduces itself."""

    client_id: str
    clean_session: bool
    keep_alive: int
    """Seconds; 0 for none."""
    user_name: str | None = None
    password: bytes | None = None
    will: Will | None = None

    def __repr__(self) -> str:
        """Without the password, which must not reach a log."""
        return f"Connect(client_id={self.client_id!r}, user_name={self.user_name!r}, keep_alive={self.keep_alive})"


class Publish(msgspec.Struct, frozen=True, gc=False):
    """A message from the client; `packet_id` is 0 for QoS 0."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    dup: bool
    retain: bool


class PubAck(msgspec.Struct, frozen=True, gc=False):
    """The client has taken a message of QoS 1."""

    packet_id: int


class Subscribe(msgspec.Struct, frozen=True):
    """Topic filters, each with the QoS asked for (0 to 2), in the order of the packet."""

    packet_id: int
    filters: list[tuple[str, int]]


class Unsubscribe(msgspec.Struct, frozen=True):
    """Topic filters no longer wanted."""

    packet_id: int
    filters: list[str]


class PingReq(msgspec.Struct, frozen=True):
    """The client is alive and wants to know whether the server is."""


class Disconnect(msgspec.Struct, frozen=True):
    """The client leaves in good order; nothing of what follows is read."""


Packet = Connect | Publish | PubAck | Subscribe | Unsubscribe | PingReq | Disconnect

PINGRESP = b"\xd0\x00"


def connack(code: ConnectCode, *, session_present: bool = False) -> bytes:
    """CONNACK; a refusal never says that a session is present ([MQTT-3.2.2-4])."""
    return bytes((0x20, 2, session_present and code == ConnectCode.ACCEPTED, code))


def puback(packet_id: int) -> bytes:
    """PUBACK."""
    return b"\x40\x02" + packet_id.to_bytes(2)


def publish(topic: str, payload: bytes, *, qos: int = 0, packet_id: int = 0, dup: bool = False) -> bytes:
    """PUBLISH with QoS 0 or 1; `packet_id` (1 to 65535) counts for QoS 1 only."""
    name = topic.encode()
    body = len(name).to_bytes(2) + name + (packet_id.to_bytes(2) if qos else b"") + payload
    return bytes((0x30 | dup << 3 | qos << 1,)) + _remaining_length(len(body)) + body


def suback(packet_id: int, codes: list[int]) -> bytes:
    """SUBACK: for each filter, in order, the QoS granted, or 0x80 for a refusal ([MQTT-3.9.3-1])."""
    return b"\x90" + _remaining_length(2 + len(codes)) + packet_id.to_bytes(2) + bytes(codes)


def unsuback(packet_id: int) -> bytes:
    """UNSUBACK."""
    return bytes((0xB0, 2, packet_id >> 8, packet_id & 255))


def _remaining_length(size: int) -> bytes:
    digits = bytearray()
    while size > 127:
        digits.append(size & 127 | 128)
        size >>= 7
    digits.append(size)
    return bytes(digits)
