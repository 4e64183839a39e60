"""Tools in processes of their own, which may say anything."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from devices.flash import tools

SAYS = "import sys\nsys.stdout.write('x' * 300_000 + '\\nend\\n')\n"
HANGS = "import time\nprint('here', flush=True)\ntime.sleep(600)\n"


def made(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a tool of this text be installed."""
    (folder / "edge_test_tool.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_line_without_an_end_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, SAYS, monkeypatch)
    heard: list[str] = []
    ended = tools.run("edge_test_tool", [], heard.append, timeout=60)
    assert ended.status == 0
    assert max(map(len, heard)) <= tools.MAX_LINE
    assert heard[-1] == "end\n"
    assert "".join(heard) == ended.said


def test_a_tool_that_hangs_is_ended_with_whoever_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, HANGS, monkeypatch)

    def broken(_line: str) -> None:
        raise ZeroDivisionError

    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        tools.run("edge_test_tool", [], broken, timeout=300)
    assert time.monotonic() - begun < 100, "nobody waits until its time is up"
