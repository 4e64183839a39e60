"""Scenarios on a board at a port, with a stand-in for it: the unix port with a board's prompt, on a pseudo-terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hil.blank_board import BlankBoard
from hil.board import BoardConfig, BoardError
from hil.faulty_line import FaultyLine
from hil.port_board import PortBoard
from hil.script import installed
from hil.waiting import until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def parts() -> None:
    if not installed("unix") or find_spec("mpremote") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython, or no mpremote")


async def test_a_scenario_runs_on_a_port_and_what_it_cannot_is_said(tmp_path: Path) -> None:
    files = [f"--scenario=hil/scenarios/{name}.txt" for name in ("commands", "power_cut")]
    with BlankBoard(tmp_path) as blank:
        await until(lambda: ">>> " in blank.said(), "the prompt is there", 60)
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "pytest", "-q", "-rs", "hil", "--board", str(blank.port), *files],
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    assert "1 passed, 1 skipped" in said
    assert "power_cut.txt needs power, which the board" in said


async def test_a_port_where_nobody_answers_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hil.port_board.GIVE_UP", 0)
    board = PortBoard(tmp_path / "none", tmp_path, ROOT / "hil/bench/main.py", BoardConfig("b", "k"), line(tmp_path))
    with pytest.raises(BoardError, match="does not do 'exec'"):
        await board.start()
    assert not board.running


def line(folder: Path) -> FaultyLine:
    """A line with nobody at the board's end."""
    return FaultyLine(folder / "tty", terminal=False)
