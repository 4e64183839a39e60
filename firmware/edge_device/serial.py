"""The serial link of `docs/wire.md`, the board's side, as a machine like `session.Session`. No port, no clock.

One frame at a time waits for its answer; what the gateway sends never exceeds the ring that HELLO names.
"""

import struct
from binascii import a2b_base64, crc32

from micropython import const

try:
    from hashlib import sha256
except ImportError:  # the gateway lets such a board in only on a port with `auth = false`
    sha256 = None

CLOSED = 0
OPENING = 1  # HELLO is sent, or PROOF
OPEN = 2

_HELLO = const(1)
_CHALLENGE = const(2)
_PROOF = const(3)
_WELCOME = const(4)
_REFUSED = const(5)
_RESET = const(6)
_DATA = const(16)
_ACK = const(20)
_PING = const(21)
_PONG = const(22)
_CLOSE = const(23)
_FIRST = const(1)
_LAST = const(2)

_FRAGMENT = const(240)
_LARGEST = const(256)  # between two zeros
_REPEAT = const(250)  # a frame of 256 bytes and its answer take 25 ms at 115,200 baud; a commit may take longer
_REPEAT_MOST = const(2000)

_REFUSALS = {1: "it speaks another version", 2: "it does not know this device, or the key is wrong"}
_REASONS = {1: "it cannot store", 2: "the device is connected elsewhere", 3: "it stops", 4: "the device was changed"}


def frame(out, kind, number, body, seed):
    """Append a frame to `out`: zero, COBS, zero."""
    inner = bytes((kind, number)) + body
    inner += struct.pack(">I", crc32(inner, seed if kind >= _DATA else 0))
    out.append(0)
    code = len(out)
    out.append(1)
    for byte in inner:
        if byte:
            out.append(byte)
            out[code] += 1
        else:
            code = len(out)
            out.append(1)
    out.append(0)


def unframe(piece, seed):
    """(type, number, body) of what stood between two zeros, or None."""
    inner = bytearray()
    at = 0
    end = len(piece)
    while at < end:
        after = at + piece[at]
        if after > end:
            return None
        inner.extend(piece[at + 1 : after])
        if after < end:
            inner.append(0)
        at = after
    if len(inner) < 6:
        return None
    check = struct.pack(">I", crc32(inner[:-4], seed if inner[0] >= _DATA else 0))
    if inner[-4:] != check:
        return None
    return inner[0], inner[1], bytes(inner[2:-4])


def prove(digest, side, nonces, device):
    """HMAC-SHA256 (RFC 2104) with the digest of the key, by which `side` shows that it has it."""
    outer = bytes(b ^ 0x5C for b in digest) + b"\x5c" * 32
    inner = bytes(b ^ 0x36 for b in digest) + b"\x36" * 32
    text = b"edge serial " + side + b"\0" + nonces + device.encode()
    return sha256(outer + sha256(inner + text).digest()).digest()


class Session:
    """Times are milliseconds of uptime. What is to be sent stands in `out`; why it ended, in `failure`."""

    def __init__(self, device, key, keepalive=30, patience=10, max_packet=4096, ring=63, random=None):
        self._device = device
        self._key = key
        self._keepalive = keepalive
        self._patience = patience * 1000
        self._max_packet = max_packet
        self._ring = ring
        self._random = random
        self.twin = False
        """Whether the device takes configurations, and so asks for them."""
        self.ota = False
        """The same of updates; what there is comes in any case."""
        self._tree = len(b"/devices/" + device.encode() + b"/")
        self.out = bytearray()
        self.damaged = 0
        self._oversized = 0
        self.close()
        self.refused = False
        self.failure = ""

    def close(self):
        """The session is over; what was in flight is forgotten here."""
        self.state = CLOSED
        self._piece = bytearray()
        self._skip = True  # whatever stands before the next zero began before us
        self._seed = 0
        self._expect = 0
        self._message = bytearray()
        self._dropping = True  # no message has begun
        self._waiting = None  # (type, number, body): the frame that waits for its answer
        self._number = 0
        self._data = None  # the message that is being sent
        self._token = None
        self.out = bytearray()

    def begin(self, now):
        """Introduce ourselves."""
        self.close()
        self.failure = ""
        self.refused = False
        self.state = OPENING
        self._heard = now
        self._nonce = self._random(8)
        self._proof = None
        flags = (1 if sha256 else 0) | (2 if self.twin else 0)
        hello = struct.pack(">BBBH", 1, flags, self._ring, self._keepalive)
        self._ask(now, _HELLO, 0, hello + self._nonce + self._device.encode())

    def has_room(self):
        """Whether a message may be sent now."""
        return self.state == OPEN and self._waiting is None

    def publish(self, now, topic, payload, again, token):
        """Send; `token` comes back from `receive` once it is acknowledged."""
        short = topic[self._tree :].encode()
        self._data = bytes((len(short),)) + short + bytes(payload)
        self._at = 0
        self._token = token
        self._fragment(now)

    def acknowledge(self, packet):
        """Nothing: a message is acknowledged when it is there; the gateway sends a command until it has its reply."""

    def _fragment(self, now):
        kind = _DATA
        if not self._at:
            kind |= _FIRST
        if self._at + _FRAGMENT >= len(self._data):
            kind |= _LAST
        self._ask(now, kind, self._number, self._data[self._at : self._at + _FRAGMENT])

    def _ask(self, now, kind, number, body):
        self._waiting = (kind, number, body)
        self._due = now + self._patience
        self._interval = _REPEAT
        self._repeat_at = now + _REPEAT
        frame(self.out, kind, number, body, self._seed)

    def tick(self, now):
        """Send again, keep the session alive; sets `failure` when an answer is overdue."""
        if self.state == CLOSED:
            return
        waiting = self._waiting
        if waiting:
            if now >= self._due:
                self._fail("no answer to " + ("a message" if self._data else "the session's upkeep"))
            elif now >= self._repeat_at:
                self._interval = min(self._interval * 2, _REPEAT_MOST)
                self._repeat_at = now + self._interval
                if not self.out:  # a line that takes nothing is given nothing more
                    frame(self.out, waiting[0], waiting[1], waiting[2], self._seed)
        elif now >= self._heard + self._keepalive * 500:
            self._ask(now, _PING, 0, b"")

    def wait(self, now):
        """Milliseconds until `tick` is needed, at most."""
        if self.state == CLOSED:
            return 3600000
        due = min(self._due, self._repeat_at) if self._waiting else self._heard + self._keepalive * 500
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
        """Take bytes. Calls `on_message(topic, payload, 0)` and `on_acknowledged(token)`; may set `failure`."""
        for byte in data:
            if byte:
                if not self._skip:
                    self._piece.append(byte)
                    self._skip = len(self._piece) > _LARGEST
                continue
            piece = self._piece
            skip = self._skip
            self._piece = bytearray()
            self._skip = False
            if self.state == CLOSED or skip or not piece:
                continue
            got = unframe(piece, self._seed)
            if got is None:
                self.damaged += 1
            else:
                self._take(got[0], got[1], got[2], now, on_message, on_acknowledged)

    def _take(self, kind, number, body, now, on_message, on_acknowledged):
        if self.state == OPENING:
            self._handshake(kind, body, now)
            return
        asked = self._waiting[0] if self._waiting else 0
        if kind >= _DATA:
            self._heard = now
        if kind == _ACK and _DATA <= asked < _ACK and number == self._number:
            self._number = number + 1 & 255
            self._waiting = None
            self._at += _FRAGMENT
            if self._at < len(self._data):
                self._fragment(now)
                return
            token = self._token
            self._data = self._token = None
            on_acknowledged(token)
        elif kind == _PONG and asked == _PING:
            self._waiting = None
        elif _DATA <= kind < _ACK:
            self._message_in(kind, number, body, on_message)
        elif kind == _RESET:
            self._fail("the gateway has forgotten the session")
        elif kind == _CLOSE:
            why = _REASONS.get(body[0] if body else 0, "it gives no reason")
            self._fail("the gateway closed the session: " + why)

    def _handshake(self, kind, body, now):
        if kind == _CHALLENGE and self._proof is None and len(body) >= 25 and body[1:9] == self._nonce:
            self._nonces = body[1:25]
            proof = b""
            self._digest = None
            if sha256:
                try:
                    text = self._key.decode().replace("-", "+").replace("_", "/")
                    self._digest = sha256(a2b_base64(text + "==="[: -len(text) % 4])).digest()
                    proof = prove(self._digest, b"board", self._nonces, self._device)
                except ValueError:  # no key at all: the gateway will say so
                    proof = b"?"
            self._proof = proof
            self._ask(now, _PROOF, 0, proof)
        elif kind == _WELCOME and self._proof is not None:
            if self._digest and body != prove(self._digest, b"gateway", self._nonces, self._device):
                self.refused = True
                self._fail("this gateway does not know our key: it is not ours")
                return
            self._seed = crc32(self._nonces)
            self.state = OPEN
            self._heard = now
            self._ask(now, _PING, 0, b"")  # so that the gateway knows that its welcome was read
        elif kind == _REFUSED:
            self.refused = True
            why = _REFUSALS.get(body[0] if body else 0, "it gives no reason")
            self._fail("the gateway refused '" + self._device + "': " + why)
        elif kind == _RESET and self._proof is not None:
            self._fail("the gateway was started anew")

    def _message_in(self, kind, number, body, on_message):
        if number != self._expect:
            if number == self._expect - 1 & 255:
                frame(self.out, _ACK, number, b"", self._seed)
            return
        if kind & _FIRST:
            self._message = bytearray()
            self._dropping = False
        if not self._dropping and len(self._message) + len(body) > self._max_packet:
            self._dropping = True
            self._oversized += 1
            self._message = bytearray()
        if not self._dropping:
            self._message.extend(body)
        self._expect = number + 1 & 255
        frame(self.out, _ACK, number, b"", self._seed)
        if kind & _LAST and not self._dropping:
            whole = bytes(self._message)
            self._message = bytearray()
            self._dropping = True
            end = 1 + whole[0] if whole else 0
            if 0 < end <= len(whole):
                on_message(str(whole[1:end], "utf-8"), whole[end:], 0)
