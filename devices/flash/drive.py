"""Writes MicroPython to an RP2040: a UF2 file is copied to the drive that its boot loader shows."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from devices.boards import Board
from devices.flash.errors import FlashError
from devices.flash.images import Image, erasing
from devices.flash.ports import drive_of

CHUNK = 16 << 10


def write(
    folder: Path,
    board: Board,
    image: Image,
    progress: Callable[[float], None] = lambda part: None,
    *,
    erase: bool = False,
) -> None:
    """Copy an image to the drive; with `erase`, all files of the board go. Raises FlashError.

    The board takes the blocks as they come, in any order and more than once, and starts as soon as it has all: its
    drive may be gone before the last write returns, which is success.
    """
    if board not in drive_of(folder):
        raise FlashError(f"{folder} is not the drive of a {board.title}", hint=_again(board))
    data = erasing(image, board) if erase else image.data
    done = 0
    try:
        descriptor = os.open(folder / "firmware.uf2", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError as error:
        raise _failure(error, folder, board) from None
    try:
        while done < len(data):
            done += os.write(descriptor, data[done : done + CHUNK])
            progress(done / len(data))
        os.fsync(descriptor)
    except OSError as error:
        if done < len(data) or folder.exists():
            raise _failure(error, folder, board) from None
    finally:
        try:
            os.close(descriptor)
        except OSError as error:
            if folder.exists():
                raise _failure(error, folder, board) from None
    progress(1.0)


def _failure(error: OSError, folder: Path, board: Board) -> FlashError:
    if error.errno == errno.ENOSPC:
        return FlashError(f"{folder} is full", hint="Delete what else was copied there; " + _again(board))
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return FlashError(f"you may not write to {folder}", hint="Mount it as your user; a desktop does so by itself.")
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.EIO, errno.ENXIO) or not folder.exists():
        return FlashError(f"the drive {folder} was gone before all was written", hint=_again(board))
    return FlashError(f"{folder} cannot be written: {error.strerror}", hint=_again(board))


def _again(board: Board) -> str:
    return f"Plug the {board.title} in with BOOTSEL held, and give the same command."
