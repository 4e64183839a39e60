"""Compiles a guest to machine code, in a process that can reach nothing but its input and its output."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from edge_runtime.functions.sandbox import cache, engine, jail
from edge_runtime.functions.sandbox.build import run_watched
from edge_runtime.functions.sandbox.cache import Progress
from edge_runtime.functions.sandbox.spawn import command

EXPECTED_SECONDS = 10.0
MAX_MODULE = 256 * 1024 * 1024


def compiled(wasm: Path, guest_version: str, folder: Path, progress: Progress, family: str = "guest-*") -> Path:
    """The .cwasm of a guest for this machine's processor and engine, from the cache or newly compiled. Blocks.

    Those of its `family` that nobody has opened for a month are removed then: none of them may be in use for longer.
    """
    path = cache.prepare(folder) / f"guest-{guest_version}-{engine.fingerprint()}.cwasm"
    if cache.is_own(path):
        return path
    with cache.locked(folder, progress):
        if not cache.is_own(path):
            with cache.written(path) as target, wasm.open("rb") as source, target.open("wb") as output:
                run_watched(
                    command(__name__),
                    what="compiling the sandbox guest",
                    expected=EXPECTED_SECONDS,
                    progress=progress,
                    stdin=source.fileno(),
                    stdout=output.fileno(),
                )
            cache.prune(folder, path, time.time(), family)
    return path


def main() -> None:
    """The compiling process: a component from stdin, its machine code to stdout."""
    from wasmtime.component import Component

    with open(0, "rb", closefd=False) as source:
        wasm = source.read(MAX_MODULE)
    compiler = engine.engine()
    try:
        jail.lock(jail.confine(), compiler=True)
    except jail.JailError as error:
        sys.exit(f"{error}. {error.hint}".rstrip())
    code = memoryview(Component(compiler, wasm).serialize())
    while code:
        code = code[os.write(1, code) :]
    sys.exit(0)
