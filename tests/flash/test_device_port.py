"""`edge device shell|logs|reset|files` at a real MicroPython."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from pathlib import Path

from typer.testing import CliRunner

from devices.flash.plan import BoardFile
from devices.flash.prompt import Prompt
from edge_runtime.cli.main import app
from edge_runtime.errors import EdgeError
from hil.blank_board import BlankBoard
from hil.waiting import until
from tests.cli.conftest import EDGE
from tests.flash.conftest import Plug

TICKS = b"import time\nn = 0\nwhile True:\n    n += 1\n    print('tick', n)\n    time.sleep_ms(50)\n"


def edge(board: BlankBoard, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*EDGE, "device", verb, "gh-1", *arguments, "--port", str(board.port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_a_board_is_listened_to_and_started_anew(plug: Plug) -> None:
    board = plug()
    prompt = Prompt(board.port)
    prompt.copy([BoardFile("/main.py", TICKS)], prompt.look())
    assert board.starts == 1
    ended = edge(board, "reset")
    assert ended.returncode == 0, ended.stderr
    assert "starts anew" in ended.stdout
    await until(lambda: "tick 3" in board.said(), "it runs")
    assert board.starts == 2
    heard = edge(board, "logs", "--seconds", "1").stdout
    assert heard.count("tick") > 2
    assert board.starts == 2


async def test_its_files(plug: Plug, tmp_path: Path) -> None:
    board = plug()
    (tmp_path / "a.txt").write_text("forty-two\n")
    assert edge(board, "files", "mkdir", "/notes", "--no-start").returncode == 0
    assert edge(board, "files", "put", str(tmp_path / "a.txt"), "/notes/a.txt", "--no-start").returncode == 0
    assert "a.txt" in edge(board, "files", "ls", "/notes", "--no-start").stdout
    assert edge(board, "files", "get", "/notes/a.txt", str(tmp_path / "b.txt"), "--no-start").returncode == 0
    assert (tmp_path / "b.txt").read_text() == "forty-two\n"
    assert edge(board, "files", "rm", "/notes/a.txt", "--no-start").returncode == 0
    assert edge(board, "files", "cat", "/notes/a.txt").returncode == 1
    for arguments, says in ((("put", "x"), "needs two paths"), (("cat",), "needs a path"), (("mv",), "cannot be done")):
        ended = CliRunner().invoke(app, ["device", "files", "gh-1", *arguments, "--port", str(board.port)])
        assert isinstance(ended.exception, EdgeError)
        assert says in str(ended.exception)
    board.unplug()
    assert "nothing is connected" in edge(board, "files").stderr


def test_its_prompt(plug: Plug) -> None:
    board = plug()
    master, slave = pty.openpty()
    command = [*EDGE, "device", "shell", "gh-1", "--port", str(board.port)]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    said = b""

    def typed(keys: bytes, awaited: bytes) -> None:
        """Again and again: what is typed before the program has its terminal ready is thrown away."""
        nonlocal said
        deadline = time.monotonic() + 60
        while awaited not in said:
            assert time.monotonic() < deadline, said
            if select.select([master], [], [], 0.5)[0]:
                said += os.read(master, 1024)
            else:
                os.write(master, keys)

    try:
        typed(b"", b"Connected to MicroPython")
        typed(b"print(6 * 7)\r", b"42")
        typed(b"\x1d", b"edge device reset")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
