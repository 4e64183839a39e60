"""Mistakes that need no gateway to be noticed: a sentence each, never a stack trace."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edge_runtime.cli.console import escaped
from tests.cli.conftest import EDGE


def edge(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EDGE, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("inside", ["", "/deeper"])
def test_a_configuration_that_cannot_be_written_is_a_sentence(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("mine")
    ended = edge("init", f"{tmp_path}/file{inside}")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "cannot be written" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("verb", ["show", "retry", "drop"])
def test_a_dead_letter_is_named_by_a_number(verb: str) -> None:
    ended = edge("dead", verb, "abc")
    words = " ".join(ended.stderr.replace("│", " ").split())
    assert ended.returncode == 2
    assert "a dead letter is named by its record's number, not by 'abc'" in words


def test_what_would_command_a_terminal_is_shown_as_unknown() -> None:
    assert escaped("a\x1b]0;owned\x07b [x]\n") == "a\N{REPLACEMENT CHARACTER}]0;owned\N{REPLACEMENT CHARACTER}b \\[x]\n"
