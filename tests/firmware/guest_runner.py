"""Runs checks inside real MicroPythons: the unix port, and the 32-bit WASI build in a heap of a given size."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hil.board import firmware_folder
from hil.unix_board import find_micropython
from hil.wasi_board import find_wasm

HERE = Path(__file__).parent
CHECKS = HERE / "on_board"
VECTORS = HERE.parent / "vectors"

MACHINES = ("unix", "wasi")

_RUN_ALL = """
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


def need(part: object, name: str) -> None:
    """Skip where a part is not installed; in CI that is a failure, since the registries offer it."""
    if part is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"{name} is not installed (requirements/micropython.txt)"
        )


def checks(module: str) -> list[str]:
    """The names of the checks in a file, in its order."""
    tree = ast.parse((CHECKS / f"{module}.py").read_text("utf-8"))
    return [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("check_")]


def run_script(machine: str, folder: Path, script: str, heap: str) -> str:
    """Run a script with `folder` as current folder and first place to import from; what it printed."""
    if machine == "unix":
        binary = find_micropython()
        need(binary, "MicroPython's unix port")
        prelude = "import gc, sys\nsys.path[:] = ['', 'lib', '.frozen']\n"
        command = [str(binary), "-X", f"heapsize={heap}", "-c", prelude + script]
    else:
        need(find_wasm(), "MicroPython's WASI build")
        # Its collector must not run inside functions: see firmware/boards/wasi/edge_port.py.
        prelude = "import gc, sys\ngc.disable()\nsys.path[:] = ['', '/lib', '.frozen']\n"
        command = [sys.executable, str(HERE / "wasi_script.py"), heap, str(folder), prelude + script]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    return done.stdout + done.stderr


def lay_out(folder: Path) -> None:
    """Put the firmware, its ports, the checks and the vectors into a folder."""
    shutil.copytree(firmware_folder() / "edge_device", folder / "lib" / "edge_device")
    for check in CHECKS.glob("*.py"):
        shutil.copyfile(check, folder / check.name)
    names = ("events", "replies", "commands")
    lines = [f"{name} = {_literal(json.loads((VECTORS / f'{name}.json').read_text('utf-8')))}" for name in names]
    (folder / "vectors.py").write_text("from collections import OrderedDict\n" + "\n".join(lines) + "\n", "utf-8")


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


def run_checks(machine: str, folder: Path, module: str, heap: str = "4m") -> dict[str, str]:
    """Run the checks of a file; for each that was reached "OK" or what went wrong."""
    output = run_script(machine, folder, _RUN_ALL.replace("MODULE", repr(module)), heap)
    results: dict[str, str] = {}
    name = ""
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("OK", "FAILED"):
            name = rest
            results[name] = word
        elif name:
            results[name] += "\n" + line
        else:
            results[""] = results.get("", "") + line + "\n"
    return results
