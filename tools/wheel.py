"""Builds the wheel that is published: the package with its guests built, so that who installs it needs no tools.

    python tools/wheel.py [FOLDER]      # dist/ unless said otherwise

What is packed is what git has, as it lies in the working tree.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from edge_runtime.errors import EdgeError
from edge_runtime.functions.sandbox import build, cache, javascript

ROOT = Path(__file__).resolve().parent.parent


def wheel(folder: Path) -> Path:
    """Build it into `folder` and answer its path. Raises `EdgeError` where a guest cannot be built."""
    guests = {"guest": build.built(cache.default_folder(), _silent)}
    if not javascript.buildable():
        raise EdgeError("JavaScript's guest cannot be built here", hint="Install Node.js 20 or later, and npm.")
    guests["guest_js"] = javascript.built(cache.default_folder(), _silent)
    with tempfile.TemporaryDirectory() as copy:
        for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0"):
            if name and (ROOT / name).exists():
                target = Path(copy, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, target)
        # `edge flash` takes it from here; in a clone it lies beside the package.
        shutil.copytree(Path(copy, "firmware"), Path(copy, "devices/firmware"))
        for place, guest in guests.items():
            shutil.copyfile(guest, Path(copy, "edge_runtime/functions", place, "guest.wasm"))
        options = ["--disable-pip-version-check", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "wheel", *options, copy], check=True)
    return max(folder.glob("edge_runtime-*.whl"), key=lambda path: path.stat().st_mtime_ns)


def _silent(_phase: str, _fraction: float) -> None:
    """Nobody watches."""


if __name__ == "__main__":
    try:
        print(wheel(Path(sys.argv[1] if len(sys.argv) > 1 else "dist").absolute()))
    except EdgeError as error:
        sys.exit(f"{error}\n{error.hint}")
