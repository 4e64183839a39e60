"""Images in the form of the real ones, to write and to spoil."""

from __future__ import annotations

import random
import struct

from devices.boards import Board, EspFlash, Uf2Flash


def esp_image(board: Board, version: str = "", size: int = 200_000) -> bytearray:
    """Boot loader, partition table and application, with `version` in the latter."""
    flash = board.flash
    assert isinstance(flash, EspFlash)
    header = struct.pack("<BBBBI4xHB8xB", 0xE9, 3, 2, 0x20, 0x40081000, flash.chip_id, 0, 0)
    table, app = flash.table - flash.offset, flash.app - flash.offset
    image = bytearray(b"\xff" * app)
    image[: len(header)] = header
    image[table : table + 2] = b"\xaa\x50"
    image[table + 2 : table + 32] = bytes(30)
    noise = random.Random(7).randbytes(max(0, size - app - 400))
    return image + header + version.encode().ljust(300, b"\0") + noise


def uf2_image(board: Board, version: str = "", size: int = 40_000) -> bytearray:
    """Blocks of 256 bytes, `version` in the first two."""
    flash = board.flash
    assert isinstance(flash, Uf2Flash)
    content = b"\0" * 200 + version.encode() + random.Random(8).randbytes(size)
    blocks = -(-len(content) // 256)
    image = bytearray()
    for number in range(blocks):
        data = content[number * 256 : number * 256 + 256].ljust(256, b"\0")
        image += struct.pack(
            "<8I476sI",
            *(0x0A324655, 0x9E5D5157, 0x2000, flash.start + number * 256, 256, number, blocks, flash.family),
            data,
            0x0AB16F30,
        )
    return image
