"""Board profiles and what is taken for an image of one."""

from __future__ import annotations

import struct
from hashlib import sha256
from pathlib import Path

import pytest

from devices import boards
from devices.boards import BOARDS, Board, EspFlash
from devices.flash import images
from devices.flash.errors import FlashError
from edge_runtime.errors import EdgeError
from tests.flash.made import esp_image, uf2_image

VERSION = "3.4.0; MicroPython v1.27.0 on 2026-01-31"


def made(board: Board, version: str = VERSION) -> bytearray:
    return esp_image(board, version) if isinstance(board.flash, EspFlash) else uf2_image(board, version)


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_an_image_for_the_board_is_taken(board: Board, tmp_path: Path) -> None:
    path = tmp_path / f"image{board.suffix}"
    data = made(board)
    path.write_bytes(data)
    found = images.read(path, board)
    assert found.data == data
    assert found.digest == sha256(data).hexdigest()
    assert found.is_build(VERSION)
    assert not found.is_build("3.4.0; MicroPython v1.26.0 on 2026-01-31")
    assert not found.is_build("")


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
@pytest.mark.parametrize("other", BOARDS.values(), ids=BOARDS)
def test_an_image_for_another_chip_is_not(board: Board, other: Board, tmp_path: Path) -> None:
    if board.flash == other.flash:
        return
    path = tmp_path / "image"
    path.write_bytes(made(other))
    with pytest.raises(FlashError, match="image is") as caught:
        images.read(path, board)
    assert board.download in caught.value.hint
    if isinstance(board.flash, EspFlash) and isinstance(other.flash, EspFlash):
        assert str(caught.value).endswith(f"is for the {other.title}")


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
@pytest.mark.parametrize("kept", [0, 1, 23, 511, 513, 30_000, 61_441])
def test_a_part_of_an_image_is_not_one(board: Board, kept: int, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(made(board)[:kept])
    with pytest.raises(FlashError):
        images.read(path, board)


def test_the_application_alone_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "app.bin"
    path.write_bytes(esp_image(boards.ESP32_C3)[0x10000:])
    with pytest.raises(FlashError, match="application alone"):
        images.read(path, boards.ESP32_C3)


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (4, 0, "damaged in block 1"),
        (508, 0, "damaged in block 1"),
        (12, 0x20000000, "outside of the flash"),
        (12, 0x10000000 + (2 << 20) - 255, "outside of the flash"),
        (16, 477, "outside of the flash"),
        (12, 0x10000000, "writes 0x10000000 twice"),
        (12, 0x10000080, "writes 0x10000080 twice"),
        (20, 0, "block 0 twice"),
        (24, 100_000, "block 1 twice, or one too many"),
        (28, 0xE48BFF59, "another family"),
    ],
)
def test_a_spoilt_block_is_noticed(at: int, value: int, says: str, tmp_path: Path) -> None:
    data = uf2_image(boards.PICO)
    struct.pack_into("<I", data, 512 + at, value)
    path = tmp_path / "image.uf2"
    path.write_bytes(data)
    with pytest.raises(FlashError, match=says):
        images.read(path, boards.PICO)


def test_the_newest_image_of_the_cache_is_taken_and_no_variant(tmp_path: Path) -> None:
    with pytest.raises(FlashError, match="no MicroPython for the ESP32") as caught:
        images.cached(boards.ESP32, tmp_path / "none")
    assert "https://micropython.org/download/ESP32_GENERIC/" in caught.value.hint
    for name in (
        "ESP32_GENERIC-20251209-v1.27.0.bin",
        "ESP32_GENERIC-20241129-v1.24.1.bin",
        "ESP32_GENERIC-SPIRAM-20261209-v1.29.0.bin",
        "ESP32_GENERIC_S3-20261209-v1.29.0.bin",
        "ESP32_GENERIC-20261209-v1.29.0.bin.part",
    ):
        (tmp_path / name).touch()
    assert images.cached(boards.ESP32, tmp_path).name == "ESP32_GENERIC-20251209-v1.27.0.bin"


def test_which_board_it_is() -> None:
    assert boards.fitting(0x2E8A, 0x0005) == (boards.PICO, boards.PICO_W)
    assert boards.ESP32_C3 in boards.fitting(0x303A, 0x1001)
    assert boards.fitting(0x303A, 0x4001) == (boards.ESP32_S3,)
    assert boards.fitting(0x046D, 0xC52B) == ()
    assert boards.fitting(None, None) == ()
    assert boards.of_machine("esp32", "Generic ESP32 module with ESP32") is boards.ESP32
    assert boards.of_machine("esp32", "Generic ESP32S3 module with ESP32S3") is boards.ESP32_S3
    assert boards.of_machine("rp2", "Raspberry Pi Pico W with RP2040") is boards.PICO_W
    assert boards.of_machine("rp2", "Raspberry Pi Pico with RP2040") is boards.PICO
    assert boards.of_machine("linux", "linux [GCC 14.2.1] version") is None
    with pytest.raises(EdgeError, match="no board profile 'esp32-s'"):
        boards.named("esp32-s")
