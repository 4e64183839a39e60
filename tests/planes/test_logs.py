"""The logs: what functions and boards say in them stays one line."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.planes import logs


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    root = logging.getLogger("edge")
    before = root.handlers, root.propagate, root.level
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    logs.open_logs(tmp_path)
    yield screen
    for name in ("edge", logs.SECURITY, logs.APPLICATION):
        for handler in logging.getLogger(name).handlers:
            handler.close()
        logging.getLogger(name).handlers = []
    root.handlers, root.propagate = before[0], before[1]
    root.setLevel(before[2])


def test_nobody_writes_a_line_of_somebody_else(terminal: io.StringIO, tmp_path: Path) -> None:
    text = "hot\n12:00:00 warning edge.security: all is approved\x1b[2J \u2028ü"
    logging.getLogger("edge.app.f").warning("%s", text)
    [line] = terminal.getvalue().splitlines()
    assert line.endswith(r"hot\n12:00:00 warning edge.security: all is approved\x1b[2J \u2028ü")
    [stored, end] = (tmp_path / "application.jsonl").read_text().split("\n")
    assert (json.loads(stored)["text"], end) == (text, "")
