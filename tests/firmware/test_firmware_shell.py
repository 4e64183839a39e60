"""The shell around the core, on the real asyncio of a board's MicroPython, with a link that is played."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hil.script import installed, run_script
from tests.firmware.test_firmware_heap import PACKAGE

GIVEN_UP = """
import asyncio
from edge_device import shell

class Transport:
    async def open(self):
        print("opens")
        HAPPENS
        await asyncio.sleep_ms(0)

    def close(self):
        print("closed")

shell._transport = lambda link, hal: Transport()

class Session:
    state = 0

class Hal:
    def uptime(self):
        return 0

class Core:
    link = 1
    hal = Hal()
    session = Session()
    wants_link = True
    out = b""
    turns = 0
    broken = False

    def step(self, now):
        self.turns += 1
        if self.turns == 30:
            raise SystemExit
        if self.broken:
            self.broken = False
            raise MemoryError
        return 0

    def link_up(self, now):
        print("up")

    def link_down(self, now, why):
        print("down", why)
        self.wants_link = False

core = Core()
asyncio.run(shell.Shell(core).serve())
"""


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        ("core.wants_link = False", ["opens", "closed"]),
        ("core.link = 2", ["opens", "closed", "opens", "up"]),
        ("core.broken = True", ["opens", "down", "closed"]),
    ],
    ids=["it is to sleep", "another link is wanted", "the core breaks"],
)
def test_a_link_that_is_given_up_while_it_is_opened(tmp_path: Path, happens: str, said: list[str]) -> None:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "edge_device").symlink_to(PACKAGE)
    output = run_script("unix", tmp_path, GIVEN_UP.replace("HAPPENS", happens), heap="512k", timeout=30)
    assert [line.split()[0] for line in output.splitlines()][: len(said)] == said, output
