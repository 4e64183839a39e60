"""The checks of `on_board/`, each inside the real MicroPython unix port and inside its 32-bit WASI build."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from guest_runner import CHECKS, MACHINES, checks, lay_out, run_checks

from hil.board import firmware_folder

MODULES = sorted(path.stem for path in CHECKS.glob("check_*.py"))


@pytest.fixture(scope="session")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {machine: tmp_path_factory.mktemp(machine) for machine in MACHINES}
    for folder in folders.values():
        lay_out(folder)
    (folders["wasi"] / "lib" / "edge_port.py").write_bytes(
        (firmware_folder() / "boards" / "wasi" / "edge_port.py").read_bytes()
    )
    return folders


@cache
def results(machine: str, folder: Path, module: str) -> dict[str, str]:
    return run_checks(machine, folder, module)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("module", "check"), [(m, c) for m in MODULES for c in checks(m)])
def test_on_board(laid_out: dict[str, Path], machine: str, module: str, check: str) -> None:
    found = results(machine, laid_out[machine], module)
    assert found.get(check, f"it was not reached: {found}") == "OK"
