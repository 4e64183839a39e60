"""One MQTT connection after another, as a machine: handshake, keep-alive, packets in flight. No socket, no clock."""

import struct

from . import mqtt

CLOSED = 0
OPENING = 1  # CONNECT is sent
OPEN = 2

PING = "ping"
SUBSCRIPTION = "subscription"


class Session:
    """Times are milliseconds of uptime. What is to be sent stands in `out`; why it ended, in `failure`."""

    def __init__(self, device, key, keepalive=30, patience=10, window=4, max_packet=4096):
        self._device = device
        self.key = key
        """What the device shows: a token or a JWT."""
        self.twin = False
        """Whether the device takes configurations, and so subscribes to them."""
        self.ota = False
        """The same of updates."""
        self._keepalive = keepalive
        self._patience = patience * 1000
        self._window = window
        self._max_packet = max_packet
        self._packet = 0
        self.out = bytearray()
        self.close()
        self.refused = False
        self.failure = ""

    def close(self):
        """The connection is gone; what was in flight is forgotten here."""
        self.state = CLOSED
        self._reader = None
        self._waiting = []  # (packet id, answer due at, token), oldest first
        self.out[:] = b""

    def begin(self, now):
        """A connection is there: introduce ourselves."""
        self.close()
        self.failure = ""
        self.refused = False
        self.state = OPENING
        self._reader = mqtt.Reader(self._max_packet)
        self._sent = self._heard = now
        self._waiting.append((0, now + self._patience, None))
        mqtt.connect(self.out, self._device, self._device, self.key, self._keepalive)

    def has_room(self):
        """Whether another PUBLISH may be sent now."""
        return self.state == OPEN and sum(1 for w in self._waiting if w[2] not in (PING, SUBSCRIPTION)) < self._window

    def _next_packet(self, now, token):
        self._packet = self._packet % 65535 + 1
        self._waiting.append((self._packet, now + self._patience, token))
        self._sent = now
        return self._packet

    def publish(self, now, topic, payload, again, token):
        """Send at QoS 1; `token` comes back from `receive` once it is acknowledged."""
        mqtt.publish(self.out, topic, payload, self._next_packet(now, token), again)

    def acknowledge(self, packet):
        """Tell the gateway that its message has been dealt with."""
        mqtt.puback(self.out, packet)

    def tick(self, now):
        """Keep the connection alive; sets `failure` when an answer is overdue."""
        if self.state == CLOSED:
            return
        for _, due, token in self._waiting:
            if now >= due:
                what = "the connection" if token is None else token if isinstance(token, str) else "a message"
                self._fail("no answer to " + what + " in " + str(self._patience // 1000) + " s")
                return
        if self.state == OPEN and now >= self._ping_due() and not self._pinging():
            self._waiting.append((0, now + self._patience, PING))
            self._sent = now
            mqtt.pingreq(self.out)

    def _ping_due(self):
        # Half of the keep-alive leaves room for the other half to be lost; hearing nothing is as bad as saying nothing.
        return min(self._sent, self._heard) + self._keepalive * 500

    def _pinging(self):
        return any(w[2] == PING for w in self._waiting)

    def wait(self, now):
        """Milliseconds until `tick` is needed, at most."""
        if self.state == CLOSED:
            return 3600000
        due = min((w[1] for w in self._waiting), default=now + 3600000)
        if self.state == OPEN and not self._pinging():
            due = min(due, self._ping_due())
        return max(0, due - now)

    def _fail(self, why):
        self.failure = why
        self.close()

    def receive(self, data, now, on_message, on_acknowledged):
        """Take bytes. Calls `on_message(topic, payload, packet)` and `on_acknowledged(token)`; may set `failure`."""
        if self.state == CLOSED:
            return
        self._heard = now
        self._reader.feed(data)
        try:
            while self.state != CLOSED:
                packet = self._reader.next()
                if packet is None:
                    return
                self._packet_in(packet[0], packet[1], now, on_message, on_acknowledged)
        except mqtt.ProtocolError as error:
            self._fail("protocol error: " + str(error))

    def oversized(self):
        """How many packets were passed over since the last call, being too large for this board."""
        count = 0
        if self._reader is not None:
            count = self._reader.oversized
            self._reader.oversized = 0
        return count

    def _packet_in(self, first, body, now, on_message, on_acknowledged):
        kind = first >> 4
        if self.state == OPENING:
            if kind != mqtt.CONNACK or len(body) != 2:
                raise mqtt.ProtocolError("the answer to CONNECT is not a CONNACK")
            if body[1]:
                self.refused = True
                why = mqtt.REFUSALS.get(body[1], "code " + str(body[1]))
                self._fail("the gateway refused '" + self._device + "': " + why)
                return
            self._answered(0, None)
            self.state = OPEN
            wanted = ["/commands/#"] + ["/config"] * self.twin + ["/ota/+"] * self.ota
            for what in wanted:
                mqtt.subscribe(self.out, "/devices/" + self._device + what, self._next_packet(now, SUBSCRIPTION))
        elif kind == mqtt.PUBLISH:
            topic, packet, payload = mqtt.read_publish(first, body)
            on_message(topic, payload, packet)
        elif kind == mqtt.PUBACK and len(body) == 2:
            token = self._answered(struct.unpack(">H", body)[0], None)
            if token is not None:
                on_acknowledged(token)
        elif kind == mqtt.SUBACK and len(body) == 3:
            if self._answered(struct.unpack(">H", body[:2])[0], SUBSCRIPTION) and body[2] > 1:
                self.refused = True
                self._fail("the gateway refused the subscription of '" + self._device + "'")
        elif kind == mqtt.PINGRESP and not body:
            self._answered(0, PING)
        else:
            raise mqtt.ProtocolError("an unexpected packet of type " + str(kind))

    def _answered(self, packet, token):
        """Take what is answered off the list; `token` tells apart what a PUBACK may not answer."""
        for i, waiting in enumerate(self._waiting):
            if waiting[0] == packet and (token == waiting[2] if token else not isinstance(waiting[2], str)):
                del self._waiting[i]
                return waiting[2]
        return None
