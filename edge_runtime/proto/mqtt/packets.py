"""The control packets: those that a server receives as types, those that it sends in MQTT 3.1.1 as encoders."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from edge_runtime.proto.mqtt.properties import NONE, Properties, variable


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
    properties: Properties = NONE


class Connect(msgspec.Struct, frozen=True):
    """A client introduces itself."""

    client_id: str
    clean_session: bool
    """Called Clean Start in MQTT 5, where it says nothing of the session's end."""
    keep_alive: int
    """Seconds; 0 for none."""
    user_name: str | None = None
    password: bytes | None = None
    will: Will | None = None
    version: int = 4
    """The protocol level: 4 for MQTT 3.1.1, 5 for MQTT 5.0."""
    properties: Properties = NONE

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


class Publication(Publish, frozen=True, gc=False):
    """A message of QoS 2, or of MQTT 5: apart, so that whoever does not offer these has nothing to ask of the rest."""

    properties: Properties = NONE


class PubAck(msgspec.Struct, frozen=True, gc=False):
    """The client has taken a message of QoS 1."""

    packet_id: int
    reason: int = 0


class PubRec(msgspec.Struct, frozen=True, gc=False):
    """The client has taken a message of QoS 2: the first half."""

    packet_id: int
    reason: int = 0


class PubRel(msgspec.Struct, frozen=True, gc=False):
    """The client will not send its message of QoS 2 again."""

    packet_id: int
    reason: int = 0


class PubComp(msgspec.Struct, frozen=True, gc=False):
    """The client has forgotten the packet identifier of a message of QoS 2."""

    packet_id: int
    reason: int = 0


class Subscribe(msgspec.Struct, frozen=True):
    """Topic filters in the order of the packet, each with the QoS asked for (0 to 2).

    In MQTT 5 the number holds more options above the QoS (section 3.8.3.1): 4 no local, 8 retain as published, 16 and
    32 the retain handling.
    """

    packet_id: int
    filters: list[tuple[str, int]]
    properties: Properties = NONE


class Unsubscribe(msgspec.Struct, frozen=True):
    """Topic filters no longer wanted."""

    packet_id: int
    filters: list[str]
    properties: Properties = NONE


class PingReq(msgspec.Struct, frozen=True):
    """The client is alive and wants to know whether the server is."""


class Disconnect(msgspec.Struct, frozen=True):
    """The client leaves in good order; nothing of what follows is read."""

    reason: int = 0
    properties: Properties = NONE


class Auth(msgspec.Struct, frozen=True):
    """The client goes on with an extended authentication."""

    reason: int
    properties: Properties = NONE


Packet = (
    Connect
    | Publish
    | Publication
    | PubAck
    | PubRec
    | PubRel
    | PubComp
    | Subscribe
    | Unsubscribe
    | PingReq
    | Disconnect
    | Auth
)

PINGRESP = b"\xd0\x00"


def connack(code: ConnectCode, *, session_present: bool = False) -> bytes:
    """CONNACK; a refusal never says that a session is present ([MQTT-3.2.2-4])."""
    return bytes((0x20, 2, session_present and code == ConnectCode.ACCEPTED, code))


def puback(packet_id: int) -> bytes:
    """PUBACK."""
    return b"\x40\x02" + packet_id.to_bytes(2)


def publish(
    topic: str, payload: bytes, *, qos: int = 0, packet_id: int = 0, dup: bool = False, retain: bool = False
) -> bytes:
    """PUBLISH of MQTT 3.1.1; `packet_id` (1 to 65535) counts for QoS 1 and 2 only."""
    name = topic.encode()
    body = len(name).to_bytes(2) + name + (packet_id.to_bytes(2) if qos else b"") + payload
    return bytes((0x30 | dup << 3 | qos << 1 | retain,)) + variable(len(body)) + body


def suback(packet_id: int, codes: list[int]) -> bytes:
    """SUBACK: for each filter, in order, the QoS granted, or 0x80 for a refusal ([MQTT-3.9.3-1])."""
    return b"\x90" + variable(2 + len(codes)) + packet_id.to_bytes(2) + bytes(codes)


def unsuback(packet_id: int) -> bytes:
    """UNSUBACK."""
    return bytes((0xB0, 2, packet_id >> 8, packet_id & 255))
