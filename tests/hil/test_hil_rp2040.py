"""The RP2040 emulator as far as it goes without MicroPython's image, which no package registry has."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from hil.board import BoardConfig, BoardError
from hil.faulty_line import FaultyLine
from hil.rp2040_board import Rp2040Board, missing

RP2040 = 0xE48BFF56


def uf2(path: Path, family: int = RP2040) -> Path:
    """A file of the right form: one block of nothing, for the beginning of the flash."""
    head = struct.pack("<8I", 0x0A324655, 0x9E5D5157, 0x2000, 0x10000000, 256, 0, 1, family)
    path.write_bytes(head + bytes(476) + struct.pack("<I", 0x0AB16F30))
    return path


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    assert "--image FILE" in missing(None)
    assert "there is no image" in missing(tmp_path / "none.uf2")
    assert "another chip than the RP2040 (UF2 family 0xe48bff59)" in missing(uf2(tmp_path / "o.uf2", 0xE48BFF59))
    (tmp_path / "short.uf2").write_bytes(b"UF2\n")
    assert "is no UF2 file" in missing(tmp_path / "short.uf2")


@pytest.fixture
def installed(tmp_path: Path) -> None:
    why = missing(uf2(tmp_path / "i.uf2"))
    if why:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


@pytest.mark.usefixtures("installed")
async def test_the_emulator_starts_has_a_terminal_and_loses_its_power(tmp_path: Path) -> None:
    line = FaultyLine(tmp_path / "tty", terminal=False)
    board = Rp2040Board(tmp_path / "b", tmp_path / "main.py", BoardConfig("b", "k"), line, uf2(tmp_path / "i.uf2"))
    port = await board.power_on()
    try:
        assert port.exists()
    finally:
        await board.kill()
    assert not port.exists()
    line.close()


async def test_what_is_no_image_is_said_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "i.uf2").write_bytes(b"no image at all")
    line = FaultyLine(tmp_path / "tty", terminal=False)
    board = Rp2040Board(tmp_path, tmp_path / "main.py", BoardConfig("b", "k"), line, tmp_path / "i.uf2")
    with pytest.raises(BoardError, match="is no UF2 file"):
        await board.power_on()
    line.close()
