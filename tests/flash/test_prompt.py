"""The real mpremote against the real MicroPython, with a real littlefs of limited size."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from devices.flash import plan
from devices.flash.errors import FlashError, NoAnswer
from devices.flash.plan import BoardFile
from devices.flash.prompt import Prompt
from hil.rom_loader import RomLoader
from hil.waiting import until
from tests.flash.conftest import Plug


def mpremote(port: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "mpremote", "connect", os.path.realpath(port), "resume", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


FILES = [
    BoardFile("/a/lib/thing.py", b"x = 1\n" * 900),
    BoardFile("/a/main.py", b"print('slot')\n"),
    BoardFile("/edge.json", b'{"device": "gh-1", "key": "secret"}'),
    BoardFile("/main.py", b"print('it has started')\n"),
]
PATHS = [file.path for file in FILES]


async def test_only_what_differs_is_written(plug: Plug) -> None:
    board = plug()
    prompt = Prompt(board.port)
    found = prompt.look(PATHS)
    assert found.name == "micropython"
    assert found.platform == "linux"
    assert found.config == {}
    heard: list[str] = []
    assert prompt.copy(FILES, found, lambda path, part: heard.append(path)) == PATHS
    assert heard == [*PATHS, ""]
    assert mpremote(board.port, "fs", "cat", ":/a/lib/thing.py") == "x = 1\n" * 900
    found = prompt.look(PATHS)
    assert found.config["device"] == "gh-1"
    assert prompt.copy(FILES, found) == []
    changed = [*FILES[:1], BoardFile("/a/main.py", b"print('new')\n"), *FILES[2:]]
    assert prompt.copy(changed, found) == ["/a/main.py"]
    prompt.reset()
    await until(lambda: "it has started" in board.said(), "it starts anew")


async def test_a_program_that_runs_is_interrupted(plug: Plug) -> None:
    board = plug()
    prompt = Prompt(board.port)
    endless = BoardFile("/main.py", b"import time\nprint('running')\nwhile True:\n    time.sleep_ms(10)\n")
    prompt.copy([endless], prompt.look())
    prompt.reset()
    await until(lambda: "running" in board.said(), "it runs")
    assert prompt.copy([FILES[3]], prompt.look(["/main.py"])) == ["/main.py"]


def test_what_an_update_has_left_is_removed(plug: Plug) -> None:
    prompt = Prompt(plug().port)
    left = [BoardFile(path, b"x") for path in plan.STALE]
    prompt.copy([*left, *FILES], prompt.look())
    found = prompt.look([*PATHS, *plan.STALE])
    assert set(plan.STALE) <= found.digests.keys()
    assert prompt.copy(FILES, found, stale=plan.STALE) == []
    assert prompt.look([*PATHS, *plan.STALE]).digests.keys() == set(PATHS)


def test_a_board_without_room(plug: Plug) -> None:
    prompt = Prompt(plug(disk_bytes=64 << 10).port)
    large = BoardFile("/large.py", b"#" * 70_000)
    with pytest.raises(FlashError, match=r"has \d+ KiB free, and the files need 72 KiB"):
        prompt.copy([large], prompt.look())
    # Room that only seems to be there: the file system's own blocks are not counted.
    many = [BoardFile(f"/{number}/file.py", b"#" * 4096) for number in range(12)]
    found = prompt.look()
    found.free = 1 << 20
    with pytest.raises(FlashError, match="the board's flash is full") as caught:
        prompt.copy(many, found)
    assert "edge device files" in caught.value.hint


def test_the_key_is_in_no_argument_and_in_no_message(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    from devices.flash import tools

    calls: list[list[str]] = []
    run = tools.run
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")  # nothing goes onto a disk, where it might be left

    def noted(tool: str, arguments: list[str], *rest: object, **named: object) -> tools.Ended:
        calls.append(arguments)
        return run(tool, arguments, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(tools, "run", noted)
    prompt = Prompt(plug(disk_bytes=64 << 10).port)
    prompt.copy(FILES, prompt.look(PATHS))
    found = prompt.look(PATHS)
    found.free = 1 << 20
    with pytest.raises(FlashError) as caught:
        prompt.copy([BoardFile("/large.py", b"#" * 70_000)], found)
    assert len(calls) >= 4
    assert "secret" not in f"{calls}{caught.value}{caught.value.hint}"


def test_nobody_at_the_prompt(plug: Plug) -> None:
    board = plug(RomLoader())
    with pytest.raises(NoAnswer, match="nobody answers at MicroPython's prompt") as caught:
        Prompt(board.port).look(timeout=2)
    assert "--image" in caught.value.hint
    board.unplug()
    with pytest.raises(FlashError, match="nothing is connected"):
        Prompt(board.port).look()
