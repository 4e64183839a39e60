"""Runs a piece of MicroPython to its end and returns what it printed: for checks inside the real interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hil.unix_board import find_micropython
from hil.wasi_board import find_wasm

MACHINES = ("unix", "wasi")


def installed(machine: str) -> bool:
    """Whether that kind of MicroPython is installed."""
    return (find_micropython() if machine == "unix" else find_wasm()) is not None


def run_script(machine: str, folder: Path, script: str, *, heap: str, timeout: float = 100) -> str:
    """What a script prints (both outputs), with `folder` as its file system and `lib` in it to import from.

    On the WASI build the collector is off: a script calls `gc.collect()` at its top level, where that is safe. Raises
    subprocess.TimeoutExpired after `timeout` seconds.
    """
    command = [sys.executable, "-m", "hil.machine", machine, "--heap", heap, "--script", script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    return done.stdout + done.stderr
