"""The native tier as the platform sees it: what runs an app, and what its version depends on."""

from __future__ import annotations

import hashlib
import json
import platform
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from edge_runtime.functions.engines import Engine


def native_engine(preload: Sequence[str]) -> Engine:
    """Python in jailed processes; apps that may import the same modules share executors, never processes."""
    folders = list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))
    started_with = json.dumps({"modules": sorted(preload), "folders": folders})
    return Engine("native", "edge_runtime.functions.sandbox.native.executor", (started_with,))


def native_guest(guest: str, preload: Sequence[str]) -> str:
    """The version of a native guest: that of our own part of it, of the interpreter and of what it imports."""
    parts = [guest, platform.python_implementation(), platform.python_version()]
    for name in sorted(preload):
        with suppress(PackageNotFoundError):
            parts.append(f"{name}={version(name.partition('.')[0])}")
    return "native-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
