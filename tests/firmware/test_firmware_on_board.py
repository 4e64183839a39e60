"""The checks of `on_board/`, each inside the real MicroPython unix port and inside its 32-bit WASI build."""

from __future__ import annotations

import ast
import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hil.board import firmware_folder
from hil.script import MACHINES, installed, run_script

CHECKS = Path(__file__).parent / "on_board"
VECTORS = Path(__file__).parent.parent / "vectors"

RUN_ALL = """
import gc, sys

def attempt(module, name):
    try:
        getattr(module, name)()
        print("OK", name)
    except Exception as error:
        print("FAILED", name)
        sys.print_exception(error)

module = __import__(MODULE)
for name in dir(module):
    if name.startswith("check_"):
        attempt(module, name)
        gc.collect()
"""


def checks(module: str) -> list[str]:
    """The names of the checks in a file, in its order."""
    tree = ast.parse((CHECKS / f"{module}.py").read_text("utf-8"))
    return [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("check_")]


CASES = [(path.stem, check) for path in sorted(CHECKS.glob("check_*.py")) for check in checks(path.stem)]


def _literal(value: Any, key: str = "") -> str:
    """JSON as MicroPython source: maps in their order (a plain dict there has none), hex as bytes."""
    if isinstance(value, dict):
        return "OrderedDict([" + ", ".join(f"({k!r}, {_literal(v, k)})" for k, v in value.items()) + "])"
    if key == "cause" and value is not None:
        return f"[{bytes.fromhex(value[0])!r}, {value[1]!r}]"
    if isinstance(value, list):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    if isinstance(value, str) and key in ("hex", "boot", "id"):
        return repr(bytes.fromhex(value))
    return repr(value)


@cache
def results(machine: str, folder: Path, module: str) -> dict[str, str]:
    """Run the checks of a file; for each that was reached "OK" or what went wrong."""
    # On the 64-bit unix port objects are twice a board's size; on the WASI build nothing is collected within a check.
    output = run_script(machine, folder, RUN_ALL.replace("MODULE", repr(module)), heap="4m")
    found: dict[str, str] = {}
    name = ""
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("OK", "FAILED"):
            name = rest
            found[name] = word
        else:
            found[name] = found.get(name, "") + "\n" + line
    return found


@pytest.fixture(scope="session")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each kind of MicroPython a folder with the firmware, the checks and the vectors."""
    folders = {machine: tmp_path_factory.mktemp(machine) for machine in MACHINES}
    names = ("events", "replies", "commands", "serial")
    vectors = "".join(f"{n} = {_literal(json.loads((VECTORS / f'{n}.json').read_text('utf-8')))}\n" for n in names)
    for folder in folders.values():
        for package in ("edge_device", "edge_sensors"):
            shutil.copytree(firmware_folder() / package, folder / "lib" / package)
        for check in CHECKS.glob("*.py"):
            shutil.copyfile(check, folder / check.name)
        (folder / "vectors.py").write_text("from collections import OrderedDict\n" + vectors, "utf-8")
    shutil.copyfile(firmware_folder() / "boards" / "wasi" / "edge_port.py", folders["wasi"] / "lib" / "edge_port.py")
    return folders


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("module", "check"), CASES)
def test_on_board(laid_out: dict[str, Path], machine: str, module: str, check: str) -> None:
    if not installed(machine):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"no {machine} MicroPython: requirements/micropython.txt"
        )
    found = results(machine, laid_out[machine], module)
    assert found.get(check, f"it was not reached: {found}") == "OK"
