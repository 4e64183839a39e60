"""The server's end of one MQTT connection, version 3.1.1 or 5.0: bytes in, packets out."""

from __future__ import annotations

from edge_runtime.proto.mqtt import bodies
from edge_runtime.proto.mqtt.fields import Fields, text
from edge_runtime.proto.mqtt.packets import Packet, PingReq, Publication, Publish
from edge_runtime.proto.mqtt.properties import NONE
from edge_runtime.proto.mqtt.topics import check_name
from edge_runtime.proto.mqtt.version5 import Reason
from edge_runtime.proto.mqtt.violation import PROTOCOL_ERROR, ProtocolViolation

_CONNECT, _PUBACK, _PUBREL, _PUBCOMP, _SUBSCRIBE, _UNSUBSCRIBE, _PINGREQ, _DISCONNECT, _AUTH = (
    1,
    4,
    6,
    7,
    8,
    10,
    12,
    14,
    15,
)
_NOT_FROM_CLIENTS = {0: "reserved", 2: "CONNACK", 9: "SUBACK", 11: "UNSUBACK", 13: "PINGRESP"}
_REQUIRED_FLAGS = {
    _PUBREL: (2, "MQTT-3.6.1-1"),
    _SUBSCRIBE: (2, "MQTT-3.8.1-1"),
    _UNSUBSCRIBE: (2, "MQTT-3.10.1-1"),
}
_TOPIC_CACHE = 64
"""Topic names remembered as checked; a device publishes on a handful."""
_TLS_HANDSHAKE = 0x16


class ServerMachine:
    """Reads what one client sends. The version is the client's, by its CONNECT.

    It holds at most one incomplete packet, whose announced size was held to the limit before a byte of it was kept.
    """

    __slots__ = ("_alive", "_connected", "_limit", "_max_packet", "_need", "_partial", "_topics", "_version")

    def __init__(self, *, max_packet: int = 262_144, max_connect: int = 16_384) -> None:
        """`max_connect` limits the first packet, which comes from somebody not yet known; both count whole packets."""
        self._max_packet = max_packet
        self._limit = min(max_connect, max_packet)
        self._connected = False
        self._alive = True
        self._partial = bytearray()
        self._need = 0
        self._topics: dict[bytes, str] = {}
        self._version = 4

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
                    f"a packet of {stop - position} bytes; the limit is {self._limit}",
                    "mqtt.max_packet",
                    reason=Reason.PACKET_TOO_LARGE,
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
            topic = self._topic(name)
        qos = first >> 1 & 3
        if self._version == 5 or qos == 2:
            return self._publication(first, data, end, stop, topic)
        if qos == 0:
            if first & 8:
                raise ProtocolViolation("a PUBLISH of QoS 0 is marked as a duplicate", "MQTT-3.3.1-2")
            return Publish(topic, data[end:stop], 0, 0, False, bool(first & 1))
        if qos == 3:
            raise ProtocolViolation("a PUBLISH asks for QoS 3", "MQTT-3.3.1-4")
        if end + 2 > stop:
            raise ProtocolViolation("a PUBLISH of QoS 1 has no packet identifier", "MQTT-2.3.1-1")
        packet_id = data[end] << 8 | data[end + 1]
        if not packet_id:
            raise ProtocolViolation("a PUBLISH has the packet identifier 0", "MQTT-2.3.1-1")
        return Publish(topic, data[end + 2 : stop], 1, packet_id, bool(first & 8), bool(first & 1))

    def _topic(self, name: bytes) -> str:
        topic = text(name, "the topic name of a PUBLISH")
        if topic or self._version == 4:  # in MQTT 5 an alias may stand for it
            check_name(topic)
        if len(self._topics) >= _TOPIC_CACHE:
            self._topics.clear()
        self._topics[name] = topic
        return topic

    def _publication(self, first: int, data: bytes, start: int, stop: int, topic: str) -> Publication:
        """The slower way of all that `Publish` alone cannot say."""
        qos = first >> 1 & 3
        dup = bool(first & 8)
        if qos == 3:
            raise ProtocolViolation("a PUBLISH asks for QoS 3", "MQTT-3.3.1-4")
        if dup and not qos:
            raise ProtocolViolation("a PUBLISH of QoS 0 is marked as a duplicate", "MQTT-3.3.1-2")
        fields = Fields(data[start:stop])
        packet_id = 0
        if qos:
            if fields.left < 2:
                raise ProtocolViolation(f"a PUBLISH of QoS {qos} has no packet identifier", "MQTT-2.3.1-1")
            packet_id = fields.number(2, "the packet identifier of a PUBLISH")
            if not packet_id:
                raise ProtocolViolation("a PUBLISH has the packet identifier 0", "MQTT-2.3.1-1", reason=PROTOCOL_ERROR)
        properties = bodies.publish_properties(fields) if self._version == 5 else NONE
        if not topic and properties.topic_alias is None:
            raise ProtocolViolation("a PUBLISH has neither a topic nor an alias", "MQTT-4.7.3-1", reason=PROTOCOL_ERROR)
        return Publication(topic, fields.rest(), qos, packet_id, dup, bool(first & 1), properties)

    def _decode(self, first: int, body: bytes) -> Packet:
        kind, flags = first >> 4, first & 15
        if kind in _NOT_FROM_CLIENTS or (kind == _AUTH and self._version == 4):
            name = _NOT_FROM_CLIENTS.get(kind, "reserved")
            raise ProtocolViolation(f"a packet of type {kind} ({name}), which no client has a reason to send here")
        required, statement = _REQUIRED_FLAGS.get(kind, (0, "MQTT-2.2.2-2"))
        if flags != required:
            raise ProtocolViolation(f"the fixed header of packet type {kind} has the flags {flags:04b}", statement)
        fields = Fields(body)
        if _PUBACK <= kind <= _PUBCOMP:
            return bodies.acknowledgement(kind, fields, self._version)
        if kind == _CONNECT:
            if self._connected:
                raise ProtocolViolation("a second CONNECT on one connection", "MQTT-3.1.0-2", reason=PROTOCOL_ERROR)
            connect = bodies.connect(fields)
            self._connected = True
            self._limit = self._max_packet
            self._version = connect.version
            return connect
        if kind == _SUBSCRIBE:
            return bodies.subscribe(fields, self._version)
        if kind == _UNSUBSCRIBE:
            return bodies.unsubscribe(fields, self._version)
        if kind == _PINGREQ:
            fields.finish("a PINGREQ")
            return PingReq()
        if kind == _DISCONNECT:
            left = bodies.disconnect(fields, self._version)
            self._end()
            return left
        if kind == _AUTH:
            return bodies.auth(fields)
        raise AssertionError(f"packet type {kind} is neither refused nor read")


def _not_connect(first: int) -> ProtocolViolation:
    if first == _TLS_HANDSHAKE:
        return ProtocolViolation("a TLS handshake; this port speaks plain MQTT", "MQTT-3.1.0-1")
    if first >> 4 == _CONNECT:
        return ProtocolViolation(f"the fixed header of a CONNECT has the flags {first & 15:04b}", "MQTT-2.2.2-2")
    return ProtocolViolation("the first packet is not a CONNECT", "MQTT-3.1.0-1")
