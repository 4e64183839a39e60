"""The serial link: the gateway's machine against the firmware's own, on lines that lose, damage, repeat and reorder."""

from __future__ import annotations

import json
from binascii import a2b_base64
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.proto import serial
from edge_runtime.proto.serial import frames, reader
from edge_runtime.proto.serial.link import KEPT, MAX_RING, QUEUE, SECOND
from tests.proto.serial_board import KEY, Board, firmware

DIGEST = sha256(a2b_base64(KEY + "=")).digest()
VECTORS = Path(__file__).parent.parent / "vectors"


def cases(name: str) -> list[Any]:
    found = json.loads((VECTORS / "serial.json").read_text("utf-8"))[name]
    return [pytest.param(case, id=case["name"]) for case in found]


@pytest.mark.parametrize("case", cases("frames"))
def test_frames_are_as_the_vectors_say(case: dict[str, Any]) -> None:
    wire, body, seed = bytes.fromhex(case["hex"]), bytes.fromhex(case["body"]), case["seed"]
    assert frames.encode(case["type"], case["number"], body, seed) == wire
    assert frames.decode(wire[1:-1], seed) == frames.Frame(case["type"], case["number"], body)
    if case["type"] >= frames.SESSION:
        assert frames.decode(wire[1:-1], seed ^ 1) is None, "a frame of another session"
    out = bytearray()
    firmware.frame(out, case["type"], case["number"], body, seed)
    assert bytes(out) == wire


@pytest.mark.parametrize("case", cases("proofs"))
def test_proofs_are_as_the_vectors_say(case: dict[str, Any]) -> None:
    digest, board, gateway = (bytes.fromhex(case[name]) for name in ("digest", "board", "gateway"))
    made = serial.proof(digest, case["side"].encode(), board, gateway, case["device"])
    assert made.hex() == case["proof"]
    assert firmware.prove(digest, case["side"].encode(), board + gateway, case["device"]) == made
    assert frames.seed_of(board, gateway) == case["seed"]


@pytest.mark.parametrize("case", cases("invalid"))
def test_what_is_no_frame_is_none(case: dict[str, Any]) -> None:
    piece = bytes.fromhex(case["hex"])
    assert frames.decode(piece, 0) is None
    assert firmware.unframe(piece, 0) is None


@given(st.binary(max_size=253))
def test_cobs_has_no_zero_and_comes_back(data: bytes) -> None:
    stuffed = frames.stuff(data)
    assert b"\0" not in stuffed
    assert len(stuffed) == len(data) + 1
    assert frames.unstuff(stuffed) == data


@given(st.lists(st.binary(max_size=700), max_size=8), st.booleans())
def test_garbage_never_crashes_either_side_and_holds_little(pieces: list[bytes], open_first: bool) -> None:
    line = Line(Random(1))
    if open_first:
        line.run_until(lambda: line.link.ready)
    for piece in pieces:
        line.now += 100
        line.hear(piece)
        list(line.link.tick(line.now * 1000 + 2 * SECOND))
        line.board.receive(piece, line.now)
        assert len(line.link._reader._buffer) <= reader.MAX_TEXT
        assert len(line.link.take()) < 4096
    assert not line.admitted


@given(st.integers(frames.Type.HELLO, 0x20), st.integers(0, 255), st.binary(max_size=247), st.booleans())
def test_any_frame_at_any_time_is_taken_or_ignored(kind: int, number: int, body: bytes, open_first: bool) -> None:
    line = Line(Random(1))
    if open_first:
        line.run_until(lambda: line.link.ready)
    line.hear(frames.encode(kind, number, body, line.link.seed))
    line.board.receive(frames.encode(kind, number, body, line.link.seed), line.now)
    line.board.waiting = [b"after"]
    line.board.session.failure = ""
    line.run_until(lambda: line.board.acknowledged == [b"after"])


class Line:
    """Both machines and what is between them, in virtual time. Whatever was acknowledged must have been admitted."""

    def __init__(self, random: Random, *, ring: int = 63) -> None:
        self.random = random
        self.link = serial.GatewayLink(random.randbytes, max_message=8192)
        self.board = Board(random.randbytes, ring)
        self.now = 0
        self.admitted: list[bytes] = []
        """What the journal would hold; an event that comes again is there already."""
        self.texts: list[str] = []
        self.delivered: list[bytes] = []
        self.store_after = 0
        """Milliseconds that a commit takes."""
        self.committing: list[tuple[int, int, bytes]] = []
        self.flying: list[tuple[int, bool, bytes]] = []
        self.unread = 0
        """Bytes that the board has in its ring and has not read."""
        self.most_unread = 0
        self.loss = self.damage = self.twice = self.late = 0.0

    def hear(self, data: bytes) -> None:
        for happening in self.link.feed(data, self.now * 1000):
            self.happens(happening)

    def happens(self, happening: serial.Happening) -> None:
        match happening:
            case serial.Proof():
                expected = serial.proof(DIGEST, b"board", happening.board, happening.gateway, happening.device)
                if happening.value == expected:
                    self.link.welcome(DIGEST, self.now * 1000)
                else:
                    self.link.refuse()
            case serial.Message():
                assert happening.topic == "events/climate" or happening.size > 8192 or not happening.topic.isascii(), (
                    happening
                )
                self.committing.append((self.now + self.store_after, happening.ticket, happening.payload))
            case serial.Delivered():
                self.delivered.append(happening.token)
            case serial.Text():
                self.texts.append(happening.text)

    def chunks(self, data: bytes) -> Iterator[bytes]:
        """What a line makes of bytes: pieces, each of which may be lost, damaged, repeated or late."""
        while data:
            size = self.random.randint(1, 80)
            chunk, data = data[:size], data[size:]
            if self.random.random() < self.loss:
                continue
            if self.random.random() < self.damage:
                at = self.random.randrange(len(chunk))
                chunk = chunk[:at] + bytes((chunk[at] ^ (1 << self.random.randrange(8)),)) + chunk[at + 1 :]
            yield chunk
            if self.random.random() < self.twice:
                yield chunk

    def put(self, to_board: bool, data: bytes) -> None:
        for chunk in self.chunks(data):
            delay = self.random.randint(100, 3000) if self.random.random() < self.late else 5
            self.flying.append((self.now + delay, to_board, chunk))

    def step(self) -> None:
        self.now += 5
        for item in [item for item in self.flying if item[0] <= self.now]:
            self.flying.remove(item)
            if item[1]:
                self.board.receive(item[2], self.now)
            else:
                self.hear(item[2])
        for commit in [commit for commit in self.committing if commit[0] <= self.now]:
            self.committing.remove(commit)
            if commit[2] not in self.admitted:
                self.admitted.append(commit[2])
            self.link.acknowledge(commit[1])
        if self.link.deadline is not None and self.link.deadline <= self.now * 1000:
            for happening in self.link.tick(self.now * 1000):
                self.happens(happening)
        self.link.flush(self.now * 1000)
        self.board.step(self.now)
        self.put(True, self.link.take())
        self.put(False, self.board.take())
        assert set(self.board.acknowledged) <= set(self.admitted), "acknowledged before it was durable"
        assert len(self.flying) < 1000

    def run_until(self, condition: Any, most: int = 600_000) -> None:
        end = self.now + most
        while not condition():
            assert self.now < end, (self.board.failures[-3:], self.link.device, self.board.session.state)
            self.step()


def message(index: int, size: int) -> bytes:
    return index.to_bytes(4) + b"\0x" * (size // 2)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from((0, 0.05, 0.25)),
    st.sampled_from((0, 0.05, 0.25)),
    st.sampled_from((0, 0.1)),
    st.sampled_from((0, 0.1)),
    st.lists(st.tuples(st.integers(50, 4000), st.sampled_from(("board", "gateway"))), max_size=4),
)
def test_every_message_arrives_once_in_order_whatever_the_line_and_restarts_do(
    seed: int, loss: float, damage: float, twice: float, late: float, restarts: list[tuple[int, str]]
) -> None:
    random = Random(seed)
    line = Line(random)
    line.loss, line.damage, line.twice, line.late = loss, damage, twice, late
    line.store_after = random.choice((0, 40, 900))
    sent = [message(index, random.randint(0, 900)) for index in range(12)]
    line.board.waiting = list(sent)
    orders = [b"order %d" % index + b"." * random.randint(0, 200) for index in range(6)]
    for after, who in restarts:
        end = line.now + after
        while line.now < end:
            line.step()
        if who == "board":  # its queue outlives this in a spool; what it had acknowledged is gone from it
            fresh = Board(random.randbytes)
            fresh.waiting, fresh.acknowledged = line.board.waiting, line.board.acknowledged
            fresh.messages = line.board.messages
            line.board = fresh
        else:
            line.link = serial.GatewayLink(random.randbytes, max_message=8192)
            line.committing.clear()
    line.loss = line.damage = line.twice = line.late = 0.0
    line.run_until(lambda: len(line.board.acknowledged) == 12)
    settled = line.now + 5000  # what is late has come by then, and has had its answer
    line.run_until(lambda: line.now > settled and line.link.ready and line.board.session._seed == line.link.seed)
    line.board.messages.clear()
    for index, order in enumerate(orders):  # as the outbox does: again until it is there, whatever becomes of sessions
        while bytes((index,)) not in line.delivered:
            assert line.now < settled + 200_000
            line.link.send("commands/fan", order, bytes((index,)))
            line.step()
    assert line.board.acknowledged == sent
    assert line.admitted == sent
    assert list(dict.fromkeys(line.board.messages)) == [("commands/fan", order) for order in orders]


@pytest.mark.parametrize("ring", [63, 100, 255])
def test_a_board_never_has_more_than_its_ring_to_take(ring: int) -> None:
    line = Line(Random(7), ring=ring)
    unread = bytearray()
    line.board.waiting = [message(index, 300) for index in range(20)]
    most = 0
    for turn in range(20_000):
        line.now += 5
        if line.link.ready:
            line.link.send("commands/fan", b"o" * 120, turn.to_bytes(4))
        line.link.flush(line.now * 1000)
        if turn % 4 == 0:  # it looks now and then, reads all there is, and only then says something
            line.board.receive(bytes(unread), line.now)
            unread.clear()
            line.board.step(line.now)
            line.hear(line.board.take())
        for commit in line.committing:
            line.link.acknowledge(commit[1])
        line.committing.clear()
        unread += line.link.take()
        most = max(most, len(unread))
        assert most <= ring
    assert len(line.board.acknowledged) == 20
    assert len(line.board.messages) > 100
    assert line.link.counters.damaged == line.board.session.damaged == 0
    assert most > ring // 2


def test_an_acknowledgement_waits_for_the_commit_and_a_repeat_does_not_get_it() -> None:
    line = Line(Random(3))
    line.store_after = 5000
    line.board.waiting = [b"\1"]
    line.run_until(lambda: line.committing != [])
    while line.now < 4000:
        line.step()
    assert line.link.counters.repeats > 1
    assert len(line.committing) == 1
    assert line.board.acknowledged == []
    line.run_until(lambda: line.board.acknowledged == [b"\1"])


def test_an_acknowledgement_for_an_earlier_session_is_not_given_in_a_later_one() -> None:
    line = Line(Random(3))
    line.store_after = 1000
    line.board.waiting = [b"\1"]
    line.run_until(lambda: line.committing != [])
    ticket = line.committing.pop()[1]
    line.board.session.begin(line.now)
    line.run_until(lambda: line.committing != [])
    before = len(line.link._out)
    line.link.acknowledge(ticket)
    assert len(line.link._out) == before


def test_a_wrong_key_is_refused_and_said_on_the_board() -> None:
    line = Line(Random(3))
    line.board = Board(line.random.randbytes, key="x" * 43)
    line.run_until(lambda: line.board.failures != [])
    assert line.board.failures == [
        "the gateway refused 'b1': it does not know this device, or the key is wrong",
    ]
    assert line.board.session.refused
    assert line.link.device == ""


def test_a_gateway_that_does_not_know_the_key_is_refused_by_the_board() -> None:
    line = Line(Random(3))

    def lenient(happening: serial.Happening) -> None:
        if isinstance(happening, serial.Proof):
            line.link.welcome(b"n" * 32, line.now * 1000)

    line.happens = lenient  # type: ignore[method-assign]
    line.run_until(lambda: line.board.failures != [])
    assert line.board.failures == ["this gateway does not know our key: it is not ours"]


def test_too_large_a_message_comes_with_its_beginning_and_its_size() -> None:
    line = Line(Random(3))
    line.board.waiting = [b"x" * 20_000]
    found: list[serial.Message] = []
    keep = line.happens

    def note(happening: serial.Happening) -> None:
        if isinstance(happening, serial.Message):
            found.append(happening)
            line.link.acknowledge(happening.ticket)
        else:
            keep(happening)

    line.happens = note  # type: ignore[method-assign]
    line.run_until(lambda: found != [])
    assert found[0].size == 20_000
    assert found[0].payload == (b"x" * 20_000)[: KEPT - 15]


def test_text_is_told_from_frames_and_does_not_harm_them() -> None:
    line = Line(Random(3))
    line.run_until(lambda: line.link.ready)
    line.hear(b"Traceback (most recent call last):\r\n")
    assert line.texts == []
    assert line.link.deadline == line.now * 1000 + SECOND
    for happening in line.link.tick(line.now * 1000 + SECOND):
        line.happens(happening)
    assert line.texts == ["Traceback (most recent call last):\r\n"]
    line.hear(b"temp \xc2\xb0C\r\n" + frames.encode(frames.Type.PING, 0, seed=line.link.seed))
    assert line.texts[1:] == ["temp °C\r\n"]
    assert line.link.counters.damaged == 0


def test_a_line_without_a_board_is_left_alone() -> None:
    link = serial.GatewayLink(Random(1).randbytes)
    for data in (b"MicroPython v1.28\r\n>>> ", b"\r\n>>> \0\0\0", b"\x80" * 300 + b"\0", b"AT+GMR\r\n\0"):
        list(link.feed(data, 0))
        assert link.take() == b""


def test_who_is_silent_is_gone_and_the_queue_is_bounded() -> None:
    line = Line(Random(3))
    line.run_until(lambda: line.link.ready)
    taken = [line.link.send("commands/fan", b"1", bytes((n,))) for n in range(20)]
    assert sum(taken) == QUEUE
    assert line.link.send("commands/fan", b"1", b"\0"), "it is on its way already"
    line.link.flush(line.now * 1000)
    ended: list[serial.Ended] = []
    now = line.now * 1000
    while not ended:
        assert line.link.deadline is not None
        now = max(now + 1, line.link.deadline)
        ended += [found for found in line.link.tick(now) if isinstance(found, serial.Ended)]
        line.link.take()
    assert ended[0].why == "the board does not acknowledge what it is sent"
    assert line.link.deadline is None
    assert not line.link.send("commands/fan", b"1", b"")


def test_hellos_that_cannot_be_are_refused() -> None:
    link = serial.GatewayLink(Random(1).randbytes)
    for body, refusal in (
        (b"", serial.Refusal.VERSION),
        (b"\2", serial.Refusal.VERSION),
        (b"\1\1\x3f\0\x1e12345678", serial.Refusal.MALFORMED),
        (b"\1\1\x3f\0\x1e12345678" + b"d" * 129, serial.Refusal.MALFORMED),
        (b"\1\1\x3f\0\x1e12345678\xff", serial.Refusal.MALFORMED),
    ):
        list(link.feed(frames.encode(frames.Type.HELLO, 0, body), 0))
        assert link.take() == frames.encode(frames.Type.REFUSED, 0, bytes((refusal,)))
    assert MAX_RING <= frames.MAX_WIRE
