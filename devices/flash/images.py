"""MicroPython's images: which one to take, and whether it is one for this board."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from devices.boards import BOARDS, Board, EspFlash, Uf2Flash
from devices.flash.errors import FlashError

MAX_IMAGE = 16 << 20
"""Bytes: twice the largest that there is, a UF2 file being twice as large as what it holds."""
_ESP_MAGIC = 0xE9
_TABLE_MAGIC = b"\xaa\x50"
_UF2_START = (0x0A324655, 0x9E5D5157)
_UF2_END = 0x0AB16F30
_UF2_NOT_FLASH = 0x00000001
_UF2_FAMILY = 0x00002000
_UF2_BLOCK = 512
_UF2_MOST = 476
_UF2_PAGE = 256
_SECTOR = 4096


@dataclass(frozen=True)
class Image:
    """A file that was found to be MicroPython for a kind of board."""

    path: Path
    data: bytes
    digest: str
    """SHA-256, in hex."""
    content: bytes
    """What stands in the flash afterwards: the same, or what the blocks of a UF2 file hold."""

    def is_build(self, version: str) -> bool:
        """Whether a running MicroPython with that `sys.version` is this image: it carries that text."""
        return len(version) > 12 and version.encode() in self.content


def cache_folder() -> Path:
    """Where images are looked for: `images` in this program's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "edge-runtime" / "images"


def cached(board: Board, folder: Path) -> Path:
    """The newest image for a board in the cache folder, by the date in its name; raises FlashError."""
    wanted = re.compile(rf"{re.escape(board.download)}-(\d{{8}})-v[\w.]+{re.escape(board.suffix)}")
    found = [path for path in sorted(folder.glob("*")) if wanted.fullmatch(path.name)] if folder.is_dir() else []
    if not found:
        raise FlashError(
            f"there is no MicroPython for the {board.title} in {folder}",
            hint=f"Get {board.download}-...{board.suffix} from https://micropython.org/download/{board.download}/"
            " and name it with --image, or put it there.",
        )
    return found[-1]


def read(path: Path, board: Board) -> Image:
    """Read an image and check that it is one for this board. Raises FlashError, which says why it is not."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE + 1)
    except OSError as error:
        raise FlashError(f"{path} cannot be read: {error.strerror}") from None
    if not data:
        raise _bad(path, board, "is empty")
    if len(data) > MAX_IMAGE:
        raise _bad(path, board, f"is larger than {MAX_IMAGE >> 20} MiB")
    if isinstance(board.flash, EspFlash):
        content = _esp(path, data, board, board.flash)
    else:
        content = b"".join(block.data for block in _uf2(path, data, board, board.flash))
    return Image(path, data, sha256(data).hexdigest(), content)


def _bad(path: Path, board: Board, why: str) -> FlashError:
    return FlashError(
        f"{path} {why}",
        hint=f"Nothing was written. The {board.title} takes {board.download}-...{board.suffix} from"
        f" https://micropython.org/download/{board.download}/.",
    )


def _esp(path: Path, data: bytes, board: Board, flash: EspFlash) -> bytes:
    """Check the header ("Firmware Image Format"), the partition table and the application behind it."""
    if struct.unpack_from("<I", data.ljust(4))[0] == _UF2_START[0]:
        raise _bad(path, board, "is a UF2 file, and this board is written by esptool")
    if len(data) < 24 or data[0] != _ESP_MAGIC or not 1 <= data[1] <= 16:
        raise _bad(path, board, "is not an image for an ESP chip")
    _check_chip(path, board, flash, data, 0)
    table, app = flash.table - flash.offset, flash.app - flash.offset
    if data[table : table + 2] != _TABLE_MAGIC:
        raise _bad(path, board, "has no partition table: it is the application alone, or for another offset")
    if len(data) < app + 24 or data[app] != _ESP_MAGIC:
        raise _bad(path, board, "ends before its application: the download was cut off")
    _check_chip(path, board, flash, data, app)
    if flash.offset + len(data) > board.flash_bytes:
        raise _bad(path, board, f"does not fit into {board.flash_bytes >> 20} MiB of flash")
    return data


def _check_chip(path: Path, board: Board, flash: EspFlash, data: bytes, at: int) -> None:
    chip_id = struct.unpack_from("<H", data, at + 12)[0]
    if chip_id != flash.chip_id:
        others = [b for b in BOARDS.values() if isinstance(b.flash, EspFlash) and b.flash.chip_id == chip_id]
        raise _bad(path, board, f"is for the {others[0].title if others else f'chip {chip_id}'}")


@dataclass(frozen=True)
class Block:
    """A block of a UF2 file: `data` goes to `address`."""

    address: int
    data: bytes


def _uf2(path: Path, data: bytes, board: Board, flash: Uf2Flash) -> Iterator[Block]:
    """The blocks for the flash, checked by https://github.com/microsoft/uf2."""
    if len(data) < _UF2_BLOCK or struct.unpack_from("<2I", data) != _UF2_START:
        raise _bad(path, board, "is not a UF2 file")
    if len(data) % _UF2_BLOCK:
        raise _bad(path, board, "ends inside a block: the download was cut off")
    seen: set[int] = set()
    total = 0
    taken: list[tuple[int, int]] = []
    for at in range(0, len(data), _UF2_BLOCK):
        head = struct.unpack_from("<8I", data, at)
        flags, address, size, number, blocks, family = head[2:]
        if head[:2] != _UF2_START or struct.unpack_from("<I", data, at + _UF2_BLOCK - 4)[0] != _UF2_END:
            raise _bad(path, board, f"is damaged in block {at // _UF2_BLOCK}")
        if flags & _UF2_NOT_FLASH:
            continue
        if not flags & _UF2_FAMILY or family != flash.family:
            raise _bad(path, board, f"is for another family of chips ({family:#x})")
        if size > _UF2_MOST or not flash.start <= address <= flash.start + board.flash_bytes - size:
            raise _bad(path, board, f"wants to write outside of the flash, at {address:#x}")
        total = total or blocks
        if number in seen or number >= blocks or blocks != total:
            raise _bad(path, board, f"has block {number} twice, or one too many")
        seen.add(number)
        taken.append((address, address + size))
        yield Block(address, data[at + 32 : at + 32 + size])
    if len(seen) != total or not seen:
        raise _bad(path, board, f"has {len(seen)} of {total} blocks: the download was cut off")
    taken.sort()
    for (_, end), (start, _) in pairwise(taken):
        if start < end:
            raise _bad(path, board, f"writes {start:#x} twice")


def erasing(image: Image, board: Board) -> bytes:
    """The UF2 file of an image, and of nothing in the rest of the flash, where files are: the drive erases none."""
    flash = board.flash
    assert isinstance(flash, Uf2Flash)
    blocks = list(_uf2(image.path, image.data, board, flash))
    end = max(block.address + len(block.data) for block in blocks)
    rest = range(-(-end // _SECTOR) * _SECTOR, flash.start + board.flash_bytes, _UF2_PAGE)
    blocks += [Block(address, b"\xff" * _UF2_PAGE) for address in rest]
    return b"".join(
        struct.pack(
            f"<8I{_UF2_MOST}sI",
            *(*_UF2_START, _UF2_FAMILY, block.address, len(block.data), number, len(blocks), flash.family),
            block.data,
            _UF2_END,
        )
        for number, block in enumerate(blocks)
    )
