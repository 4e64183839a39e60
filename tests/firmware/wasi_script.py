"""Runs one script in the WASI build: `wasi_script.py HEAP FOLDER SCRIPT`, in a process of its own for its output."""

from __future__ import annotations

import sys
from pathlib import Path

from hil.wasi_machine import Link, run_script

if __name__ == "__main__":
    sys.exit(run_script(sys.argv[3], heap=sys.argv[1], folder=Path(sys.argv[2]), call=Link().call))
