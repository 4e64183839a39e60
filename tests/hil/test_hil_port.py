"""Scenarios on a board at a port, with a stand-in for it: the unix port with a board's prompt, on a pseudo-terminal."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hil.blank_board import BlankBoard
from hil.board import BoardConfig, BoardError
from hil.faulty_line import FaultyLine
from hil.kinds import kind_of
from hil.port_board import PortBoard
from hil.ports import trouble
from hil.script import installed
from hil.waiting import until

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "hil/bench/main.py"


@pytest.fixture(autouse=True)
def parts() -> None:
    if not installed("unix") or find_spec("mpremote") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython, or no mpremote")


async def test_scenarios_on_a_port_what_it_cannot_and_where_it_was_unplugged(tmp_path: Path) -> None:
    last = tmp_path / "last.txt"
    last.write_text("# long\npower on\nexpect 1 events within 60 s\nexpect 1000 events within 100 s\n")
    files = ["hil/scenarios/commands.txt", "hil/scenarios/power_cut.txt", str(last)]
    with BlankBoard(tmp_path) as blank:
        await until(lambda: ">>> " in blank.said(), "the prompt is there", 60)
        process = await scenarios("--board", str(blank.port), *(f"--scenario={file}" for file in files))
        starts = blank.starts
        await until(lambda: blank.starts == starts + 2, "two scenarios have been begun", 100)
        before = blank.said().count("events/count")
        await until(lambda: blank.said().count("events/count") > before + 10, "events are sent", 60)
        blank.unplug()
        said = (await process.communicate())[0].decode()
    assert process.returncode == 1, said
    assert "1 failed, 1 passed, 1 skipped" in said
    assert "power_cut.txt needs power, which the board" in said
    assert f"{last}:4: expect 1000 events within 100 s\nthe board runs no more" in said
    assert "count" in said.partition("seen: ")[2]
    assert "Traceback" not in said


async def test_a_board_that_cannot_be_had_is_told_in_a_line(tmp_path: Path) -> None:
    process = await scenarios("--board", str(tmp_path))
    assert (await process.communicate())[0].decode() == f"ERROR: --board {tmp_path}: {tmp_path} is no serial port\n\n"
    assert process.returncode == pytest.ExitCode.USAGE_ERROR


async def test_nobody_at_the_port_and_an_older_micropython(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hil.port_board.GIVE_UP", 0)
    monkeypatch.setattr("hil.port_board.OLDEST", (99, 1))
    master, slave = os.openpty()
    silent = PortBoard(Path(os.ttyname(slave)), tmp_path, MAIN, BoardConfig("b", "k"), line(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("hil.port_board._ANSWER", 2)
        with pytest.raises(BoardError, match="nobody gives MicroPython's prompt at /dev"):
            await silent.start()
    assert not silent.running
    os.close(slave)
    os.close(master)
    with BlankBoard(tmp_path) as blank:
        await until(lambda: ">>> " in blank.said(), "the prompt is there", 60)
        board = PortBoard(blank.port, tmp_path, MAIN, BoardConfig("b", "k"), line(tmp_path))
        with pytest.raises(BoardError, match=r"runs micropython 1\.\d+; the firmware needs MicroPython 99\.1 or later"):
            await board.start()


def test_what_is_wrong_with_a_port_is_said_before_anybody_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trouble(tmp_path / "none").startswith(f"nothing is connected at {tmp_path / 'none'}: plug")
    assert trouble(Path("/dev/null")) == "/dev/null is no serial port"
    master, slave = os.openpty()
    port = Path(os.ttyname(slave))
    assert trouble(port) == ""
    fcntl.flock(slave, fcntl.LOCK_EX)
    assert trouble(port).startswith(f"another program has {port}: close")
    os.close(slave)
    os.close(master)

    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "open", forbidden)
    assert "sudo usermod -aG dialout $USER" in trouble(port)


def test_a_word_that_is_no_kind_of_board_is_told_with_those_there_are() -> None:
    with pytest.raises(BoardError, match="no kind of board 'nonsense'") as raised:
        kind_of("nonsense")
    assert "qemu" in raised.value.hint


async def scenarios(*arguments: str) -> asyncio.subprocess.Process:
    """`pytest hil`, started."""
    return await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "pytest", "-q", "-rs", "hil", *arguments],
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def line(folder: Path) -> FaultyLine:
    """A line with nobody at the board's end."""
    return FaultyLine(folder / "tty", terminal=False)
