"""The core at work in a small heap: events published and acknowledged, commands carried out and answered.

The WASI build must not collect inside functions, so the work comes in pieces, and the script collects in between.
Names cost memory too: these here are names that the core has anyway.
"""

from edge_device.config import Config
from edge_device.core import Core


class Hal:
    """A clock turned by hand."""

    now = 0

    def uptime(self):
        return self.now

    def time(self):
        return 1795000000000000 + self.now * 1000

    def random(self, number):
        return b"12345678"[:number]


hal = Hal()
options = {"queue": 16, "queue_bytes": 1024, "batch": 4, "packet": 256}
options.update({"device": "b1", "key": "k", "host": "h", "port": 1})
core = Core(Config(options), hal, print)
core.commands.handlers["fan"] = lambda args: {"was": args["on"]}
count = 0


def connect():
    core.step(0)
    core.link_up(0)
    core.sent(len(core.out))


def online():
    core.receive(b"\x20\2\0\0", 0)
    core.step(0)
    core.sent(len(core.out))


def subscribe():
    core.receive(b"\x90\3\0\1\1", 0)


def take():
    global count
    count += 1
    hal.now += 1000
    core.emit("climate", {"temperature": 20 + count % 100 / 16, "humidity": 40.5, "fan": False})


def step():
    core.step(hal.now)
    core.sent(len(core.out))


def acknowledge():
    packet = core.session._packet
    core.receive(bytes((0x40, 2, packet >> 8, packet & 255)), hal.now)


def message():
    command = bytes((count >> 8, count & 255)) + b"12345678901234"
    body = b"\0\x18/devices/b1/commands/fan\0\1\xa4\0\x50" + command
    body += b"\1\x1b\0\6\x60\x8b\4\xf2\xb7\0\2\x63fan\3\xa1\x62on\xf5"
    core.receive(b"\x32" + bytes((len(body),)) + body, hal.now)


START = (connect, online, subscribe)
PIECES = (take, step, acknowledge)
WITH_COMMAND = (take, step, acknowledge, message, step, acknowledge)
