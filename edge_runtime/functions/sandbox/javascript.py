"""JavaScript: builds its guest (once, with Node.js; then cached), and is the executor that runs apps in it."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from edge_runtime.errors import EdgeError
from edge_runtime.functions.sandbox import cache, compile, executor
from edge_runtime.functions.sandbox.build import SOURCES as PYTHON_SOURCES
from edge_runtime.functions.sandbox.build import run_watched
from edge_runtime.functions.sandbox.cache import Progress
from edge_runtime.functions.sandbox.engine import engine
from edge_runtime.functions.sandbox.errors import GuestError
from edge_runtime.functions.sandbox.instance import JAVASCRIPT, Guests

SOURCES = PYTHON_SOURCES.parent / "guest_js"
SHIPPED = SOURCES / "guest.wasm"
"""The built guest, where the package came with one."""

_WORLD = PYTHON_SOURCES / "world.wit"
"""The same as Python's: the host does not tell their guests apart."""

NODE = 20
"""The oldest Node.js that builds it."""

EXPECTED_SECONDS = 25.0
"""Fetching the builder's packages, and 9 s to build, on a desktop."""

_KEPT = re.compile(r"PATH|HOME|LANG|TMPDIR|(https?|no)_proxy|npm_config_.*|NODE_EXTRA_CA_CERTS", re.IGNORECASE)
"""What npm needs to know of the environment."""


def _files() -> list[Path]:
    found = [path for path in SOURCES.iterdir() if path.suffix in (".js", ".mjs", ".json") or path.name == ".npmrc"]
    return [*sorted(found), _WORLD]


def guest_version() -> str:
    """Names the guest by its content: its sources and the versions that its lock file names."""
    digest = hashlib.sha256()
    for path in [SHIPPED] if SHIPPED.exists() else _files():
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return "js-" + digest.hexdigest()[:16]


def buildable() -> bool:
    """Whether the guest is there, or this machine has what builds it."""
    try:
        return SHIPPED.exists() or bool(_tools())
    except GuestError:
        return False


def prepared(folder: Path, progress: Progress) -> Path:
    """The guest's machine code, made if missing. Blocks while it is built. Raises `GuestError`."""
    return compile.compiled(built(folder, progress), guest_version(), folder, progress, "guest-js-*")


def built(folder: Path, progress: Progress) -> Path:
    """The guest's .wasm: the shipped one, the cached one, or a new one. Blocks while it builds. Raises `GuestError`."""
    if SHIPPED.exists():
        return SHIPPED
    path = cache.prepare(folder) / f"guest-{guest_version()}.wasm"
    if cache.is_own(path):
        return path
    node, npm = _tools()
    with cache.locked(folder, progress):
        if not cache.is_own(path):
            with cache.written(path) as target, tempfile.TemporaryDirectory() as work:
                _build(Path(work), target, node, npm, progress)
    return path


def _tools() -> tuple[str, str]:
    """Node.js and npm. Raises `GuestError` with what to install."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise GuestError(
            f"apps in JavaScript need a guest that has to be built once, and {'npm' if node else 'Node.js'}, "
            "which builds it, is not installed",
            hint=f"Install Node.js {NODE} or later with npm, and deploy again; running apps does not need it.",
        )
    said = subprocess.run([node, "--version"], env={}, capture_output=True, timeout=60, check=False).stdout.decode()
    major = re.match(r"v(\d+)\.", said)
    if major is None or int(major[1]) < NODE:
        raise GuestError(
            f"apps in JavaScript need a guest that has to be built once, and {node} is {said.strip() or 'broken'}",
            hint=f"Install Node.js {NODE} or later with npm, and deploy again; running apps does not need it.",
        )
    return node, npm


def _build(work: Path, target: Path, node: str, npm: str, progress: Progress) -> None:
    for source in _files():
        shutil.copyfile(source, work / source.name)
    env = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
    for what, command, expected in (
        (
            "fetching what builds the JavaScript guest",
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
            EXPECTED_SECONDS,
        ),
        ("building the JavaScript guest", [node, "build.mjs", _WORLD.name, str(target)], EXPECTED_SECONDS),
    ):
        run_watched(command, cwd=work, env=env, what=what, expected=expected, progress=progress)


def main() -> None:
    """The executor: `argv` is the compiled guest's path and the size of the stock."""
    breed = functools.partial(Guests, rehearsal=JAVASCRIPT)
    try:
        executor.run(Path(sys.argv[1]), int(sys.argv[2]), engine(), breed)
    except EdgeError as error:
        sys.exit(f"{error}. {error.hint}".rstrip())
