"""A micro:bit on the serial link: a count every second, its buttons, and a pin that obeys.

16 KB of RAM hold neither `core.py` nor a settings file, so this drives the link itself. `hil/microbit.py` makes an
image of it and of what it imports from `edge_device`. MicroPython 1.9 has no hashlib here: the port at the gateway
needs `auth = false`.

Memory may run out at any line. The next turn of the loop then goes on: a reading leaves `WAITING` once it is
acknowledged, the link sends again what was not answered, and the gateway sends a command until there is a reply.
"""

import struct
from gc import collect
from random import getrandbits

from edge_device.cbor import head
from edge_device.serial import Session
from edge_device.wire import decode_command, encode_events, encode_reply
from microbit import pin0, pin5, pin11, running_time, sleep, uart

DEVICE = "microbit"
PERIOD = 1000  # milliseconds
QUEUE = 3  # readings; nothing more is measured while so many wait
KEEPALIVE = 4  # seconds
PATIENCE = 10  # seconds
PACKET = 200  # bytes of a command
RING = 63  # bytes that the UART keeps


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
    """And of simple values only `true` and `false` are read; the others and floats are passed over, and are None."""
    if value < 24:
        return (value == 21 if value < 22 else None), at
    return None, at + (1 << value - 24)


def draw(number):
    """Eight random bytes: nobody asks for another number of them."""
    return struct.pack(">HHHH", getrandbits(16), getrandbits(16), getrandbits(16), getrandbits(16))


BOOT = draw(8)
WAITING = []  # readings, the first of them perhaps on its way
CAME = []  # commands
REPLIES = []
DOWN = [True, True]  # the buttons, when they were last looked at; one that was held at the start was not pressed
TREE = "/devices/" + DEVICE + "/"
DONE = bytearray(8 * 17)  # the last commands that were carried out: id, status
sequence = 0
turn = 0


def emit(kind, data):
    """Queue a reading."""
    global sequence
    WAITING.append((sequence, kind, running_time(), data))
    sequence += 1


def on_message(topic, payload, packet):
    """A command: for later, where less of the stack is in use."""
    if not CAME and not REPLIES:  # the gateway sends it again
        CAME.append(payload)


def on_acknowledged(queue):
    """What was sent is stored."""
    queue.pop(0)


def obey(payload):
    """Carry out a command, once: `pin` {"on": ...} sets pin 0."""
    global turn
    command, _, name, args, _ = decode_command(payload)
    at = 0
    while at < len(DONE) and DONE[at : at + 16] != command:
        at += 17
    if at < len(DONE):
        status = DONE[at + 16]
    else:
        status = 0
        if name == "pin":
            try:
                pin0.write_digital(args["on"])
            except (KeyError, TypeError, ValueError):
                status = 1
        else:
            status = 2
        DONE[turn + 16] = status
        for at in range(16):
            DONE[turn + at] = command[at]
        turn = (turn + 17) % len(DONE)
    REPLIES.append(encode_reply(command, status))


def send(link, now):
    """Send what is first, if anything is and there is room. What this computes is forgotten with its variables."""
    ready = link.has_room()
    if ready and (REPLIES or WAITING):
        queue = REPLIES or WAITING
        if REPLIES:
            topic = TREE + "replies"
            payload = REPLIES[0]
        else:
            topic = TREE + "events/" + WAITING[0][1]
            payload = encode_events(BOOT, WAITING, None, now)
        link.publish(now, topic, payload, False, queue)


def run():
    """For ever."""
    uart.init(115200)
    link = Session(DEVICE, b"", KEEPALIVE, PATIENCE, PACKET, RING, draw)
    due = 0
    count = 1
    while True:
        try:
            now = running_time()
            if now >= due and len(WAITING) < QUEUE:
                emit("count", b"\xa1\x61n\x19" + bytes((count >> 8 & 255, count & 255)))
                due = now + PERIOD
                count += 1
            for at, button in enumerate((pin5, pin11)):  # A and B, low while pressed
                down = not button.read_digital()
                if len(WAITING) < QUEUE:
                    if down and not DOWN[at]:
                        emit("button", b"\xa1\x66button\x61" + b"ab"[at : at + 1])
                    DOWN[at] = down
            if not link.state:
                link.begin(now)
            send(link, now)
            link.tick(now)
            if link.out:
                uart.write(link.out)
                link.out = bytearray()
            came = uart.read(32)
            if came:
                link.receive(came, now, on_message, on_acknowledged)
            elif CAME:
                obey(CAME.pop())
            else:
                collect()  # while little is in use: what lives long stays together
                sleep(5)
        except Exception as error:  # the next turn may do better; the gateway's log has this line
            collect()
            if not isinstance(error, MemoryError):
                link.close()
            print(type(error))


run()
