"""Builds and compiles the guests that are not in the cache: `python -m edge_runtime.functions.sandbox.prepare`."""

from __future__ import annotations

import sys
from pathlib import Path

from edge_runtime.errors import EdgeError
from edge_runtime.functions.sandbox import build, cache, compile, javascript
from edge_runtime.functions.sandbox.cache import Progress


def prepare(progress: Progress, folder: Path | None = None) -> Path:
    """The compiled guest of this machine, made if missing. Blocks while it builds. Raises EdgeError."""
    folder = folder or cache.default_folder()
    return compile.compiled(build.built(folder, progress), build.guest_version(), folder, progress)


def main() -> None:
    """Say each phase once, and be silent when there is nothing to do. JavaScript's guest needs Node.js to be built."""
    said = ""

    def progress(phase: str, _: float) -> None:
        nonlocal said
        if phase != said:
            said = phase
            print(f"{phase} ...", flush=True)

    try:
        prepare(progress)
    except EdgeError as error:
        sys.exit(f"{error}\n{error.hint}")
    if javascript.buildable():
        try:
            javascript.prepared(cache.default_folder(), progress)
        except EdgeError as error:
            print(f"{error}\nApps in JavaScript cannot be deployed until it is built.")


if __name__ == "__main__":
    main()
