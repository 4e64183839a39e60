"""The properties of MQTT 5.0 (section 2.2.2): which there are, how each is written, and where it may stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from edge_runtime.proto.mqtt.violation import PROTOCOL_ERROR, ProtocolViolation

if TYPE_CHECKING:
    from edge_runtime.proto.mqtt.fields import Fields

MAX_USER_PROPERTIES = 64
"""User properties of one packet; the standard knows no bound, a gateway needs one."""


class Properties(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a packet carries beside its fixed fields; None, or an empty tuple, for what is not there."""

    payload_format: int | None = None
    message_expiry: int | None = None
    """Seconds."""
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_ids: tuple[int, ...] = ()
    session_expiry: int | None = None
    """Seconds; 0xFFFFFFFF for never."""
    assigned_client_id: str | None = None
    server_keep_alive: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: int | None = None
    will_delay: int | None = None
    """Seconds."""
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user: tuple[tuple[str, str], ...] = ()
    maximum_packet_size: int | None = None
    wildcards_available: int | None = None
    subscription_ids_available: int | None = None
    shared_available: int | None = None


NONE = Properties()

_BYTE, _TWO, _FOUR, _VARIABLE, _TEXT, _BINARY, _PAIR = range(7)
_SWITCH = (0, 1)
CONNECT, WILL, CONNACK, PUBLISH, ACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE, DISCONNECT, AUTH = (
    "a CONNECT",
    "a will",
    "a CONNACK",
    "a PUBLISH",
    "an acknowledgement",
    "a SUBSCRIBE",
    "a SUBACK",
    "an UNSUBSCRIBE",
    "a DISCONNECT",
    "an AUTH",
)
_EVERY = frozenset((CONNECT, WILL, CONNACK, PUBLISH, ACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE, DISCONNECT, AUTH))
_MESSAGE = frozenset((PUBLISH, WILL))


class _Kind(msgspec.Struct, frozen=True):
    name: str
    form: int
    where: frozenset[str]
    allowed: tuple[int, ...] = ()
    """The only values, where there are few."""
    nonzero: bool = False


def _in(*where: str) -> frozenset[str]:
    return frozenset(where)


_KINDS = {
    0x01: _Kind("payload_format", _BYTE, _MESSAGE, _SWITCH),
    0x02: _Kind("message_expiry", _FOUR, _MESSAGE),
    0x03: _Kind("content_type", _TEXT, _MESSAGE),
    0x08: _Kind("response_topic", _TEXT, _MESSAGE),
    0x09: _Kind("correlation_data", _BINARY, _MESSAGE),
    0x0B: _Kind("subscription_ids", _VARIABLE, _in(PUBLISH, SUBSCRIBE), nonzero=True),
    0x11: _Kind("session_expiry", _FOUR, _in(CONNECT, CONNACK, DISCONNECT)),
    0x12: _Kind("assigned_client_id", _TEXT, _in(CONNACK)),
    0x13: _Kind("server_keep_alive", _TWO, _in(CONNACK)),
    0x15: _Kind("authentication_method", _TEXT, _in(CONNECT, CONNACK, AUTH)),
    0x16: _Kind("authentication_data", _BINARY, _in(CONNECT, CONNACK, AUTH)),
    0x17: _Kind("request_problem_information", _BYTE, _in(CONNECT), _SWITCH),
    0x18: _Kind("will_delay", _FOUR, _in(WILL)),
    0x19: _Kind("request_response_information", _BYTE, _in(CONNECT), _SWITCH),
    0x1A: _Kind("response_information", _TEXT, _in(CONNACK)),
    0x1C: _Kind("server_reference", _TEXT, _in(CONNACK, DISCONNECT)),
    0x1F: _Kind("reason_string", _TEXT, _in(CONNACK, ACK, SUBACK, DISCONNECT, AUTH)),
    0x21: _Kind("receive_maximum", _TWO, _in(CONNECT, CONNACK), nonzero=True),
    0x22: _Kind("topic_alias_maximum", _TWO, _in(CONNECT, CONNACK)),
    0x23: _Kind("topic_alias", _TWO, _in(PUBLISH)),
    0x24: _Kind("maximum_qos", _BYTE, _in(CONNACK), _SWITCH),
    0x25: _Kind("retain_available", _BYTE, _in(CONNACK), _SWITCH),
    0x26: _Kind("user", _PAIR, _EVERY),
    0x27: _Kind("maximum_packet_size", _FOUR, _in(CONNECT, CONNACK), nonzero=True),
    0x28: _Kind("wildcards_available", _BYTE, _in(CONNACK), _SWITCH),
    0x29: _Kind("subscription_ids_available", _BYTE, _in(CONNACK), _SWITCH),
    0x2A: _Kind("shared_available", _BYTE, _in(CONNACK), _SWITCH),
}

_READ: dict[int, Callable[[Fields, str], Any]] = {
    _BYTE: lambda fields, what: fields.number(1, what),
    _TWO: lambda fields, what: fields.number(2, what),
    _FOUR: lambda fields, what: fields.number(4, what),
    _VARIABLE: lambda fields, what: fields.variable(what),
    _TEXT: lambda fields, what: fields.text(what),
    _BINARY: lambda fields, what: fields.binary(what),
    _PAIR: lambda fields, what: (fields.text(what), fields.text(what)),
}


def read(fields: Fields, packet: str) -> Properties:
    """The properties that come next in `packet`, one of the constants above. Raises ProtocolViolation."""
    section = fields.part(fields.variable(f"the length of the properties of {packet}"), f"the properties of {packet}")
    if not section.left:
        return NONE
    values: dict[str, Any] = {}
    users: list[tuple[str, str]] = []
    identifiers: list[int] = []
    while section.left:
        number = section.variable("the identifier of a property")
        kind = _KINDS.get(number)
        if kind is None or packet not in kind.where:
            raise ProtocolViolation(f"{packet} has the property 0x{number:02X}, which does not belong there", "2.2.2.2")
        value = _READ[kind.form](section, f"the property '{kind.name}'")
        if (kind.allowed and value not in kind.allowed) or (kind.nonzero and not value):
            raise ProtocolViolation(
                f"the property '{kind.name}' of {packet} cannot be {value}", "2.2.2.2", reason=PROTOCOL_ERROR
            )
        if number == 0x26:
            users.append(value)
            if len(users) > MAX_USER_PROPERTIES:
                raise ProtocolViolation(f"{packet} has more than {MAX_USER_PROPERTIES} user properties", "mqtt.limits")
        elif (number == 0x0B and not identifiers) or (
            number == 0x0B and packet == PUBLISH and len(identifiers) < MAX_USER_PROPERTIES
        ):
            identifiers.append(value)
        elif kind.name in values or number == 0x0B:
            raise ProtocolViolation(f"{packet} has the property '{kind.name}' twice", "2.2.2.2", reason=PROTOCOL_ERROR)
        else:
            values[kind.name] = value
    return Properties(subscription_ids=tuple(identifiers), user=tuple(users), **values)


def write(properties: Properties) -> bytes:
    """The properties with their length before them."""
    if properties is NONE:
        return b"\0"
    body = bytearray()
    for number, kind in _KINDS.items():
        value = getattr(properties, kind.name)
        if value is None or value == ():
            continue
        for item in value if number in (0x0B, 0x26) else (value,):
            body.append(number)
            body += _written(kind.form, item)
    return variable(len(body)) + body


def _written(form: int, value: Any) -> bytes:
    if form == _VARIABLE:
        return variable(value)
    if form == _TEXT:
        return text(value)
    if form == _BINARY:
        return len(value).to_bytes(2) + bytes(value)
    if form == _PAIR:
        return text(value[0]) + text(value[1])
    number: int = value
    return number.to_bytes({_BYTE: 1, _TWO: 2, _FOUR: 4}[form])


def text(value: str) -> bytes:
    """A UTF-8 string after its 16-bit length."""
    raw = value.encode()
    return len(raw).to_bytes(2) + raw


def variable(number: int) -> bytes:
    """A variable byte integer (section 1.5.5), also the remaining length of any packet."""
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)
