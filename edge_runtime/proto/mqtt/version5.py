"""What a server sends in MQTT 5.0, and the reason codes (section 2.4) that it has a use for."""

from __future__ import annotations

from enum import IntEnum

from edge_runtime.proto.mqtt.properties import NONE, Properties, text, variable, write

PUBACK, PUBREC, PUBREL, PUBCOMP = 0x40, 0x50, 0x62, 0x70
"""The first bytes of the acknowledgements."""


class Reason(IntEnum):
    """Reason codes."""

    SUCCESS = 0x00
    WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    UNSPECIFIED = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC = 0x83
    UNSUPPORTED_VERSION = 0x84
    CLIENT_ID_NOT_VALID = 0x85
    BAD_CREDENTIALS = 0x86
    NOT_AUTHORISED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_NAME_INVALID = 0x90
    PACKET_ID_IN_USE = 0x91
    PACKET_ID_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99


def connack(reason: int, properties: Properties = NONE, *, session_present: bool = False) -> bytes:
    """CONNACK; a refusal never says that a session is present ([MQTT-3.2.2-6])."""
    return _packet(0x20, bytes((session_present and not reason, reason)) + write(properties))


def acknowledgement(first: int, packet_id: int, reason: int = 0, properties: Properties = NONE) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP; success in its short form."""
    if not reason and properties is NONE:
        return bytes((first, 2)) + packet_id.to_bytes(2)
    return _packet(first, packet_id.to_bytes(2) + bytes((reason,)) + (write(properties) if properties != NONE else b""))


def publish(
    topic: str,
    payload: bytes,
    properties: Properties,
    *,
    qos: int = 0,
    packet_id: int = 0,
    dup: bool = False,
    retain: bool = False,
) -> bytes:
    """PUBLISH; the topic may be empty where `properties` has a topic alias."""
    body = text(topic) + (packet_id.to_bytes(2) if qos else b"") + write(properties) + payload
    return _packet(0x30 | dup << 3 | qos << 1 | retain, body)


def suback(packet_id: int, codes: list[int]) -> bytes:
    """SUBACK: for each filter, in order, the QoS granted or a reason code ([MQTT-3.8.4-6])."""
    return _packet(0x90, packet_id.to_bytes(2) + b"\0" + bytes(codes))


def unsuback(packet_id: int, codes: list[int]) -> bytes:
    """UNSUBACK: a reason code for each filter, in order ([MQTT-3.11.3-1])."""
    return _packet(0xB0, packet_id.to_bytes(2) + b"\0" + bytes(codes))


def disconnect(reason: int, properties: Properties = NONE) -> bytes:
    """DISCONNECT."""
    return _packet(0xE0, bytes((reason,)) + (write(properties) if properties != NONE else b""))


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + variable(len(body)) + body
