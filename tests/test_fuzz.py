"""The fuzzing harnesses: each takes what it begins with, and would notice what it is there to notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.proto.mqtt import ServerMachine
from fuzz import __main__ as fuzz
from fuzz import one
from fuzz.codecs import CODECS
from fuzz.pieces import cut


@pytest.mark.parametrize("name", CODECS)
def test_seeds_pass(name: str) -> None:
    attempt, seeds = CODECS[name]
    for seed in (b"", *seeds, b"".join(seeds), bytes(range(256))):
        attempt(seed)


def test_pieces_are_the_whole() -> None:
    data = bytes(range(256)) * 3
    pieces = list(cut(data))
    assert b"".join(pieces) == data
    assert 1 < len({len(piece) for piece in pieces}) <= 16


def test_without_atheris_a_failing_input_is_found_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def breaks(_machine: ServerMachine, _data: bytes) -> None:
        raise IndexError("as a codec must not")

    monkeypatch.setattr(ServerMachine, "feed", breaks)
    with pytest.raises(IndexError):
        one._by_examples("mqtt-connect", 1, tmp_path)
    assert (tmp_path / "crash-hypothesis").exists()


def test_a_mistaken_name_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["mqqt"]) == 2
    assert "no codec 'mqqt'" in capsys.readouterr().err
