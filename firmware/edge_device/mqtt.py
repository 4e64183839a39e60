"""MQTT 3.1.1 packets (OASIS standard, 2014) as a client needs them: bytes in, packets out. No socket, no clock."""

import struct

from micropython import const

CONNACK = 2
PUBLISH = 3
PUBACK = 4
SUBACK = 9
PINGRESP = 13

_MAX_HEADER = const(5)

REFUSALS = {
    1: "it does not speak MQTT 3.1.1",
    2: "it does not accept this client identifier",
    3: "it is not available",
    4: "it does not know this device, or the key is wrong",
    5: "it does not know this device, or the key is wrong",
}
"""What a CONNACK's return code says (section 3.2.2.3)."""


class ProtocolError(Exception):
    """The other side broke the protocol: the connection cannot go on."""


def _packet(out, first, size):
    out.append(first)
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)


def _text(out, text):
    raw = text.encode() if isinstance(text, str) else text
    out.extend(struct.pack(">H", len(raw)))
    out.extend(raw)


def connect(out, client, user, password, keepalive):
    """Append CONNECT with a clean session to `out`; `keepalive` in seconds."""
    _packet(out, 0x10, 16 + len(client) + len(user) + len(password))
    out.extend(b"\0\4MQTT\4\xc2")
    out.extend(struct.pack(">H", keepalive))
    _text(out, client)
    _text(out, user)
    _text(out, password)


def publish(out, topic, payload, packet, again):
    """Append PUBLISH at QoS 1; `again` sets DUP."""
    _packet(out, 0x3A if again else 0x32, 4 + len(topic) + len(payload))
    _text(out, topic)
    out.extend(struct.pack(">H", packet))
    out.extend(payload)


def subscribe(out, topic, packet):
    """Append SUBSCRIBE to one topic filter at QoS 1."""
    _packet(out, 0x82, 5 + len(topic))
    out.extend(struct.pack(">H", packet))
    _text(out, topic)
    out.append(1)


def puback(out, packet):
    """Append PUBACK."""
    out.extend(struct.pack(">BBH", 0x40, 2, packet))


def pingreq(out):
    """Append PINGREQ."""
    out.extend(b"\xc0\0")


class Reader:
    """Cuts what arrives into packets. One larger than `max_packet` bytes is passed over and counted in `oversized`."""

    def __init__(self, max_packet):
        self._max = max_packet
        self._buffer = bytearray()
        self._skip = 0
        self.oversized = 0

    def feed(self, data):
        """Take bytes as they arrive."""
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            data = data[passed:]
        self._buffer.extend(data)

    def next(self):
        """The next whole packet as (first byte, body), or None; raises ProtocolError."""
        while True:
            buffer = self._buffer
            size = 0
            at = 1
            while True:
                if at >= len(buffer):
                    return None
                size |= (buffer[at] & 127) << 7 * (at - 1)
                at += 1
                if buffer[at - 1] < 128:
                    break
                if at == _MAX_HEADER:
                    raise ProtocolError("a packet's length is not an MQTT length")
            end = at + size
            if end > self._max:
                self.oversized += 1
                self._skip = max(0, end - len(buffer))
                self._buffer = buffer[end:]
                continue
            if len(buffer) < end:
                return None
            packet = (buffer[0], bytes(buffer[at:end]))
            self._buffer = buffer[end:]
            return packet


def read_publish(first, body):
    """(topic, packet id or 0 at QoS 0, payload) of a PUBLISH; raises ProtocolError."""
    qos = first >> 1 & 3
    if qos > 1:
        raise ProtocolError("a message at a QoS that was not granted")
    at = 2 + (struct.unpack(">H", body[:2])[0] if len(body) >= 2 else 0)
    end = at + 2 if qos else at
    if len(body) < max(2, end):
        raise ProtocolError("a message is cut short")
    try:
        topic = str(body[2:at], "utf-8")
    except UnicodeError:
        raise ProtocolError("a topic is not UTF-8") from None
    packet = struct.unpack(">H", body[at:end])[0] if qos else 0
    if qos and not packet:
        raise ProtocolError("a message has packet identifier 0")
    return topic, packet, body[end:]
