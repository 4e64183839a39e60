"""How a board sleeps and joins its network, against stand-ins of what no emulator has: `machine` and `network`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hil.script import installed, run_script
from tests.firmware.test_firmware_heap import PACKAGE

MACHINE = """
class RTC:
    kept = b""
    def memory(self, data=None):
        if data is None:
            return RTC.kept
        RTC.kept = bytes(data)

class WDT:
    def __init__(self, timeout):
        print("watchdog", timeout)
    def feed(self):
        print("fed")

def deepsleep(ms):
    print("sleeps", ms)
    raise SystemExit
"""
NETWORK = """
STA_IF = 0
class WLAN:
    def __init__(self, interface):
        self.polls = 0
    def active(self, on):
        print("radio", on)
    def connect(self, ssid, key):
        print("joins", ssid, key)
    def isconnected(self):
        self.polls += 1
        return self.polls > 3
"""
RUN = """
import sys
sys.path.insert(0, "/stand-ins")
import edge_device.device as d
from edge_device.config import Config
form = {"device": "b1", "key": "k", "host": "127.0.0.1", "port": 1, "patience": 1, "backoff": 1,
        "spool": {"path": "/spool"}, "duty": {"online": 1, "wifi": {"ssid": "home", "key": "secret"}}, "watchdog": 8}
FORM
device = d.Device(Config(form))

@device.every(seconds=60)
def climate():
    return {"t": 21}

device.run()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "edge_device").symlink_to(PACKAGE)
    stand_ins = tmp_path / "stand-ins"
    stand_ins.mkdir()
    (stand_ins / "machine.py").write_text(MACHINE)
    (stand_ins / "network.py").write_text(NETWORK)
    return tmp_path


def test_it_joins_gives_up_stores_and_sleeps(folder: Path) -> None:
    output = run_script("unix", folder, RUN.replace("FORM", ""), heap="512k")
    lines = [line for line in output.splitlines() if line != "fed"]
    assert lines[:3] == ["watchdog 8000", "radio True", "joins home secret"], output
    assert lines[-2] == "radio False", output
    word, pause = lines[-1].split()
    assert word == "sleeps"
    assert 50_000 < int(pause) <= 60_000
    assert output.count("fed") > 5
    assert sum(path.stat().st_size for path in (folder / "spool").iterdir()) > 60


def test_without_memory_that_outlives_it_a_file_is_used(folder: Path) -> None:
    (folder / "stand-ins" / "machine.py").write_text(MACHINE.replace("def memory", "def memorize"))
    for n in range(2):
        output = run_script("unix", folder, RUN.replace("FORM", ""), heap="512k")
        assert "sleeps" in output, output
        assert ("radio True" in output) == (n == 0), "an awakening is no start"
    assert sorted(path.name for path in folder.glob("duty.*")) == ["duty.0", "duty.1"]


def test_after_a_loss_of_power_nothing_goes_on(folder: Path) -> None:
    """What the file says of the sleep is not true any more: nobody knows how long the board was without power."""
    lost = MACHINE.replace("def memory", "def memorize") + "PWRON_RESET = 1\nreset_cause = lambda: CAUSE\n"
    for cause, anew in ((1, True), (3, False), (1, True)):
        (folder / "stand-ins" / "machine.py").write_text(lost.replace("CAUSE", str(cause)))
        output = run_script("unix", folder, RUN.replace("FORM", ""), heap="512k")
        assert "sleeps" in output, output
        assert ("radio True" in output) == anew


def test_a_radio_that_is_busy_keeps_no_reading_from_being_taken(folder: Path) -> None:
    """An ESP32 that is joining already (by its boot.py, say) refuses to be told so again."""
    busy = NETWORK.replace('print("joins", ssid, key)', 'raise OSError("Wifi Internal State Error")')
    (folder / "stand-ins" / "network.py").write_text(busy)
    output = run_script("unix", folder, RUN.replace("FORM", ""), heap="512k")
    assert "sleeps" in output, output
    assert sum(path.stat().st_size for path in (folder / "spool").iterdir()) > 60


def test_a_port_without_a_watchdog_says_so(folder: Path) -> None:
    (folder / "stand-ins" / "machine.py").write_text("")
    output = run_script("unix", folder, RUN.replace("FORM", 'del form["duty"]'), heap="512k")
    assert "ConfigError: the settings: this board lacks what they ask for: can't import name WDT" in output, output
