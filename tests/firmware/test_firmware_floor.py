"""A clock that was set for want of a better one is never taken for the time, whatever resets and sleeps there are."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.board import firmware_folder
from hil.script import installed, run_script
from tests.firmware.spool_board import edge_device

DEVICE = """
from edge_device import Device
from edge_device.config import Config

def known():
    form = {"device": "b1", "key": "k", "host": "h", "port": 1}
    return [Device(Config(each)).core.hal.time() is not None for each in (form, dict(form, clock={}))]

print(known())
open("/clock.floor", "w").close()
print(known())
"""
SINCE = 1_795_000_000
NOW = SINCE + 40 * 86_400
_2000 = 946_684_800


class Chip:
    """A board's clock and counter, with what MicroPython's `time` and `machine.RTC` make of them."""

    def __init__(self, modules: Any, flash: Path, *, epoch: int = 1970, settles: bool = False) -> None:
        self.hal, self.floor, self.clock = modules
        self.true = NOW * 1_000_000
        self.rtc = _2000 * 1_000_000
        self.ticks = 5_000
        self._zero = 0 if epoch == 1970 else _2000
        self._settles = settles
        self._coming: int | None = None
        self.flash = flash
        self.floor.PATH = str(flash / "clock.floor")
        self.hal.time = self.floor.time = self
        machine = ModuleType("machine")
        machine.RTC = lambda: self  # type: ignore[attr-defined]
        sys.modules["machine"] = machine
        self.start()

    # What the firmware sees

    def ticks_ms(self) -> int:
        return self.ticks % 2**30

    @staticmethod
    def ticks_diff(one: int, other: int) -> int:
        return (one - other + 2**29) % 2**30 - 2**29

    def time_ns(self) -> int:
        return (self.rtc - self._zero * 1_000_000) * 1000

    def time(self) -> int:
        return self.time_ns() // 10**9

    def gmtime(self, seconds: int) -> tuple[int, ...]:
        found = time.gmtime(seconds + self._zero)
        return (*found[:7], found.tm_yday)

    def datetime(self, moment: tuple[int, ...]) -> None:
        year, month, day, weekday, hour, minute, second, _ = moment
        stands = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        assert weekday == stands.weekday()
        self.set(int(stands.timestamp()) * 1_000_000)

    # What happens to it

    def set(self, micros: int) -> None:
        """Somebody sets the clock; on some chips that takes a moment."""
        if self._settles:
            self._coming = micros
        else:
            self.rtc = micros

    def passes(self, seconds: float, *, awake: bool = True, drift: float = 0.0) -> None:
        """Time goes by; the counter stands still in a deep sleep."""
        if self._coming is not None:
            self.rtc, self._coming = self._coming, None
        self.true += int(seconds * 1e6)
        self.rtc += int(seconds * 1e6 * (1 + drift))
        if awake:
            self.ticks += int(seconds * 1000)

    def start(self) -> None:
        """As `Device` has it."""
        self.board = self.hal.Hal()
        if self.marked:
            self.floor.Floor(self.board, self.floor.read_clock())

    def reset(self) -> None:
        """The program starts anew, and the clock goes on."""
        if self._coming is not None:
            self.rtc, self._coming = self._coming, None
        self.ticks = 3
        self.start()

    def sleep(self, seconds: float) -> None:
        """A deep sleep, after which the board knows for how long it was up before."""
        up = self.board.uptime()
        self.passes(seconds, awake=False)
        self.reset()
        self.board.resume(up + int(seconds * 1000))

    def power_cut(self, seconds: float) -> None:
        """Without a battery the clock begins again in 2000."""
        self.passes(seconds, awake=False)
        self.rtc = _2000 * 1_000_000
        self.reset()

    def connect(self) -> None:
        """TLS, with `since`."""
        self.floor.raise_clock(SINCE, self.board)

    @property
    def marked(self) -> bool:
        return (self.flash / "clock.floor").exists()


@pytest.fixture(scope="module")
def modules() -> Iterator[Any]:
    before = sys.modules.get("machine")
    with edge_device("hal", "floor", "clock") as found:
        yield found
    sys.modules.pop("machine", None)
    if before is not None:
        sys.modules["machine"] = before


@pytest.mark.parametrize("epoch", [1970, 2000])
@pytest.mark.parametrize("settles", [False, True])
def test_it_is_not_the_time_after_a_reset(modules: Any, tmp_path: Path, epoch: int, settles: bool) -> None:
    chip = Chip(modules, tmp_path, epoch=epoch, settles=settles)
    assert chip.board.time() is None
    chip.connect()
    assert chip.board.time() is None
    chip.passes(1)
    assert chip.time() + chip._zero == SINCE + 1, "certificates can be checked"
    for again in (chip.reset, lambda: chip.sleep(3600), chip.reset, lambda: chip.sleep(8 * 86_400)):
        again()
        assert chip.board.time() is None
        chip.connect()
        chip.passes(30)
        assert chip.board.time() is None
    assert chip.time() + chip._zero > SINCE + 8 * 86_400, "what the clock has gained since is kept"
    chip.set(chip.true)
    chip.passes(1)
    assert chip.board.time() == chip.true, "somebody who knows has set it"
    assert not chip.marked
    chip.reset()
    assert chip.board.time() == chip.true
    chip.connect()
    assert chip.board.time() == chip.true
    chip.power_cut(60)
    assert chip.board.time() is None
    chip.connect()
    chip.passes(1)
    chip.reset()
    assert chip.board.time() is None


def test_a_clock_and_a_counter_that_run_apart_are_no_time(modules: Any, tmp_path: Path) -> None:
    chip = Chip(modules, tmp_path)
    chip.connect()
    for _ in range(24 * 90):
        chip.passes(3600, drift=50e-6)
        assert chip.board.time() is None


def test_the_clock_of_a_server_raises_it_and_is_not_believed_after_a_reset(modules: Any, tmp_path: Path) -> None:
    chip = Chip(modules, tmp_path)
    chip.connect()
    asking = chip.clock.Clock(chip.board)
    up = asking.uptime()
    asking.heard(up, up, chip.true)
    assert asking.time() == chip.true
    assert chip.time() == NOW, "from here on the end of a certificate is looked at, too"
    chip.passes(100)
    assert asking.time() == chip.true
    chip.sleep(3600)
    assert chip.clock.Clock(chip.board).time() is None
    chip.connect()
    assert chip.time() == NOW + 3700


def test_a_clock_that_is_right_is_left_alone(modules: Any, tmp_path: Path) -> None:
    chip = Chip(modules, tmp_path)
    chip.set(chip.true)
    chip.connect()
    chip.clock.Clock(chip.board).heard(0, 0, chip.true + 10**9)
    assert chip.board.time() == chip.rtc == chip.true
    assert not chip.marked


def test_a_flash_without_room(modules: Any, tmp_path: Path) -> None:
    chip = Chip(modules, tmp_path / "no such folder")
    chip.connect()
    assert chip.rtc == SINCE * 1_000_000, "it connects all the same"
    assert chip.board.time() is None


HAPPENS = st.one_of(
    st.tuples(st.just("passes"), st.integers(1, 500_000)),  # a board looks at its uptime once in six days (`hal.py`)
    st.tuples(st.just("sleep"), st.integers(1, 10**6)),
    st.tuples(st.just("power_cut"), st.integers(1, 10**6)),
    st.tuples(st.sampled_from(("reset", "connect", "look", "set"))),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(HAPPENS, max_size=25), st.booleans())
def test_whatever_happens_a_time_is_the_time(
    modules: Any, tmp_path_factory: pytest.TempPathFactory, events: list[Any], settles: bool
) -> None:
    chip = Chip(modules, tmp_path_factory.mktemp("f"), settles=settles)
    for name, *arguments in events:
        if name == "set":
            chip.set(chip.true)
            chip.passes(0.001)
            assert chip.board.time() is not None, "it is known as soon as somebody has said it"
        elif name != "look":
            getattr(chip, name)(*arguments)
        known = chip.board.time()
        assert known is None or abs(known - chip.true) < 1_000_000


def test_a_device_that_starts_looks_for_the_mark(tmp_path: Path) -> None:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    shutil.copytree(firmware_folder() / "edge_device", tmp_path / "lib" / "edge_device")
    assert run_script("unix", tmp_path, DEVICE, heap="256k").splitlines() == ["[True, True]", "[False, False]"]
