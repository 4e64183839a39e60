"""The gateway's side of one line: who is there, one message at a time each way, and what was damaged.

The board speaks first; a line on which nobody says HELLO gets nothing but silence, so that a person's terminal is not
disturbed. Each frame of the board gets at most one answer, and at most one DATA frame waits for the board: that is how
it never has more than its ring to take. Times are microseconds that never go back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from edge_runtime.proto.serial.frames import (
    FIRST,
    HEAD,
    LAST,
    OVERHEAD,
    SESSION,
    VERSION,
    Frame,
    Hello,
    Refusal,
    Type,
    Why,
    decode,
    encode,
    proof,
    read_hello,
    seed_of,
    unstuff,
)
from edge_runtime.proto.serial.reader import Reader, is_text

SECOND = 1_000_000
QUIET = SECOND
"""Text without an end is taken for a line after so long without more."""
FIRST_REPEAT = 300_000
"""A 63-byte frame and its answer take 65 ms at 9,600 baud; a slow board needs some more to look."""
LONGEST_REPEAT = 4 * SECOND
REPEATS = 8
"""Times a frame is sent again, over 19 s, before the board is taken for gone."""
HANDSHAKE = 10 * SECOND
MIN_RING, MAX_RING = 32, 255
QUEUE = 8
"""Messages that wait for the board; the rest waits where it is durable."""
KEPT = 4096
"""Bytes kept of a message that is too large."""


class Proof(msgspec.Struct, frozen=True):
    """A board wants in: answer with `welcome` or `refuse`. Its `value` is to equal `proof(digest, b"board", ...)`."""

    device: str
    board: bytes
    gateway: bytes
    """The nonces."""
    value: bytes
    """Empty from a board that cannot prove anything."""


class Ready(msgspec.Struct, frozen=True):
    """The board has taken its welcome: it can be sent messages."""

    device: str
    configures: bool
    """Whether it wants its configuration."""


class Message(msgspec.Struct, frozen=True):
    """A whole message has come; answer with `acknowledge(ticket)` once it is durable."""

    ticket: int
    topic: str
    """Below the device's tree: `events/climate`, `events`, `replies`, ..."""
    payload: bytes
    size: int
    """More than `payload` has where the message was too large: then the first bytes are there."""


class Delivered(msgspec.Struct, frozen=True):
    """The board has the message that was sent with this token."""

    token: bytes


class Text(msgspec.Struct, frozen=True):
    """Something that is no frame and can be read: a board's log, the banner of its prompt, a traceback."""

    text: str


class Ended(msgspec.Struct, frozen=True):
    """The device is not there any more; what waited for it is forgotten here."""

    why: str


Happening = Proof | Ready | Message | Delivered | Text | Ended


class Counters(msgspec.Struct):
    """Totals over the life of the line."""

    frames: int = 0
    """Taken, with the right check-sum."""
    damaged: int = 0
    """Pieces that were neither frame nor text, or too long."""
    repeats: int = 0
    """Frames of the board that had come before."""
    stray: int = 0
    """Frames that did not belong where they came."""
    repeated: int = 0
    """Frames sent to the board again."""


class _Outgoing(msgspec.Struct):
    message: bytes
    token: bytes
    at: int = 0


class GatewayLink:
    """One line. Feed it what arrives and call `tick` at `deadline`; send what is taken from `take`."""

    def __init__(self, random: Callable[[int], bytes], *, max_message: int = 64 << 10) -> None:
        """`random` gives that many random bytes."""
        self.counters = Counters()
        self.device = ""
        """Who is there, once welcome."""
        self._random = random
        self._max_message = max_message
        self._reader = Reader()
        self._out = bytearray()
        self._heard = 0
        self._came: int | None = None
        """When the piece grew that has not ended yet; None once it was looked at."""
        self._ticket = 0
        self._forget()

    def _forget(self) -> None:
        self.device = ""
        self.ready = False
        """Whether the board has shown that it knows itself welcome; before, it is sent nothing else."""
        self._hello: Hello | None = None
        self._nonce = b""
        self._challenge = b""
        self._asked = False
        """Whether a PROOF waits for `welcome` or `refuse`."""
        self._welcome = b""
        self._seed = 0
        self._handshake_until = 0
        self._expected = 0
        self._incoming = bytearray()
        self._size = 0
        self._under_way = False
        """A message has begun to come."""
        self._uncommitted: int | None = None
        """The number of the last fragment of a message that waits to be acknowledged."""
        self._queue: deque[_Outgoing] = deque()
        self._number = 0
        self._waits = False
        """Whether a DATA frame of ours waits for its ACK."""
        self._repeat_at = 0
        self._interval = FIRST_REPEAT
        self._attempts = 0
        self._ticket += 1

    def take(self) -> bytes:
        """What is to be sent."""
        out = bytes(self._out)
        self._out.clear()
        return out

    @property
    def seed(self) -> int:
        """What the session's check-sums start from."""
        return self._seed

    @property
    def deadline(self) -> int | None:
        """When `tick` is needed, if nothing comes before."""
        due = []
        if self.device:
            due.append(self._heard + self._patience)
            if self._waits:
                due.append(self._repeat_at)
        elif self._hello is not None:
            due.append(self._handshake_until)
        if self._came is not None:
            due.append(self._came + QUIET)
        return min(due, default=None)

    @property
    def _patience(self) -> int:
        assert self._hello is not None
        return max(4, self._hello.keep_alive) * 3 * SECOND // 2

    # What comes

    def feed(self, data: bytes, now: int) -> Iterator[Happening]:
        """Take bytes; the happenings must all be drawn."""
        overlong = self._reader.overlong
        for piece in self._reader.feed(data):
            frame = decode(piece, self._seed)
            if frame is None:
                yield from self._no_frame(piece)
                continue
            self.counters.frames += 1
            self._heard = now
            yield from self._take_frame(frame, now)
        self.counters.damaged += self._reader.overlong - overlong
        self._came = now if self._reader.waits else None

    def _no_frame(self, piece: bytes) -> Iterator[Happening]:
        if is_text(piece):
            yield Text(piece.decode("utf-8", "replace"))
            return
        inner = unstuff(piece)
        if not self.device and inner is not None and len(inner) >= HEAD + 4 and Type.DATA <= inner[0] <= Type.CLOSE:
            # A board that believes in a session: one that the gateway had before it was started again.
            self._send(Type.RESET)
            self.counters.stray += 1
            return
        self.counters.damaged += 1

    def _take_frame(self, frame: Frame, now: int) -> Iterator[Happening]:
        kind = frame.type
        if self.device and kind >= SESSION and not self.ready:
            self.ready = True
            assert self._hello is not None
            yield Ready(self.device, self._hello.configures)
        if kind == Type.HELLO:
            yield from self._greeted(frame, now)
        elif kind == Type.PROOF:
            yield from self._proven(frame)
        elif kind < SESSION or not self.device:
            self.counters.stray += 1
        elif kind <= Type.DATA_END:
            yield from self._data(frame)
        elif kind == Type.ACK:
            yield from self._acknowledged(frame.number, now)
        elif kind == Type.PING:
            self._send(Type.PONG, frame.number)
        elif kind == Type.CLOSE:
            yield from self._end("the board closed the session")
        else:
            self.counters.stray += 1

    def _greeted(self, frame: Frame, now: int) -> Iterator[Happening]:
        hello = read_hello(frame.body)
        if isinstance(hello, Refusal):
            self._send(Type.REFUSED, body=bytes((hello,)))
            return
        if self._hello is not None and self._hello.nonce == hello.nonce:
            self.counters.repeats += 1
            if not self.device:
                self._out += self._challenge
            return
        if self.device:
            yield from self._end("the board began anew")
        self._forget()
        self._hello = hello
        self._nonce = self._random(16)
        self._handshake_until = now + HANDSHAKE
        body = bytes((VERSION,)) + hello.nonce + self._nonce
        self._challenge = encode(Type.CHALLENGE, 0, body)
        self._out += self._challenge

    def _proven(self, frame: Frame) -> Iterator[Happening]:
        if self._hello is None:
            self.counters.stray += 1
            self._send(Type.RESET)
        elif self._asked:
            self.counters.stray += 1
        elif self._welcome:
            self.counters.repeats += 1
            self._out += self._welcome
        else:
            self._asked = True
            yield Proof(self._hello.device, self._hello.nonce, self._nonce, frame.body)

    def welcome(self, digest: bytes | None, now: int) -> None:
        """Let the board in, and show it that we have the digest of its key too; None where no proof was asked for."""
        hello = self._hello
        if hello is None or not self._asked:
            return
        self._asked = False
        self.device = hello.device
        self._seed = seed_of(hello.nonce, self._nonce)
        value = b"" if digest is None else proof(digest, b"gateway", hello.nonce, self._nonce, hello.device)
        self._welcome = encode(Type.WELCOME, 0, value)
        self._out += self._welcome
        self._heard = now

    def refuse(self, refusal: Refusal = Refusal.CREDENTIALS) -> None:
        """Do not let the board in."""
        if self._asked:
            self._forget()
            self._send(Type.REFUSED, body=bytes((refusal,)))

    def _data(self, frame: Frame) -> Iterator[Happening]:
        number, part = frame.number, frame.type & 3
        if number != self._expected:
            if number == (self._expected - 1) & 255:
                self.counters.repeats += 1
                if number != self._uncommitted:
                    self._send(Type.ACK, number)
            else:
                self.counters.stray += 1
            return
        if self._uncommitted is not None or (not part & FIRST and not self._under_way):
            self.counters.stray += 1
            return
        self._expected = (number + 1) & 255
        if part & FIRST:
            self._incoming.clear()
            self._size = 0
        self._under_way = not part & LAST
        self._size += len(frame.body)
        if self._size <= self._max_message or len(self._incoming) < KEPT:
            self._incoming += frame.body
        if not part & LAST:
            self._send(Type.ACK, number)
            return
        self._uncommitted = number
        self._ticket += 1
        whole = bytes(self._incoming if self._size <= self._max_message else self._incoming[:KEPT])
        self._incoming.clear()
        length = whole[0] if whole else 0
        topic, payload = whole[1 : 1 + length], whole[1 + length :]
        yield Message(
            self._ticket, topic.decode("utf-8", "replace"), payload, max(self._size - 1 - length, len(payload))
        )

    def acknowledge(self, ticket: int) -> bool:
        """The message with this ticket is durable (or need not be sent again); False if its session is over."""
        if ticket != self._ticket or self._uncommitted is None:
            return False
        self._send(Type.ACK, self._uncommitted)
        self._uncommitted = None
        return True

    # What goes

    def send(self, topic: str, payload: bytes, token: bytes) -> bool:
        """Have a message sent; False if there is nobody or enough waits already. Raises ValueError.

        One whose token waits already is not sent twice.
        """
        if any(waiting.token == token for waiting in self._queue):
            return True
        if not self.ready or len(self._queue) >= QUEUE:
            return False
        name = topic.encode()
        if len(name) > 255:
            raise ValueError("a topic on a serial line has at most 255 bytes")
        self._queue.append(_Outgoing(bytes((len(name),)) + name + payload, token))
        return True

    def flush(self, now: int) -> None:
        """Begin with what waits, if nothing is under way: to be called after `send`."""
        if self._queue and not self._waits:
            self._waits = True
            self._attempts = 0
            self._interval = FIRST_REPEAT
            self._send_fragment(now)

    def _fragment(self) -> int:
        assert self._hello is not None
        return min(max(self._hello.ring, MIN_RING), MAX_RING) - 2 * OVERHEAD  # one answer may wait beside it

    def _send_fragment(self, now: int) -> None:
        first, size = self._queue[0], self._fragment()
        part = (0 if first.at else FIRST) | (LAST if first.at + size >= len(first.message) else 0)
        self._send(Type.DATA | part, self._number, first.message[first.at : first.at + size])
        self._repeat_at = now + self._interval

    def _acknowledged(self, number: int, now: int) -> Iterator[Happening]:
        if not self._waits or number != self._number:
            self.counters.stray += 1
            return
        self._waits = False
        self._number = (number + 1) & 255
        first = self._queue[0]
        first.at += self._fragment()
        if first.at >= len(first.message):
            self._queue.popleft()
            yield Delivered(first.token)
        self.flush(now)

    def close(self, why: Why) -> None:
        """End the session; the board will come again."""
        if self.device:
            self._send(Type.CLOSE, body=bytes((why,)))
        self._forget()

    def tick(self, now: int) -> Iterator[Happening]:
        """Do what is due; the happenings must all be drawn."""
        if self._came is not None and now >= self._came + QUIET:
            self._came = None
            text = self._reader.quiet()
            if text:
                yield Text(text.decode("utf-8", "replace"))
            else:
                self.counters.damaged += 1
        if self.device:
            if now >= self._heard + self._patience:
                yield from self._end("nothing was heard for too long")
            elif self._waits and now >= self._repeat_at:
                if self._attempts >= REPEATS:
                    self.close(Why.NO_ANSWER)
                    yield Ended("the board does not acknowledge what it is sent")
                    return
                self._attempts += 1
                self.counters.repeated += 1
                self._interval = min(self._interval * 2, LONGEST_REPEAT)
                self._send_fragment(now)
        elif self._hello is not None and now >= self._handshake_until:
            self._forget()

    def _end(self, why: str) -> Iterator[Happening]:
        self._forget()
        yield Ended(why)

    def _send(self, kind: int, number: int = 0, body: bytes = b"") -> None:
        self._out += encode(kind, number, body, self._seed)
