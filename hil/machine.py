"""The process that a virtual board runs in: `python -m hil.machine unix|wasi --heap 128k --parent PID FOLDER`.

The folder is the board's whole file system: its `main.py` runs with `/lib` to import from, as on a board. With
`--script TEXT` that runs instead.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from hil.tied import die_with

_BOOT = """
import os, sys
root = os.getcwd()
os.umount("/")
os.mount(os.VfsPosix(root), "/")
os.chdir("/")
sys.path[:] = ["", "/lib", ".frozen"]
"""


def main(arguments: list[str]) -> int:
    """Become the board; returns only where its program ends by itself."""
    parser = argparse.ArgumentParser(prog="hil.machine", description="Run a virtual board.")
    parser.add_argument("machine", choices=["unix", "wasi"])
    parser.add_argument("--heap", default="128k", help="size of the MicroPython heap")
    parser.add_argument("--parent", type=int, default=0, help="end when this process, our parent, ends")
    parser.add_argument("--script", default="import main", help="what to run")
    parser.add_argument("folder", type=Path, help="the board's file system")
    options = parser.parse_args(arguments)
    if options.parent:
        die_with(options.parent)
    if options.machine == "wasi":
        from hil.wasi_machine import run  # loads wasmtime, which the other kind does not need

        return run(options.folder, options.heap, options.script)
    return _run_unix(options.folder, options.heap, options.script)


def _run_unix(folder: Path, heap: str, script: str) -> NoReturn:
    from hil.unix_board import find_micropython

    binary = find_micropython()
    if binary is None:
        sys.exit("there is no MicroPython (unix port) on this machine")
    os.chdir(folder)
    os.execv(binary, [str(binary), "-X", f"heapsize={heap}", "-c", _BOOT + script])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
