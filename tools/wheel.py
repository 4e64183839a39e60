"""Builds the wheel that is published: the package with its guests built, so that who installs it needs no tools.

    python tools/wheel.py [--compiled] [FOLDER]      # dist/ unless said otherwise

What is packed is what git has, as it lies in the working tree. A compiled one (docs/adr/0031-compiled-machines.md)
is for this Python and this kind of machine; pip takes it where it fits, and the plain one elsewhere.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from edge_runtime.errors import EdgeError
from edge_runtime.functions.sandbox import build, cache, javascript

ROOT = Path(__file__).resolve().parent.parent


def wheel(folder: Path, *, compiled: bool = False) -> Path:
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
        environment = dict(os.environ)
        if compiled:
            environment["EDGE_COMPILE"] = "1"
            options.append("--no-build-isolation")  # mypy compiles, the one that checked the types
        subprocess.run([sys.executable, "-m", "pip", "wheel", *options, copy], check=True, env=environment)
    return max(folder.glob("edge_runtime-*.whl"), key=lambda path: path.stat().st_mtime_ns)


def _silent(_phase: str, _fraction: float) -> None:
    """Nobody watches."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("dist"), metavar="FOLDER")
    parser.add_argument("--compiled", action="store_true", help="with the machines compiled")
    arguments = parser.parse_args()
    try:
        print(wheel(arguments.folder.absolute(), compiled=arguments.compiled))
    except EdgeError as error:
        sys.exit(f"{error}\n{error.hint}")
