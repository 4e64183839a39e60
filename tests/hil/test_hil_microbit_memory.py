"""The micro:bit's program when memory runs out: at every line of it, in virtual time, against the gateway's machine.

What runs is what is put onto the board, in CPython; only the check-sum is `binascii`'s, which is faster.
"""

from __future__ import annotations

import ast
import gc
import linecache
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from types import CodeType, FrameType, ModuleType
from typing import Any

import pytest

from edge_runtime.proto.serial import link
from edge_runtime.wire import CommandMessage, ReplyMessage, decode_events, decode_reply, encode_command
from hil.board import firmware_folder
from hil.microbit import INLINED, known
from hil.subset import take

MICROSECONDS = 1000
STUCK = 60_000
"""Milliseconds, of its own, in which the board does what it is here for, whatever happens to it once."""
ORDERS: tuple[tuple[str, object, int], ...] = (
    ("pin", {"on": True}, 0),
    ("pin", {}, 1),
    ("pin", {"on": 0.5}, 1),
    ("teapot", None, 2),
)
"""Commands: name, arguments, and how they end."""


class Finished(BaseException):
    """All has come that was to come."""


class Bench:
    """The module `microbit`, and the gateway at the other end of its UART."""

    def __init__(self) -> None:
        self.now = 0
        self.pins: list[object] = []
        self.events: dict[int, Any] = {}
        self.replies: dict[bytes, ReplyMessage] = {}
        self.printed: list[str] = []
        self._link = link.GatewayLink(Random(1).randbytes)
        self._to_board = b""
        self._orders = {
            bytes([n]) * 16: encode_command(CommandMessage(bytes([n]) * 16, 1 << 50, name, args, (b"b" * 8, 1)))
            for n, (name, args, _) in enumerate(ORDERS, 1)
        }

    def module(self) -> ModuleType:
        """What the program imports."""
        bench, made = self, ModuleType("microbit")

        class Pin:
            def write_digital(self, value: object) -> None:
                if value not in (0, 1):
                    raise TypeError
                bench.pins.append(value)

            def read_digital(self) -> int:
                return int(bench.now < 700 or bench.kinds["button"] == 2)

        class Uart:
            init = staticmethod(lambda _: None)
            read = staticmethod(bench._read)
            write = staticmethod(bench._written)

        vars(made).update(pin0=Pin(), pin5=Pin(), pin11=Pin(), uart=Uart)
        vars(made).update(running_time=self._running_time, sleep=self._sleep)
        return made

    @property
    def kinds(self) -> Counter[str]:
        """How many readings there are of each kind."""
        return Counter(kind for kind, _ in self.events.values())

    def _running_time(self) -> int:
        self._sleep(1)
        if self.now > STUCK or (len(self.events) >= 8 and len(self.replies) == len(ORDERS)):
            raise Finished
        return self.now

    def _sleep(self, milliseconds: int) -> None:
        self.now += milliseconds
        self._happen(self._link.tick(self.now * MICROSECONDS))
        for command, payload in self._orders.items():
            if command not in self.replies and self._link.device:
                self._link.send("commands/some", payload, command)
        self._link.flush(self.now * MICROSECONDS)
        self._to_board += self._link.take()

    def _read(self, size: int) -> bytes | None:
        taken, self._to_board = self._to_board[:size], self._to_board[size:]
        return taken or None

    def _written(self, data: bytes) -> None:
        self._happen(self._link.feed(bytes(data), self.now * MICROSECONDS))

    def _happen(self, happenings: Iterator[link.Happening]) -> None:
        for happening in happenings:
            if isinstance(happening, link.Proof):
                self._link.welcome(None, self.now * MICROSECONDS)
            elif isinstance(happening, link.Message):
                self._link.acknowledge(happening.ticket)
                self._take(happening)

    def _take(self, message: link.Message) -> None:
        if message.topic == "replies":
            reply = decode_reply(message.payload)
            assert self.replies.setdefault(reply.id, reply) == reply
            return
        for reading in decode_events(message.payload, message.topic.partition("/")[2]).readings:
            came = (message.topic.partition("/")[2], reading.data)
            assert self.events.setdefault(reading.seq, came) == came


Place = tuple[str, int]
FREE = re.compile(r"while True:|try:|except |\w+\+?=(\w+\+)?\d+$")
"""What needs no memory, as small integers in local variables. Before the first turn there is as much as ever."""


@pytest.fixture(scope="module")
def pieces() -> list[CodeType]:
    """The program in pieces, as it is put onto the board."""
    folder = firmware_folder()
    text = (folder / "boards" / "microbit" / "main.py").read_text()
    source = ast.parse(text)
    source.body = [node for node in source.body if not (isinstance(node, ast.FunctionDef) and node.name == "crc32")]
    values = {**known(text, "b1"), "DEVICE": "b1", "PERIOD": 300}
    made = take(folder / "edge_device", ast.unparse(source), values, INLINED).pieces
    for number, piece in enumerate(made):
        linecache.cache[f"piece {number}"] = len(piece), None, piece.splitlines(keepends=True), f"piece {number}"
    return [compile(piece, f"piece {number}", "exec") for number, piece in enumerate(made)]


def run(pieces: list[CodeType], at: Callable[[Place], None] = lambda _: None) -> Bench:
    """Run it to its end; `at` is told each line that is about to run, from the first turn of the loop on."""
    bench = Bench()
    names: dict[str, object] = {"print": lambda said: bench.printed.append(said.__name__)}
    *definitions, last = pieces

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith("piece"):
            return None
        place = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and bench.now and not FREE.match(linecache.getline(*place).strip()):
            at(place)
        return trace

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "microbit", bench.module())
        patch.setattr("random.getrandbits", Random(2).getrandbits)
        patch.setattr(gc, "collect", lambda: 0)  # CPython's takes longer than all the rest
        for piece in definitions:
            exec(piece, names)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            exec(last, names)
        except Finished:
            pass
        finally:
            sys.settrace(before)
    return bench


def check(bench: Bench) -> None:
    """All is there, once, and nothing else."""
    assert bench.now <= STUCK, f"stuck with {bench.events} and {bench.replies}"
    assert sorted(bench.events) == list(range(len(bench.events)))
    counted = [data["n"] for _, (kind, data) in sorted(bench.events.items()) if kind == "count"]
    assert counted == list(range(1, len(counted) + 1))
    assert [data for kind, data in bench.events.values() if kind == "button"] == [{"button": "a"}, {"button": "b"}]
    assert [bench.replies[bytes([n]) * 16].status for n in range(1, len(ORDERS) + 1)] == [
        status for _, _, status in ORDERS
    ]
    assert set(bench.pins) == {True}


def test_the_program_does_what_it_is_for(pieces: list[CodeType]) -> None:
    bench = run(pieces)
    check(bench)
    assert bench.pins == [True]
    assert bench.printed == []


def test_memory_may_run_out_at_any_line(pieces: list[CodeType]) -> None:
    """At the first and the last time that each line runs."""
    visits: Counter[Place] = Counter()
    run(pieces, lambda place: visits.update([place]))
    cases = {(place, visit) for place, number in visits.items() for visit in {1, number}}
    assert len(cases) > 300

    for place, visit in sorted(cases):
        left = iter(range(visit - 1, -1, -1))

        def fail(now: Place, place: Place = place, left: Iterator[int] = left) -> None:
            if now == place and next(left) == 0:
                raise MemoryError

        bench = run(pieces, fail)
        check(bench)
        # A session that was left half begun is given up at the next turn.
        assert bench.printed in (["MemoryError"], ["MemoryError", "AttributeError"], ["MemoryError", "ValueError"])
