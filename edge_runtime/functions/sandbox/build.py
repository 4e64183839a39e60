"""Builds the guest: the component that holds a Python interpreter and our side of the sandbox. Once; then cached."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

from edge_runtime.functions.sandbox import cache
from edge_runtime.functions.sandbox.cache import Progress
from edge_runtime.functions.sandbox.errors import GuestError

SOURCES = Path(__file__).resolve().parent.parent / "guest"
SHIPPED = SOURCES / "guest.wasm"
"""The built guest, where the package came with one."""

BUILDER = "componentize-py"
EXPECTED_SECONDS = 25.0
"""How long a build takes on a desktop (11 s measured with a fast disk): only the progress bar believes it."""
TIMEOUT = 1800.0
"""A Raspberry Pi with a slow card takes minutes; what takes longer than this hangs."""


def _files() -> list[Path]:
    parts = [*SOURCES.glob("*.py"), *SOURCES.glob("*.wit"), *SOURCES.glob("edge/*.py")]
    return sorted(path for path in parts if path.name != "testing.py")


def builder_version() -> str:
    """The version of the installed builder; empty where there is none."""
    try:
        return version(BUILDER)
    except PackageNotFoundError:
        return ""


def guest_version() -> str:
    """Names the guest by its content, as 16 hex digits: its sources and its builder, or the file that was shipped."""
    digest = hashlib.sha256()
    if SHIPPED.exists():
        digest.update(SHIPPED.read_bytes())
    else:
        digest.update(builder_version().encode())
        for path in _files():
            digest.update(f"\0{path.relative_to(SOURCES)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def built(folder: Path, progress: Progress) -> Path:
    """The guest's .wasm: the shipped one, the cached one, or a new one. Blocks while it builds. Raises `GuestError`."""
    if SHIPPED.exists():
        return SHIPPED
    path = cache.prepare(folder) / f"guest-{guest_version()}.wasm"
    if cache.is_own(path):
        return path
    if importlib.util.find_spec("componentize_py") is None:
        raise GuestError(
            "the sandbox's guest is not built, and componentize-py, which builds it, is not installed",
            hint="pip install 'edge-runtime[guest]'",
        )
    with cache.locked(folder, progress):
        if not cache.is_own(path):
            with cache.written(path) as target, tempfile.TemporaryDirectory() as work:
                _build(Path(work), target, progress)
    return path


def _build(work: Path, target: Path, progress: Progress) -> None:
    for source in _files():
        copy = work / source.relative_to(SOURCES)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, copy)
    script = "import sys; from componentize_py import script; sys.exit(script())"
    arguments = ["-q", "-d", "world.wit", "-w", "guest", "componentize", "-p", str(work), "main", "-o", str(target)]
    run_watched(
        [sys.executable, "-I", "-c", script, *arguments],
        cwd=work,
        what="building the sandbox guest",
        expected=EXPECTED_SECONDS,
        progress=progress,
    )


def run_watched(
    command: list[str],
    *,
    what: str,
    expected: float,
    progress: Progress,
    cwd: Path | None = None,
    env: Mapping[str, str] = MappingProxyType({}),
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
) -> None:
    """Run a command with the environment `env`, reporting its progress by the clock. Raises `GuestError`.

    The command is killed when `progress` raises. It has a session of its own: a Ctrl-C is for whoever waits for it.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdin=stdin, stdout=stdout, stderr=errors, start_new_session=True
        )
        try:
            while (elapsed := time.monotonic() - started) < TIMEOUT:
                progress(what, elapsed / (elapsed + expected / 2) if elapsed else 0.0)
                try:
                    process.wait(cache.POLL)
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        errors.seek(0)
        said = errors.read()[-1500:].decode(errors="replace").strip()
    if process.returncode != 0:
        raise GuestError(f"{what} failed (exit status {process.returncode}): {said or 'it said nothing'}")
    progress(what, 1.0)
