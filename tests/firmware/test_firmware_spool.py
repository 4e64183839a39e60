"""The spool against a model, and with the power cut at every byte of everything it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.firmware.simulated_flash import Flash, PowerCut
from tests.firmware.spool_board import EPOCH, Board, edge_device


@pytest.fixture(scope="module")
def modules() -> Iterator[list[Any]]:
    with edge_device("segments", "spool", "cbor") as found:
        yield found


KINDS = st.sampled_from(["k", "debug", "alarm"])
STEPS = st.one_of(
    st.tuples(st.just("push"), KINDS, st.integers(0, 60)),
    st.tuples(st.just("push"), KINDS, st.integers(0, 60)),
    st.tuples(st.just("send"), st.integers(1, 5)),
    st.tuples(st.just("receive"), st.integers(0, 3)),
    st.sampled_from([("store",), ("lose_connection",), ("report",), ("settle",), ("restart",)]),
)


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEPS, max_size=60), after=st.sampled_from([0, 60]), cached=st.booleans())
def test_every_reading_is_delivered_or_counted(
    modules: list[Any], steps: list[tuple[Any, ...]], after: int, cached: bool
) -> None:
    board = Board(modules, Flash(cached=cached), after=after, priority={"alarm": 1, "debug": -1})
    for step in steps:
        match step:
            case "push", kind, size:
                board.push(kind, b"x" * size)
            case "send", most:
                board.send(most)
            case "receive", place:
                board.receive(place)
            case ("settle",):
                board.spool.settle()
                board.note()
            case ("restart",):
                board.spool.settle()
                board.note()
                board.start()
            case (name,):
                getattr(board, name)()
        assert len(board.spool) >= 0
        assert board.spool.lost >= 0
    board.drain()
    board.report()
    board.drain()
    assert board.spool.lost == 0
    found = board.delivered() + board.lost()
    assert board.taken() <= found <= board.taken() + board.again


@settings(max_examples=400, deadline=None)
@given(
    steps=st.lists(st.one_of(STEPS, st.tuples(st.just("fail"), st.integers(1, 4))), max_size=60),
    after=st.sampled_from([0, 60]),
    cached=st.booleans(),
)
def test_writes_and_removals_that_fail(
    modules: list[Any], steps: list[tuple[Any, ...]], after: int, cached: bool
) -> None:
    """A flash that is full of other files, say: some of a write may stand there, and nothing is lost unseen."""
    flash = Flash(cached=cached)
    board = Board(modules, flash, after=after, priority={"alarm": 1, "debug": -1})
    for step in steps:
        match step:
            case "push", kind, size:
                board.push(kind, b"x" * size)
            case "send", most:
                board.send(most)
            case "receive", place:
                board.receive(place)
            case "fail", number:
                flash.failing = number
            case ("settle",):
                board.spool.settle()
            case ("restart",):  # elsewhere, what a write that failed has left behind is sent once more
                if cached:
                    flash.failing = 0
                    board.spool.settle()
                    board.start()
            case (name,):
                getattr(board, name)()
        assert len(board.spool) >= 0
        assert board.spool.lost >= 0
    flash.failing = 0
    board.drain()
    board.report()
    board.drain()
    found = board.delivered() + board.lost()
    assert board.taken() <= found <= board.taken() + board.again


def test_a_segment_that_cannot_be_read_is_counted_and_passed_over(modules: list[Any]) -> None:
    flash = Flash(cached=True)
    board = Board(modules, flash, bytes=2048)
    for n in range(24):
        board.push("k", n)
    segments = sorted(name for name in flash.files if name.startswith("/spool/"))
    assert len(segments) >= 3
    flash.rotten = {segments[1]}
    board.drain()
    assert board.spool.lost == 24 - board.delivered() > 0
    for n in range(20):
        board.push("k", n)
    flash.rotten = {min(name for name in flash.files if name.startswith("/spool/"))}
    board.start()
    board.drain()
    assert board.lines == []


def everything(board: Board) -> None:
    """A bit of everything that the spool does on flash: writing, rewriting, giving up, acknowledging, starting."""
    for n in range(12):
        board.push("debug" if n % 3 else "alarm", n)
    board.send()
    board.receive(0)
    for n in range(14):
        board.push("k", "x" * n)
    board.report()
    board.send()
    board.send()
    board.receive(1)
    board.lose_connection()
    board.spool.settle()
    board.start()
    board.epoch = EPOCH
    for n in range(12):
        board.push("alarm" if n % 4 == 0 else "debug", n)
    board.spool.tick(board.now)
    for _ in range(5):
        board.send()
        board.receive(0)
    board.report()
    for n in range(16):
        board.push("alarm", n)
    board.report()
    board.drain()
    board.push("k", 1)


def too_much(board: Board) -> None:
    """Readings of one kind only, more than there is room for, and reports of that at every place in a segment."""
    for n in range(30):
        board.push("k", "x" * (n % 7))
    board.drain()
    board.push("k", 0)
    board.drain()
    board.push("k", 1)
    for n in range(18):
        for _ in range(6):
            board.push("k", "x" * n)
        board.send()
        board.receive(0)
        board.lose_connection()
        board.report()
    board.drain()


class Traced(Flash):
    """Remembers its operations: on a flash that shows a file when it is closed, nothing changes between them."""

    def __init__(self, *, cached: bool) -> None:
        super().__init__(cached=cached)
        self.cuts: list[int] = []

    def spend(self, number: int) -> int:
        if number == 1:
            self.cuts.append(self.spent)
        return super().spend(number)


@pytest.mark.parametrize(
    ("work", "after", "cached"),
    [
        (everything, 0, False),
        (everything, 60, False),
        (everything, 0, True),
        (everything, 60, True),
        (too_much, 0, True),  # what it writes is no other; what matters is between the operations
    ],
)
def test_the_power_may_go_at_any_byte(
    modules: list[Any], work: Callable[[Board], None], after: int, cached: bool
) -> None:
    options: dict[str, Any] = {"after": after, "priority": {"alarm": 1, "debug": -1}, "epoch": None}

    def run(flash: Flash, left: int | None) -> Board:
        board = Board(modules, flash, **options)
        flash.left = left
        with suppress(PowerCut):
            work(board)
        flash.left = None
        return board

    whole = Traced(cached=cached)
    run(whole, None)
    assert whole.spent > 2000
    for left in sorted({*whole.cuts, whole.spent - 1}) if cached else range(whole.spent):
        board = run(Flash(cached=cached), left)
        board.flash.left = left % 4  # and once more while it starts
        with suppress(PowerCut):
            board.start()
        board.flash.left = None
        board.start()
        check(board, f"the power went after {left}")


def check(board: Board, where: str) -> None:
    """What was on flash is delivered or counted, once, and the board goes on."""
    board.push("k", "after")
    board.store()
    safe = board.taken(board.durable)
    board.drain()
    board.report()
    board.drain()
    found = board.delivered() + board.lost()
    assert safe <= found <= board.taken() + board.again, (where, safe, found, board.taken(), board.again)


def test_what_is_no_segment_is_left_alone(modules: list[Any], tmp_path: Path) -> None:
    """A folder that is not the spool's alone: eight characters do not make a segment."""
    for name in ("main.mpy", "boot.py", "notes.txt", "0000010A"):
        (tmp_path / name).write_bytes(b"x")
    files = modules[0].Files(str(tmp_path))
    assert files.list() == []
    files.append(0x10B, b"x")
    assert files.list() == [0x10B]
