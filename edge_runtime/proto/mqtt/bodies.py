"""What stands in the bodies of the packets that a server receives (all but PUBLISH), in both versions."""

from __future__ import annotations

from edge_runtime.proto.mqtt import properties as props
from edge_runtime.proto.mqtt.fields import Fields
from edge_runtime.proto.mqtt.packets import (
    Auth,
    Connect,
    ConnectCode,
    Disconnect,
    PubAck,
    PubComp,
    PubRec,
    PubRel,
    Subscribe,
    Unsubscribe,
    Will,
    connack,
)
from edge_runtime.proto.mqtt.topics import check_filter, check_name, shared
from edge_runtime.proto.mqtt.violation import PROTOCOL_ERROR, ProtocolViolation

_NO_LOCAL = 4


def connect(fields: Fields) -> Connect:
    """A CONNECT."""
    protocol = fields.text("the protocol name")
    if protocol not in ("MQTT", "MQIsdp"):
        raise ProtocolViolation("the protocol name of a CONNECT is not 'MQTT'", "MQTT-3.1.2-1")
    level = fields.number(1, "the protocol level")
    if level not in (4, 5) or protocol != "MQTT":
        raise ProtocolViolation(
            f"protocol level {level}; MQTT 3.1.1 (level 4) and 5.0 (level 5) are spoken here",
            "MQTT-3.1.2-2",
            answer=connack(ConnectCode.BAD_PROTOCOL_LEVEL),
        )
    flags = fields.number(1, "the connect flags")
    has_user, has_password, has_will = flags & 128, flags & 64, flags & 4
    will_qos = flags >> 3 & 3
    if flags & 1:
        raise ProtocolViolation("the reserved connect flag is set", "MQTT-3.1.2-3")
    if not has_will and flags & 0x38:
        raise ProtocolViolation("a CONNECT has a QoS or retain flag for a will, and no will", "MQTT-3.1.2-11")
    if will_qos == 3:
        raise ProtocolViolation("a will asks for QoS 3", "MQTT-3.1.2-14")
    if has_password and not has_user and level == 4:
        raise ProtocolViolation("a CONNECT has a password and no user name", "MQTT-3.1.2-22")
    keep_alive = fields.number(2, "the keep-alive")
    found = props.NONE
    if level == 5:
        found = props.read(fields, props.CONNECT)
        if found.authentication_data is not None and found.authentication_method is None:
            raise ProtocolViolation("authentication data without a method", "3.1.2.11.10", reason=PROTOCOL_ERROR)
    client_id = fields.text("the client identifier")
    will = _will(fields, will_qos, bool(flags & 32), level) if has_will else None
    user_name = fields.text("the user name") if has_user else None
    password = fields.binary("the password") if has_password else None
    fields.finish("a CONNECT")
    clean = bool(flags & 2)
    if not client_id and not clean and level == 4:
        raise ProtocolViolation(
            "an empty client identifier needs a clean session",
            "MQTT-3.1.3-8",
            answer=connack(ConnectCode.IDENTIFIER_REJECTED),
        )
    return Connect(client_id, clean, keep_alive, user_name, password, will, level, found)


def _will(fields: Fields, qos: int, retain: bool, level: int) -> Will:
    found = props.read(fields, props.WILL) if level == 5 else props.NONE
    _check_response_topic(found)
    topic = fields.text("the will topic")
    check_name(topic)
    return Will(topic, fields.binary("the will message"), qos, retain, found)


def publish_properties(fields: Fields) -> props.Properties:
    """The properties of a PUBLISH from a client."""
    found = props.read(fields, props.PUBLISH)
    if found.subscription_ids:
        raise ProtocolViolation(
            "a client's PUBLISH has a subscription identifier", "MQTT-3.3.4-6", reason=PROTOCOL_ERROR
        )
    _check_response_topic(found)
    return found


def _check_response_topic(found: props.Properties) -> None:
    if found.response_topic is not None:
        try:
            check_name(found.response_topic)
        except ProtocolViolation as violation:
            raise ProtocolViolation(
                f"as a response topic, {violation}", "MQTT-3.3.2-14", reason=PROTOCOL_ERROR
            ) from None


_ACKS: dict[int, tuple[type[PubAck | PubRec | PubRel | PubComp], str]] = {
    4: (PubAck, "a PUBACK"),
    5: (PubRec, "a PUBREC"),
    6: (PubRel, "a PUBREL"),
    7: (PubComp, "a PUBCOMP"),
}


def acknowledgement(kind: int, fields: Fields, version: int) -> PubAck | PubRec | PubRel | PubComp:
    """A PUBACK, PUBREC, PUBREL or PUBCOMP."""
    made, name = _ACKS[kind]
    identity = fields.number(2, f"the packet identifier of {name}")
    reason = 0
    if version == 5 and fields.left:
        reason = fields.number(1, f"the reason code of {name}")
        if fields.left:
            props.read(fields, props.ACK)
    fields.finish(name)
    return made(identity, reason)


def subscribe(fields: Fields, version: int) -> Subscribe:
    """A SUBSCRIBE."""
    identity = _packet_id(fields, "a SUBSCRIBE")
    found = props.read(fields, props.SUBSCRIBE) if version == 5 else props.NONE
    filters = []
    while fields.left:
        pattern = fields.text("a topic filter")
        check_filter(pattern)
        options = fields.number(1, "the requested QoS")
        if version == 4 and options > 2:
            raise ProtocolViolation(f"a SUBSCRIBE asks for QoS {options}", "MQTT-3.8.3-4")
        if options & 3 == 3:
            raise ProtocolViolation("a SUBSCRIBE asks for QoS 3", "MQTT-3.8.3-4", reason=PROTOCOL_ERROR)
        if options & 0xC0:
            raise ProtocolViolation("reserved bits of subscription options are set", "MQTT-3.8.3-5")
        if options >> 4 == 3:
            raise ProtocolViolation("a SUBSCRIBE asks for the retain handling 3", "3.8.3.1", reason=PROTOCOL_ERROR)
        if shared(pattern) is not None and options & _NO_LOCAL:
            raise ProtocolViolation("a shared subscription asks for no local", "MQTT-3.8.3-4", reason=PROTOCOL_ERROR)
        filters.append((pattern, options))
    if not filters:
        raise ProtocolViolation("a SUBSCRIBE without a topic filter", "MQTT-3.8.3-3", reason=PROTOCOL_ERROR)
    return Subscribe(identity, filters, found)


def unsubscribe(fields: Fields, version: int) -> Unsubscribe:
    """An UNSUBSCRIBE."""
    identity = _packet_id(fields, "an UNSUBSCRIBE")
    found = props.read(fields, props.UNSUBSCRIBE) if version == 5 else props.NONE
    filters = []
    while fields.left:
        pattern = fields.text("a topic filter")
        check_filter(pattern)
        filters.append(pattern)
    if not filters:
        raise ProtocolViolation("an UNSUBSCRIBE without a topic filter", "MQTT-3.10.3-2", reason=PROTOCOL_ERROR)
    return Unsubscribe(identity, filters, found)


def disconnect(fields: Fields, version: int) -> Disconnect:
    """A DISCONNECT."""
    if version == 4 or not fields.left:
        fields.finish("a DISCONNECT")
        return Disconnect()
    reason = fields.number(1, "the reason code of a DISCONNECT")
    found = props.read(fields, props.DISCONNECT) if fields.left else props.NONE
    fields.finish("a DISCONNECT")
    return Disconnect(reason, found)


def auth(fields: Fields) -> Auth:
    """An AUTH."""
    if not fields.left:
        return Auth(0)
    reason = fields.number(1, "the reason code of an AUTH")
    found = props.read(fields, props.AUTH) if fields.left else props.NONE
    fields.finish("an AUTH")
    return Auth(reason, found)


def _packet_id(fields: Fields, packet: str) -> int:
    packet_id = fields.number(2, f"the packet identifier of {packet}")
    if not packet_id:
        raise ProtocolViolation(f"{packet} has the packet identifier 0", "MQTT-2.3.1-1", reason=PROTOCOL_ERROR)
    return packet_id
