"""The logs: what functions and boards say in them stays one line."""

from __future__ import annotations

import errno
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from edge_runtime.errors import EdgeError
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


def test_a_full_disk_is_no_stack_trace_on_the_terminal(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    [handler] = [found for found in logging.getLogger("edge").handlers if isinstance(found, logging.FileHandler)]
    handler.close()
    monkeypatch.setattr(handler, "stream", cast(Any, Full()))
    logging.getLogger("edge.gateway").warning("it is hot")
    assert [line[9:] for line in terminal.getvalue().splitlines()] == ["warning edge.gateway: it is hot"]


def test_a_log_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "error.jsonl").mkdir()
    with pytest.raises(EdgeError, match="the logs cannot be written"):
        logs.open_logs(tmp_path, terminal=False)
