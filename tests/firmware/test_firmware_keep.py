"""What a board knows over a restart, with the power cut at every byte of what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.firmware.simulated_flash import Flash, PowerCut
from tests.firmware.spool_board import edge_device

FORM = {"device": "b1", "key": "k", "host": "h", "port": 1}
IDS = [bytes([n] * 16) for n in range(40)]
LATER = 2_000_000_000_000_000


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, Any]]:
    names = ("keep", "config", "core", "cbor", "twin", "wire")
    with edge_device(*names) as found:
        yield dict(zip(names, found, strict=True))


class Hal:
    def uptime(self) -> int:
        return 1000

    def time(self) -> int | None:
        return None

    def random(self, number: int) -> bytes:
        return bytes(number)


class Board:
    """A start of a board that can switch a fan and be configured; what it did is written down outside of it."""

    def __init__(self, modules: dict[str, Any], flash: Flash, done: list[Any]) -> None:
        self.modules = modules
        modules["keep"].open = flash.open
        self.done = done
        self.taken: list[Any] = []
        self.core = modules["core"].Core(modules["config"].Config(FORM), Hal(), lambda text: None)
        modules["keep"].attach(self.core, "/state")
        self.core.commands.handlers["fan"] = self.fan
        modules["twin"].attach(self.core).handler = self.taken.append
        self.core.step(1000)

    def fan(self, args: Any) -> Any:
        self.done.append(args)
        return args

    def command(self, n: int, args: Any) -> dict[int, Any]:
        """A command comes; returns the reply."""
        out = bytearray()
        self.modules["cbor"].encode({0: IDS[n], 1: LATER, 2: "fan", 3: args}, out)
        self.core._message("commands/fan", bytes(out), 0)
        (reply,) = [entry[1] for entry in self.core.commands._recent if entry[0] == IDS[n]]
        form: dict[int, Any] = self.modules["cbor"].decode(reply)
        return form

    def configure(self, version: int, config: Any) -> None:
        out = bytearray()
        self.modules["cbor"].encode({0: version, 1: config}, out)
        self.core._message("config", bytes(out), 0)


def test_a_repeat_after_a_restart_does_nothing(modules: dict[str, Any]) -> None:
    flash, done = Flash(cached=False), []  # type: ignore[var-annotated]
    board = Board(modules, flash, done)
    assert board.command(1, {"on": True}) == {0: IDS[1], 1: 0, 2: {"on": True}}
    assert board.command(2, "x" * 300)[2] == "x" * 300
    board = Board(modules, flash, done)
    assert board.command(1, {"on": True}) == {0: IDS[1], 1: 0, 2: {"on": True}}
    assert board.command(2, "x" * 300) == {0: IDS[2], 1: 0}, "a long reply is only known to have been given"
    assert len(done) == 2
    for n in range(3, 20):
        board.command(n, n)
    board = Board(modules, flash, done)
    for n in range(4, 20):
        assert board.command(n, n)[1] == 0
    assert len(done) == 19


def test_the_configuration_is_there_before_the_gateway_is(modules: dict[str, Any]) -> None:
    flash = Flash(cached=False)
    board = Board(modules, flash, [])
    board.configure(3, {"every": 5})
    assert board.taken == [{"every": 5}]
    board = Board(modules, flash, [])
    assert board.taken == [{"every": 5}]
    board.configure(3, {"every": 5})
    assert board.taken == [{"every": 5}], "the same version again does nothing"
    assert board.core.twin.take()[1] == b"\xa2\x00\x03\x01\x00", "but is acknowledged"
    board.configure(4, {"every": 9})
    assert Board(modules, flash, []).taken == [{"every": 9}]


def test_a_report_that_was_not_delivered_is_told_after_the_sleep(modules: dict[str, Any]) -> None:
    flash = Flash(cached=False)
    board = Board(modules, flash, [])
    board.core.twin.report({"n": 1})
    board.core.keep.settle()
    board = Board(modules, flash, [])
    topic, payload = board.core.twin.take()[:2]
    assert (topic, modules["cbor"].decode(payload)) == ("/state", {0: {"n": 1}})
    board = Board(modules, flash, [])
    board.core.twin.report({"n": 2})
    assert modules["cbor"].decode(board.core.twin.take()[1]) == {0: {"n": 2}}, "news come first"


def test_what_is_too_long_to_be_kept_does_not_cost_what_is_there(modules: dict[str, Any]) -> None:
    """Its length would not fit the two bytes that are there for it, which MicroPython passes over in silence."""
    flash = Flash(cached=True)
    modules["keep"].open = flash.open
    slots = modules["keep"].Slots("/state")
    slots.save(b"before")
    with pytest.raises(ValueError, match="65,535"):
        slots.save(bytes(70_000))
    assert modules["keep"].Slots("/state").load() == b"before"


@pytest.mark.parametrize("cached", [False, True])
def test_the_power_may_go_at_any_byte(modules: dict[str, Any], cached: bool) -> None:
    def run(left: int | None) -> tuple[Flash, list[Any], list[int]]:
        flash, done, answered = Flash(cached=cached), [], []  # type: ignore[var-annotated]
        board = Board(modules, flash, done)
        flash.left = left
        with suppress(PowerCut):
            for n in range(6):
                board.command(n, n)
                answered.append(n)
                board.configure(n + 1, "v" * n)
                answered.append(-n)
        flash.left = None
        return flash, done, answered

    whole = run(None)[0].spent
    assert whole > 1000
    for left in range(whole):
        flash, done, answered = run(left)
        board = Board(modules, flash, done)
        for n in range(6):
            reply = board.command(n, n)
            if n in answered:
                assert reply == {0: IDS[n], 1: 0, 2: n}
        assert sorted(done) == sorted(set(done)), f"the power went after {left}: a command was carried out twice"
        versions = [len(each) + 1 for each in board.taken]
        known = [1 - n for n in answered[1::2]]
        assert not known or versions[0] in (known[-1], known[-1] + 1)
