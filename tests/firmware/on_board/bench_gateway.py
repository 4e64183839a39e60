"""The other end of the wire for checks on the board: a clock turned by hand, and a gateway played packet by packet."""

import struct

from edge_device import cbor, mqtt
from edge_device.config import Config
from edge_device.core import Core


class Hal:
    """A board's clock and randomness, as the check wants them."""

    def __init__(self, time=None):
        self.now = 0
        self.epoch = time
        self.byte = 0

    def uptime(self):
        return self.now

    def resume(self, uptime):
        self.now += uptime

    def time(self):
        return None if self.epoch is None else self.epoch + self.now * 1000

    def random(self, number):
        return bytes([self.byte] * number)


class Watcher:
    """An observer that writes down what it is told."""

    def __init__(self):
        self.told = []

    def on_published(self, boot, seq, again):
        self.told.append(("published", seq, again))

    def on_acknowledged(self, boot, seq):
        self.told.append(("acknowledged", seq))

    def on_command(self, command, name, cause, repeat):
        self.told.append(("command", name, cause, repeat))


class Sent:
    """A packet the board sent."""

    def __init__(self, first, body):
        self.kind = first >> 4
        self.dup = bool(first & 8)
        self.body = body
        if self.kind == mqtt.PUBLISH:
            self.topic, self.packet, self.payload = mqtt.read_publish(first & 0xF7, body)
        elif self.kind in (4, 8):
            self.packet = struct.unpack(">H", body)[0] if self.kind == 4 else struct.unpack(">H", body[:2])[0]

    def form(self):
        return cbor.decode(self.payload)


class Bench:
    """A core with its gateway."""

    def __init__(self, time=1795000000000000, **options):
        form = {"device": "b1", "key": "secret", "host": "h", "port": 1}
        form.update(options)
        self.lines = []
        self.hal = Hal(time)
        self.core = Core(Config(form), self.hal, self.lines.append)

    def step(self, ms=0):
        """Let time pass in one go; returns what the core says it can wait."""
        self.hal.now += ms
        return self.core.step(self.hal.now)

    def wait(self, ms):
        """Let time pass as the core asks for it; returns the packets sent meanwhile."""
        end = self.hal.now + ms
        packets = []
        while True:
            wait = self.core.step(self.hal.now)
            packets += self.sent()
            if self.hal.now + wait >= end:
                self.hal.now = end
                self.core.step(end)
                return packets + self.sent()
            self.hal.now += max(1, wait)

    def sent(self):
        """The packets that the board has sent since the last call."""
        reader = mqtt.Reader(1 << 20)
        reader.feed(bytes(self.core.out))
        self.core.sent(len(self.core.out))
        packets = []
        while True:
            packet = reader.next()
            if packet is None:
                return packets
            packets.append(Sent(packet[0], packet[1]))

    def receive(self, data):
        self.core.receive(data, self.hal.now)

    def link(self):
        """Make the connection: returns the CONNECT."""
        self.step()
        assert self.core.wants_link
        self.core.link_up(self.hal.now)
        packets = self.sent()
        assert [p.kind for p in packets] == [1], packets
        return packets[0]

    def online(self):
        """Connect, be accepted, be subscribed; returns what the board published at once."""
        self.link()
        self.receive(b"\x20\2\0\0")
        packets = self.publish()
        subscribe = packets.pop(0)
        assert subscribe.kind == 8
        self.receive(struct.pack(">BBHB", 0x90, 3, subscribe.packet, 1))
        return packets

    def publish(self):
        """Step and return what was sent."""
        packets = []
        while True:
            wait = self.step()
            packets += self.sent()
            if wait:
                return packets

    def puback(self, packet):
        self.receive(struct.pack(">BBH", 0x40, 2, packet.packet))

    def command(self, number, name, args=None, expires=1795000060000000, cause=None, packet=7):
        """Send a command to the board."""
        form = {0: bytes([number] * 16), 1: expires, 2: name, 3: args}
        if cause:
            form[4] = list(cause)
        payload = bytearray()
        cbor.encode(form, payload)
        out = bytearray()
        mqtt.publish(out, "/devices/b1/commands/" + name, payload, packet, False)
        self.receive(out)

    def drop(self):
        """The connection breaks, and the board's pause before the next attempt goes by."""
        self.core.link_down(self.hal.now)
        assert not self.core.wants_link
        self.wait(40000)


def raises(kind, function, *args):
    """The text of the exception of that kind that the call raises."""
    try:
        function(*args)
    except kind as error:
        return str(error)
    raise AssertionError("nothing was raised")
