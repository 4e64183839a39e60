"""Mistakes that need no gateway to be noticed: a sentence each, never a stack trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.cli import main
from edge_runtime.cli.console import escaped, out
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


def test_a_file_that_cannot_be_used_is_a_sentence_whoever_opens_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb() -> None:
        Path("/nowhere/edge").read_text()

    monkeypatch.setattr(sys.modules["edge_runtime.cli.main"], "app", verb)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "edge: /nowhere/edge: No such file or directory" in capsys.readouterr().err


def test_a_sentence_stays_in_one_piece_for_who_searches_it(capsys: pytest.CaptureFixture[str]) -> None:
    name = "/".join(["folder"] * 30)
    out.print(f"Saved in {name} for you.")
    assert f"Saved in {name} for you." in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["show", "retry", "drop"])
def test_a_dead_letter_is_named_by_a_number(verb: str) -> None:
    ended = edge("dead", verb, "abc")
    words = " ".join(ended.stderr.replace("│", " ").split())
    assert ended.returncode == 2
    assert "a dead letter is named by its record's number, not by 'abc'" in words


def test_what_would_command_a_terminal_is_shown_as_unknown() -> None:
    assert escaped("a\x1b]0;owned\x07b [x]\n") == "a\N{REPLACEMENT CHARACTER}]0;owned\N{REPLACEMENT CHARACTER}b \\[x]\n"
