"""Starts a Python process that knows nothing of ours: empty environment, no site, no user paths, no open files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import edge
import msgspec
import wasmtime

import edge_runtime


def _folder(module: ModuleType) -> str:
    return str(Path(module.__path__[0]).resolve().parent)


def python(script: str, *arguments: str) -> list[str]:
    """The command line that runs a script which can import our packages, to be started with `env={}`.

    `-I -S` leaves out the user's environment and all start-up hooks of installed packages; the few folders that the
    child needs are named outright.
    """
    folders = list(dict.fromkeys(_folder(package) for package in (edge_runtime, edge, msgspec, wasmtime)))
    return [sys.executable, "-I", "-S", "-B", "-c", f"import sys; sys.path += {folders!r}; {script}", *arguments]


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs `main()` of a module of ours with `arguments`, to be started with `env={}`."""
    return python(f"from {module} import main; main()", *arguments)
