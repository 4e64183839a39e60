"""Blank boards: an emulated ROM and a real MicroPython at the end of a pseudo-terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hil.blank_board import BlankBoard
from hil.rom_loader import RomLoader
from hil.script import installed

Plug = Callable[..., BlankBoard]


@pytest.fixture
def plug(tmp_path: Path) -> Iterator[Plug]:
    """Makes a board and plugs it in; it is unplugged after the test."""
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    with ExitStack() as stack:

        def made(rom: RomLoader | None = None, **options: object) -> BlankBoard:
            folder = tmp_path / f"board{len(list(tmp_path.glob('board*')))}"
            folder.mkdir()
            return stack.enter_context(BlankBoard(folder, rom, **options))  # type: ignore[arg-type]

        yield made
