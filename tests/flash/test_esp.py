"""The real esptool against an emulated ROM."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from devices.boards import BOARDS, ESP32, ESP32_C3, ESP32_S3, Board, EspFlash
from devices.flash import esp, images
from devices.flash.errors import FlashError
from devices.flash.images import Image
from hil.rom_loader import RomFaults, RomLoader
from hil.waiting import until
from tests.flash.conftest import Plug
from tests.flash.made import esp_image


def rom_of(board: Board, **faults: int | bool) -> RomLoader:
    assert isinstance(board.flash, EspFlash)
    return RomLoader(board.flash.chip, RomFaults(**faults))  # type: ignore[arg-type]


def image_of(board: Board, folder: Path) -> Image:
    path = folder / "image.bin"
    path.write_bytes(esp_image(board))
    return images.read(path, board)


def holds(rom: RomLoader, board: Board, image: Image) -> bool:
    assert isinstance(board.flash, EspFlash)
    return rom.flash[board.flash.offset :].startswith(image.data)


@pytest.mark.parametrize("board", [ESP32, ESP32_S3, ESP32_C3], ids=lambda board: board.name)
async def test_an_image_is_written_and_starts(board: Board, plug: Plug, tmp_path: Path) -> None:
    rom = rom_of(board)
    blank = plug(rom)
    image = image_of(board, tmp_path)
    parts: list[float] = []
    esp.write(blank.port, board, image, parts.append)
    assert holds(rom, board, image)
    assert parts == sorted(parts)
    assert len(parts) > 10
    assert parts[-1] == 1
    await until(lambda: ">>>" in blank.said(), "MicroPython starts")


def test_another_chip_than_was_said(plug: Plug, tmp_path: Path) -> None:
    rom = rom_of(ESP32_C3)
    with pytest.raises(FlashError, match="is an ESP32-C3, and esp32 has an ESP32") as caught:
        esp.write(plug(rom).port, ESP32, image_of(ESP32, tmp_path))
    assert "--board" in caught.value.hint
    assert rom.written == 0


def test_a_board_that_is_not_in_its_boot_loader(plug: Plug, tmp_path: Path) -> None:
    with pytest.raises(FlashError, match="does not answer in its boot loader") as caught:
        esp.write(plug(rom_of(ESP32, deaf=True)).port, ESP32, image_of(ESP32, tmp_path), attempts=1)
    assert "BOOT" in caught.value.hint


def test_a_wrong_byte_in_the_flash_is_noticed_and_mended_by_doing_it_again(plug: Plug, tmp_path: Path) -> None:
    rom = rom_of(ESP32, spoil=1)
    blank = plug(rom)
    image = image_of(ESP32, tmp_path)
    with pytest.raises(FlashError, match="not what was written"):
        esp.write(blank.port, ESP32, image)
    assert not holds(rom, ESP32, image)
    rom.whole = False  # what is wrong does not start
    esp.write(blank.port, ESP32, image)
    assert holds(rom, ESP32, image)


def test_the_cable_is_pulled_midway_and_put_back(plug: Plug, tmp_path: Path) -> None:
    rom = rom_of(ESP32, cut_after=60_000)
    blank = plug(rom)
    image = image_of(ESP32, tmp_path)
    with pytest.raises(FlashError, match="nothing is connected") as caught:
        esp.write(blank.port, ESP32, image)
    assert "it goes on" in caught.value.hint
    assert 0 < rom.written <= 60_000
    assert not rom.boots
    blank.unplug()
    blank.plug()
    esp.write(blank.port, ESP32, image)
    assert holds(rom, ESP32, image)


def test_ports_that_cannot_be_used(plug: Plug, tmp_path: Path) -> None:
    image = image_of(ESP32, tmp_path)
    with pytest.raises(FlashError, match="nothing is connected at"):
        esp.write(tmp_path / "none", ESP32, image)
    blank = plug(rom_of(ESP32))
    taken = os.open(blank.port, os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.flock(taken, fcntl.LOCK_EX)
        with pytest.raises(FlashError, match="another program has"):
            esp.write(blank.port, ESP32, image)
    finally:
        os.close(taken)


def test_an_image_that_was_cut_off_never_reaches_the_board(tmp_path: Path) -> None:
    path = tmp_path / "image.bin"
    for board in BOARDS.values():
        path.write_bytes(b"\xe9" * 300)
        with pytest.raises(FlashError) as caught:
            images.read(path, board)
        assert "Nothing was written" in caught.value.hint


@pytest.mark.parametrize("board", [ESP32, ESP32_S3, ESP32_C3], ids=lambda board: board.name)
def test_a_blank_chip_says_what_it_is(board: Board, plug: Plug) -> None:
    assert esp.chip_at(plug(rom_of(board)).port) is board


def test_nobody_says_what_it_is(plug: Plug) -> None:
    with pytest.raises(FlashError, match="says which board it is") as caught:
        esp.chip_at(plug(rom_of(ESP32, deaf=True)).port)
    assert "BOOT" in caught.value.hint
