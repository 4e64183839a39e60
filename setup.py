"""What `pyproject.toml` cannot say: which machines a wheel can carry compiled (docs/adr/0031-compiled-machines.md).

With `EDGE_COMPILE=1` they become C extensions, which takes a C compiler, Python's headers and mypy in the environment
(`make compiled`, `tools/wheel.py --compiled`). Without it, and in every clone, they are the Python that they are
written in. Both come from the same files and pass the same tests.
"""

from __future__ import annotations

import os

from setuptools import Extension, setup

MACHINES = {
    "edge_runtime/proto/mqtt": ["fields", "server", "topics"],
    "edge_runtime/streams": [
        "cells",
        "compute",
        "due",
        "engine",
        "grid",
        "sessions",
        "triggers",
        "watermarks",
        "windows",
    ],
}
"""What is asked for every event and does no input or output: bytes to packets, events to panes."""


def compiled() -> list[Extension]:
    """The machines as C extensions."""
    from mypyc.build import mypycify

    paths = [f"{folder}/{name}.py" for folder, names in MACHINES.items() for name in names]
    return mypycify(paths, opt_level="3", debug_level="1")


setup(ext_modules=compiled() if os.environ.get("EDGE_COMPILE") == "1" else [])
