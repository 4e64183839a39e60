"""The CoAP link (RFC 7252) of `docs/wire.md`, the board's side, as a machine like `session.Session`.

One request at a time (NSTART is 1), confirmable. Commands are observed (RFC 7641), and asked for anew at half of the
keep-alive: that brings what was missed, and shows that the gateway is there. The configuration is asked for then too,
with the ETag of the one that is known; it is not observed, since it may not fit a datagram. What does not goes in
blocks (RFC 7959). A board that can be updated asks for an offer then, and after each report; a piece of a file comes in
the answer to the ask (FETCH, RFC 8132). In `out` each datagram stands behind its length, two bytes, big-endian.
"""

import struct

from micropython import const

from . import cbor

CLOSED = 0
OPENING = 1  # the commands are asked for the first time
OPEN = 2

_CON = const(0)
_NON = const(1)
_ACK = const(2)
_RST = const(3)
_MAX_RETRANSMIT = const(4)
_SINGLE = const(900)  # bytes in one datagram; the gateway takes 1,280 with all that stands before them
_BLOCK = const(512)
_SZX = const(5)
_ENVELOPE = const(65000)
_COMMANDS = const(0)
_CONFIG = const(1)
_OFFER = const(2)
_POST = const(3)
_PART = const(4)
_WHAT = ("commands", "config", "ota/offer", "", "config")
_NOTHING = b"\xa0"  # the offer that takes back what was offered
_SEEN = const(8)


def option(out, last, number, value):
    """Append an option; returns its number, which the next one counts from (section 3.1)."""
    first = len(out)
    out.append(0)
    nibbles = 0
    for part in (number - last, len(value)):
        nibble = part
        if part >= 269:
            out.extend(struct.pack(">H", part - 269))
            nibble = 14
        elif part >= 13:
            out.append(part - 13)
            nibble = 13
        nibbles = nibbles << 4 | nibble
    out[first] = nibbles
    out.extend(value)
    return number


def uint(number):
    """A number as the value of an option."""
    out = b""
    while number:
        out = bytes((number & 255,)) + out
        number >>= 8
    return out


def parse(data):
    """(type, code, message id, token, {option: its last value}, payload) of a datagram, or None for what is none."""
    if len(data) < 4 or data[0] >> 6 != 1:
        return None
    size = data[0] & 15
    at = 4 + size
    if size > 8 or at > len(data):
        return None
    options = {}
    number = 0
    while at < len(data):
        first = data[at]
        at += 1
        if first == 0xFF:
            break
        parts = []
        for nibble in (first >> 4, first & 15):
            if nibble == 15:
                return None
            extra = max(0, nibble - 12)
            if at + extra > len(data):
                return None
            if extra:
                nibble = (13 if extra == 1 else 269) + int.from_bytes(data[at : at + extra], "big")
            at += extra
            parts.append(nibble)
        number += parts[0]
        if at + parts[1] > len(data):
            return None
        value = bytes(data[at : at + parts[1]])
        options[number] = value if number == 4 else int.from_bytes(value, "big")  # an ETag is no number
        at += parts[1]
    kind = data[0] >> 4 & 3
    return kind, data[1], data[2] << 8 | data[3], bytes(data[4 : 4 + size]), options, bytes(data[at:])


class Session:
    """Times are milliseconds of uptime. What is to be sent stands in `out`; why it ended, in `failure`."""

    def __init__(self, device, key, keepalive=30, patience=10, max_packet=4096, random=None):
        self._device = device
        self.key = key
        self._refresh = keepalive * 500
        self._patience = patience * 1000
        self._timeout = patience * 200
        """ACK_TIMEOUT of RFC 7252 section 4.8: with the usual patience of 10 s the 2 s that stand there, in ms."""
        self._max_packet = max_packet
        self._random = random
        self.twin = False
        """Whether the device takes configurations, and so asks for them."""
        self.ota = False
        """The same of updates."""
        self._message = struct.unpack(">H", random(2))[0]
        self.out = bytearray()
        self._oversized = 0
        self.refused = False
        self.failure = ""
        self.close()

    def close(self):
        """The session is over; what was in flight is forgotten here."""
        self.state = CLOSED
        self.out = bytearray()
        self._asked = None  # [what, token, message id, datagram] of the request under way
        self._due = [0, 0, 0]  # when commands, configuration and an offer are to be asked for
        self._post = None  # (topic, payload, token of the core)
        self._at = 0  # how much of the payload has arrived in blocks
        self._hold = 0
        self._part = None  # a configuration that comes in blocks
        self._next = 0
        self._tag = b""  # ETag of the configuration that is known
        self._seen = []

    def begin(self, now):
        """Ask for the commands: who is answered is let in."""
        self.close()
        self.failure = ""
        self.refused = False
        self.state = OPENING
        self._tokens = self._random(3)
        self._count = 0
        self._due[_OFFER] = now + self._refresh  # or with the answer to the report, which comes first
        self._work(now)

    def has_room(self):
        """Whether a message may be sent now."""
        return self.state == OPEN and self._asked is None and self._post is None and self._part is None

    def publish(self, now, topic, payload, again, token):
        """Send; `token` comes back from `receive` once it is acknowledged."""
        self._post = (topic, payload, token)
        self._at = 0
        self._hold = now
        self._work(now)

    def acknowledge(self, packet):
        """Nothing: a message is acknowledged when it is there."""

    def _work(self, now):
        """Begin the next request where there is one."""
        if self._asked is not None or self.state == CLOSED:
            return
        if now >= self._due[_COMMANDS]:
            self._get(now, _COMMANDS)
        elif self.state == OPENING:
            return
        elif self.twin and self._part is None and now >= self._due[_CONFIG]:
            self._get(now, _CONFIG)
        elif self._part is not None:
            self._get(now, _PART)
        elif self.ota and now >= self._due[_OFFER]:
            self._get(now, _OFFER)
        elif self._post and now >= self._hold:
            self._send_post(now)

    def _get(self, now, what):
        out = bytearray()
        last = 0
        if what in (_CONFIG, _PART) and self._tag:
            last = option(out, 0, 4, self._tag)
        if what == _COMMANDS:  # the token of the observation stays the same: asking anew takes its place
            last = option(out, 0, 6, b"")  # Observe: register
        if what != _PART:
            self._due[what] = now + self._refresh
        last = self._path(out, last, "/devices/" + self._device + "/" + _WHAT[what])
        last = option(out, last, 15, b"k=" + self.key)
        if what == _PART:
            option(out, last, 23, uint(self._next << 4 | self._szx))
        self._ask(now, 1, what, self._tokens + bytes((what, 0)), out, b"")

    def _send_post(self, now):
        topic, payload, _ = self._post
        code = 2
        if topic.endswith("/ota/ask"):  # its answer holds what it asks for
            code = 5
            topic = topic[:-3] + "data"
        size = len(payload)
        out = bytearray()
        last = self._path(out, 0, topic)
        last = option(out, last, 12, uint(_ENVELOPE))
        last = option(out, last, 15, b"k=" + self.key)
        if size > _SINGLE:
            more = 8 if self._at + _BLOCK < size else 0
            option(out, last, 27, uint(self._at // _BLOCK << 4 | more | _SZX))
            payload = payload[self._at : self._at + _BLOCK]
        self._count = self._count + 1 & 255
        self._ask(now, code, _POST, self._tokens + bytes((_POST, self._count)), out, payload)

    def _path(self, out, last, path):
        for part in path.split("/")[1:]:
            last = option(out, last, 11, part.encode())
        return last

    def _ask(self, now, code, what, token, options, payload):
        self._message = self._message + 1 & 0xFFFF
        head = struct.pack(">BBH", 0x40 | len(token), code, self._message) + token
        data = head + bytes(options) + (b"\xff" + bytes(payload) if payload else b"")
        self._asked = [what, token, self._message, data]
        # Between ACK_TIMEOUT and 1.5 times that (ACK_RANDOM_FACTOR), then twice as long each time.
        spread = int.from_bytes(self._random(2), "big")
        self._interval = self._timeout + self._timeout * spread // 131070
        self._tries = 0
        self._again = now + self._interval
        self._put(data)

    def _put(self, data):
        self.out.extend(struct.pack(">H", len(data)))
        self.out.extend(data)

    def tick(self, now):
        """Send again, ask anew; sets `failure` when no answer comes."""
        if self.state == CLOSED:
            return
        asked = self._asked
        if asked is None:
            self._work(now)
        elif now >= self._again:
            if asked[3] is None or self._tries >= _MAX_RETRANSMIT:
                self._fail("no answer to " + ("a message" if asked[0] == _POST else "a request"))
                return
            self._tries += 1
            self._interval *= 2
            self._again = now + self._interval
            if not self.out:
                self._put(asked[3])

    def wait(self, now):
        """Milliseconds until `tick` is needed, at most."""
        if self.state == CLOSED:
            return 3600000
        if self._asked is not None:
            return max(0, self._again - now)
        due = self._due[_COMMANDS]
        if self.twin:
            due = min(due, self._due[_CONFIG])
        if self.ota:
            due = min(due, self._due[_OFFER])
        if self._post:
            due = min(due, self._hold)
        return max(0, due - now)

    def _fail(self, why):
        self.failure = why
        self.close()

    def oversized(self):
        """How many messages were passed over since the last call, being too large for this board."""
        count = self._oversized
        self._oversized = 0
        return count

    def receive(self, data, now, on_message, on_acknowledged):
        """Take a datagram. Calls `on_message(topic, payload, 0)` and `on_acknowledged(token)`; may set `failure`."""
        got = parse(data)
        if got is None or self.state == CLOSED:
            return
        kind, code, message, token, options, payload = got
        asked = self._asked
        ours = asked is not None and message == asked[2]
        if kind == _RST:
            if ours:
                self._fail("the gateway does not understand a request")
            return
        if kind == _ACK and not code:
            if ours:  # heard; the answer comes by itself (section 5.2.2)
                asked[3] = None
                self._again = now + 3 * self._patience
            return
        if code < 64 or (kind == _ACK and not ours):
            if kind == _CON:
                self._put(struct.pack(">BBH", 0x70, 0, message))  # a request, or a ping: RST
            return
        if asked is not None and token == asked[1]:
            what = asked[0]
        elif token == self._tokens + b"\0\0":
            what = _COMMANDS  # of the observation
        else:
            what = None
        if kind == _CON:
            known = message in self._seen
            self._put(struct.pack(">BBH", 0x70 if what is None and not known else 0x60, 0, message))
            if known:
                return
            self._seen.append(message)
            if len(self._seen) > _SEEN:
                self._seen.pop(0)
        if what is None:
            return
        if asked is not None and token == asked[1]:
            self._asked = None
        if what == _POST:
            self._posted(code, options, payload, now, on_message, on_acknowledged)
        else:
            self._answer(what, code, options, payload, now, on_message)
        if not self.failure:
            self._work(now)

    def _posted(self, code, options, payload, now, on_message, on_acknowledged):
        topic, _, token = self._post
        asked = topic.endswith("/ota/ask")
        told = topic.endswith("/ota/report")
        if code == 0x5F:  # 2.31: the next block
            self._at += _BLOCK
        elif code == 0x88:  # 4.08: the gateway has forgotten the blocks before
            self._at = 0
        elif code == 0xA3:  # 5.03: not stored, to be sent again
            self._at = 0
            self._hold = now + 1000 * min(options.get(14, 60), 3600)
        elif code in (0x44, 0x45, 0x80, 0x8F) or (code == 0x84 and (asked or told)):
            # 2.04: stored; 4.00 and 4.15: a dead letter, and sending again is no use. Of updates 2.05: a piece; 4.04:
            # nothing is offered any more, or this gateway has none at all.
            self._post = None
            on_acknowledged(token)
            if told:
                self._due[_OFFER] = now
            elif asked and code != 0x80:
                on_message("ota/data" if code == 0x45 else "ota/offer", payload or _NOTHING, 0)
        else:
            self._refuse(code)

    def _answer(self, what, code, options, payload, now, on_message):
        if what != _COMMANDS and code in (0x43, 0x84, 0x88):  # 2.03: as known; 4.04: none yet; 4.08: blocks forgotten
            self._part = None
        elif code == 0xA3:  # the observation is over, or there is no room for it just now
            self._due[_CONFIG if what == _PART else what] = now + 1000 * max(1, min(options.get(14, 1), 60))
        elif code != 0x45:
            self._refuse(code)
        elif what == _COMMANDS:
            self.state = OPEN
            self._commands(payload, on_message)
        elif what == _OFFER:
            on_message("ota/offer", payload, 0)
        else:
            self._config(what, options, payload, on_message)

    def _refuse(self, code):
        self.refused = True
        why = "it does not know this device, or the key is wrong" if code == 0x81 else "its answer is "
        if code != 0x81:
            why += str(code >> 5) + "." + ("0" + str(code & 31))[-2:]
        self._fail("the gateway refused '" + self._device + "': " + why)

    def _commands(self, payload, on_message):
        if not payload or payload[0] >> 5 != 4 or payload[0] & 31 > 23:
            on_message("commands", payload, 0)  # which will say that it is none
            return
        at = 1
        for _ in range(payload[0] & 31):
            end = cbor._decode(payload, at, 1)[1]
            on_message("commands", payload[at:end], 0)
            at = end

    def _config(self, what, options, payload, on_message):
        block = options.get(23, 0)
        if what == _CONFIG:
            whole = payload
        elif block >> 4 != self._next:
            self._part = None
            return
        else:
            whole = self._part + payload
        if len(whole) > self._max_packet:
            self._oversized += 1
            self._part = None
            self._tag = options.get(4, b"")  # it is not asked for again
        elif block & 8:
            self._part = whole
            self._next = (block >> 4) + 1
            self._szx = block & 7
        else:
            self._part = None
            self._tag = options.get(4, b"")
            on_message("config", whole, 0)
