"""The server's end of one MQTT 3.1.1 connection: bytes in, packets out."""

from __future__ import annotations

from edge_runtime.proto.mqtt.fields import Fields, text
from edge_runtime.proto.mqtt.packets import (
    Connect,
    ConnectCode,
    Disconnect,
    Packet,
    PingReq,
    ProtocolViolation,
    PubAck,
    Publish,
    Subscribe,
    Unsubscribe,
    Will,
    connack,
)
from edge_runtime.proto.mqtt.topics import check_filter, check_name

_CONNECT, _PUBACK, _SUBSCRIBE, _UNSUBSCRIBE, _PINGREQ, _DISCONNECT = 1, 4, 8, 10, 12, 14
_NOT_FROM_CLIENTS = {
    0: "reserved",
    2: "CONNACK",
    5: "PUBREC",
    6: "PUBREL",
    7: "PUBCOMP",
    9: "SUBACK",
    11: "UNSUBACK",
    13: "PINGRESP",
    15: "reserved",
}
_REQUIRED_FLAGS = {_SUBSCRIBE: (2, "MQTT-3.8.1-1"), _UNSUBSCRIBE: (2, "MQTT-3.10.1-1")}
_TOPIC_CACHE = 64
"""Topic names remembered as checked; a device publishes on a handful."""
_TLS_HANDSHAKE = 0x16


class ServerMachine:
    """Reads what one client sends. QoS 2 is not offered: publishing with it is a violation.

    It holds at most one incomplete packet, whose announced size was held to the limit before a byte of it was kept.
    """

    __slots__ = ("_alive", "_connected", "_limit", "_max_packet", "_need", "_partial", "_topics")

    def __init__(self, *, max_packet: int = 262_144, max_connect: int = 16_384) -> None:
        """`max_connect` limits the first packet, which comes from somebody not yet known; both count whole packets."""
        self._max_packet = max_packet
        self._limit = min(max_connect, max_packet)
        self._connected = False
        self._alive = True
        self._partial = bytearray()
        self._need = 0
        self._topics: dict[bytes, str] = {}

    @property
    def buffered(self) -> int:
        """Bytes held of an incomplete packet."""
        return len(self._partial)

    def feed(self, data: bytes) -> list[Packet | ProtocolViolation]:
        """The packets that `data` completes, in order.

        A ProtocolViolation can only be the last of them; after it, as after Disconnect, nothing is read any more.
        """
        if not self._alive:
            return []
        if self._partial:
            self._partial += data
            if len(self._partial) < self._need:
                return []
            data = bytes(self._partial)
            self._partial = bytearray()
        packets: list[Packet | ProtocolViolation] = []
        try:
            self._parse(data, packets)
        except ProtocolViolation as violation:
            packets.append(violation)
            self._end()
        return packets

    def _end(self) -> None:
        self._alive = False
        self._partial = bytearray()

    def _parse(self, data: bytes, packets: list[Packet | ProtocolViolation]) -> None:
        position = 0
        end = len(data)
        need = 2
        while end - position >= 2:
            first = data[position]
            if not self._connected and first != 0x10:
                raise _not_connect(first)
            size = data[position + 1]
            start = position + 2
            if size > 127:
                size &= 127
                shift = 7
                more = True
                while more and start < end:
                    byte = data[start]
                    size |= (byte & 127) << shift
                    shift += 7
                    start += 1
                    more = byte > 127
                    if more and shift == 28:
                        raise ProtocolViolation("a packet's remaining length has more than 4 bytes")
                if more:
                    need = end - position + 1
                    break
            stop = start + size
            if stop - position > self._limit:
                raise ProtocolViolation(
                    f"a packet of {stop - position} bytes; the limit is {self._limit}", "mqtt.max_packet"
                )
            if stop > end:
                need = stop - position
                break
            if first >> 4 == 3:
                packets.append(self._publish(first, data, start, stop))
            else:
                packets.append(self._decode(first, data[start:stop]))
                if not self._alive:
                    return
            position = stop
        if position < end:
            self._partial = bytearray(data[position:])
            self._need = need

    def _publish(self, first: int, data: bytes, start: int, stop: int) -> Publish:
        body = start + 2
        if body > stop:
            raise ProtocolViolation("a PUBLISH ends within its topic name", "MQTT-3.3.2-1")
        end = body + (data[start] << 8 | data[start + 1])
        if end > stop:
            raise ProtocolViolation("a PUBLISH ends within its topic name", "MQTT-3.3.2-1")
        name = data[body:end]
        topic = self._topics.get(name)
        if topic is None:
            topic = text(name, "the topic name of a PUBLISH")
            check_name(topic)
            if len(self._topics) >= _TOPIC_CACHE:
                self._topics.clear()
            self._topics[name] = topic
        qos = first >> 1 & 3
        if qos == 0:
            if first & 8:
                raise ProtocolViolation("a PUBLISH of QoS 0 is marked as a duplicate", "MQTT-3.3.1-2")
            return Publish(topic, data[end:stop], 0, 0, False, bool(first & 1))
        if qos == 3:
            raise ProtocolViolation("a PUBLISH asks for QoS 3", "MQTT-3.3.1-4")
        if qos == 2:
            raise ProtocolViolation(
                "a PUBLISH of QoS 2, which is not offered here: QoS 1 does, since repeated events are recognised",
                "docs/wire.md, Topics",
            )
        if end + 2 > stop:
            raise ProtocolViolation("a PUBLISH of QoS 1 has no packet identifier", "MQTT-2.3.1-1")
        packet_id = data[end] << 8 | data[end + 1]
        if not packet_id:
            raise ProtocolViolation("a PUBLISH has the packet identifier 0", "MQTT-2.3.1-1")
        return Publish(topic, data[end + 2 : stop], 1, packet_id, bool(first & 8), bool(first & 1))

    def _decode(self, first: int, body: bytes) -> Packet:
        kind, flags = first >> 4, first & 15
        if kind in _NOT_FROM_CLIENTS:
            name = _NOT_FROM_CLIENTS[kind]
            raise ProtocolViolation(f"a packet of type {kind} ({name}), which no client has a reason to send here")
        required, statement = _REQUIRED_FLAGS.get(kind, (0, "MQTT-2.2.2-2"))
        if flags != required:
            raise ProtocolViolation(f"the fixed header of packet type {kind} has the flags {flags:04b}", statement)
        fields = Fields(body)
        if kind == _CONNECT:
            if self._connected:
                raise ProtocolViolation("a second CONNECT on one connection", "MQTT-3.1.0-2")
            connect = _connect(fields)
            self._connected = True
            self._limit = self._max_packet
            return connect
        if kind == _PUBACK:
            packet_id = fields.number(2, "the packet identifier of a PUBACK")
            fields.finish("a PUBACK")
            return PubAck(packet_id)
        if kind == _SUBSCRIBE:
            return _subscribe(fields)
        if kind == _UNSUBSCRIBE:
            return _unsubscribe(fields)
        if kind == _PINGREQ:
            fields.finish("a PINGREQ")
            return PingReq()
        if kind == _DISCONNECT:
            fields.finish("a DISCONNECT")
            self._end()
            return Disconnect()
        raise AssertionError(f"packet type {kind} is neither refused nor read")


def _not_connect(first: int) -> ProtocolViolation:
    if first == _TLS_HANDSHAKE:
        return ProtocolViolation("a TLS handshake; this port speaks plain MQTT", "MQTT-3.1.0-1")
    if first >> 4 == _CONNECT:
        return ProtocolViolation(f"the fixed header of a CONNECT has the flags {first & 15:04b}", "MQTT-2.2.2-2")
    return ProtocolViolation("the first packet is not a CONNECT", "MQTT-3.1.0-1")


def _connect(fields: Fields) -> Connect:
    protocol = fields.text("the protocol name")
    if protocol not in ("MQTT", "MQIsdp"):
        raise ProtocolViolation("the protocol name of a CONNECT is not 'MQTT'", "MQTT-3.1.2-1")
    level = fields.number(1, "the protocol level")
    if level != 4 or protocol != "MQTT":
        raise ProtocolViolation(
            f"protocol level {level}; MQTT 3.1.1 (level 4) is spoken here",
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
    if has_password and not has_user:
        raise ProtocolViolation("a CONNECT has a password and no user name", "MQTT-3.1.2-22")
    keep_alive = fields.number(2, "the keep-alive")
    client_id = fields.text("the client identifier")
    will = None
    if has_will:
        topic = fields.text("the will topic")
        check_name(topic)
        will = Will(topic, fields.binary("the will message"), will_qos, bool(flags & 32))
    user_name = fields.text("the user name") if has_user else None
    password = fields.binary("the password") if has_password else None
    fields.finish("a CONNECT")
    clean = bool(flags & 2)
    if not client_id and not clean:
        raise ProtocolViolation(
            "an empty client identifier needs a clean session",
            "MQTT-3.1.3-8",
            answer=connack(ConnectCode.IDENTIFIER_REJECTED),
        )
    return Connect(client_id, clean, keep_alive, user_name, password, will)


def _subscribe(fields: Fields) -> Subscribe:
    packet_id = _packet_id(fields, "a SUBSCRIBE")
    filters = []
    while fields.left:
        pattern = fields.text("a topic filter")
        check_filter(pattern)
        qos = fields.number(1, "the requested QoS")
        if qos > 2:
            raise ProtocolViolation(f"a SUBSCRIBE asks for QoS {qos}", "MQTT-3.8.3-4")
        filters.append((pattern, qos))
    if not filters:
        raise ProtocolViolation("a SUBSCRIBE without a topic filter", "MQTT-3.8.3-3")
    return Subscribe(packet_id, filters)


def _unsubscribe(fields: Fields) -> Unsubscribe:
    packet_id = _packet_id(fields, "an UNSUBSCRIBE")
    filters = []
    while fields.left:
        pattern = fields.text("a topic filter")
        check_filter(pattern)
        filters.append(pattern)
    if not filters:
        raise ProtocolViolation("an UNSUBSCRIBE without a topic filter", "MQTT-3.10.3-2")
    return Unsubscribe(packet_id, filters)


def _packet_id(fields: Fields, packet: str) -> int:
    packet_id = fields.number(2, f"the packet identifier of {packet}")
    if not packet_id:
        raise ProtocolViolation(f"{packet} has the packet identifier 0", "MQTT-2.3.1-1")
    return packet_id
