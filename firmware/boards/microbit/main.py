"""A micro:bit on the serial link: a count every second, its buttons, and a pin that obeys.

16 KB of RAM hold neither `core.py` nor a settings file, so this drives the link itself. `hil/microbit.py` makes an
image of it and of what it imports from `edge_device`. MicroPython 1.9 has no hashlib here: the port at the gateway
needs `auth = false`.
"""

import random
from gc import collect

from edge_device.cbor import head
from edge_device.serial import Session
from edge_device.wire import decode_command, encode_events, encode_reply
from microbit import pin0, pin5, pin11, running_time, sleep, uart

DEVICE = "microbit"
PERIOD = 1000  # milliseconds
QUEUE = 3  # readings; nothing more is measured while so many wait


def crc32(data, crc=0):
    """The check-sum of binascii, which this board lacks, with halves of 16 bits: larger integers cost memory here."""
    high = ~crc >> 16 & 0xFFFF
    low = ~crc & 0xFFFF
    for byte in data:
        low ^= byte
        for _ in range(8):
            odd = low & 1
            low = low >> 1 | (high & 1) << 15
            high >>= 1
            if odd:
                low ^= 0x8320
                high ^= 0xEDB8
    return (high ^ 0xFFFF) << 16 | low ^ 0xFFFF


def encode(value, out):
    """Of CBOR, only byte strings are written here."""
    head(out, 2, len(value))
    out.extend(value)


def _decode_simple(data, at, value):
    """And of simple values only read `true` and what is not."""
    return value == 21, at


def draw(number):
    """Random bytes."""
    return bytes([random.getrandbits(8) for _ in range(number)])


BOOT = draw(8)
WAITING = []  # readings, the first of them perhaps on its way
CAME = []  # commands
REPLIES = []
DONE = []  # commands that were carried out: id, reply
SEQUENCE = [0]
DOWN = [True, True]  # the buttons, when they were last looked at; one that was held at the start was not pressed
TREE = "/devices/" + DEVICE + "/"


def emit(kind, data):
    """Queue a reading."""
    WAITING.append((SEQUENCE[0], kind, running_time(), data))
    SEQUENCE[0] += 1


def on_message(topic, payload, packet):
    """A command: for later, where less of the stack is in use."""
    if not CAME and not REPLIES:  # the gateway sends it again
        CAME.append(payload)


def obey(command, name, args):
    """Carry out a command, once: `pin` {"on": ...} sets pin 0."""
    for known, reply in DONE:
        if known == command:
            REPLIES.append(reply)
            return
    if name == "pin":
        pin0.write_digital(args["on"])
        reply = encode_reply(command, 0)
    else:
        reply = encode_reply(command, 2)
    DONE.append((command, reply))
    del DONE[:-2]
    REPLIES.append(reply)


def on_acknowledged(queue):
    """What was sent is stored."""
    queue.pop(0)


def run():
    """For ever."""
    uart.init(115200)
    link = Session(DEVICE, b"", 10, 10, 200, 63, draw)
    due = 0
    count = 0
    while True:
        now = running_time()
        if now >= due and len(WAITING) < QUEUE:
            due = now + PERIOD
            count += 1
            emit("count", b"\xa1\x61n\x19" + bytes((count >> 8 & 255, count & 255)))
        for at, button in enumerate((pin5, pin11)):  # A and B, low while pressed
            down = not button.read_digital()
            if len(WAITING) < QUEUE:
                if down and not DOWN[at]:
                    emit("button", b"\xa1\x66button\x61" + b"ab"[at : at + 1])
                DOWN[at] = down
        if not link.state:
            link.begin(now)
        if link.has_room():
            if REPLIES:
                link.publish(now, TREE + "replies", REPLIES[0], False, REPLIES)
            elif WAITING:
                first = WAITING[0]
                link.publish(now, TREE + "events/" + first[1], encode_events(BOOT, [first], None, now), False, WAITING)
        link.tick(now)
        if link.out:
            uart.write(link.out)
            link.out = bytearray()
        came = uart.read(63)  # without a number it takes 256 bytes of memory
        if came:
            link.receive(came, now, on_message, on_acknowledged)
        elif CAME:
            command, _, name, args, _ = decode_command(CAME.pop())
            obey(command, name, args)
        else:
            collect()  # while little is in use: what lives long stays together
            sleep(5)


run()
