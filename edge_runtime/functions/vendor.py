"""The packages of an app: what its requirements.txt names, fetched on the machine that deploys, as part of the app.

The gateway never talks to a package index: the version that it is handed holds every line that will run.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from edge_runtime.errors import DeployError
from edge_runtime.functions.sandbox import cache
from edge_runtime.functions.sources import PACKAGES, Files, entry_of

REQUIREMENTS = "requirements.txt"
GUEST_PYTHON = "3.14"
"""The Python of the sandbox, which decides what versions of packages fit."""

TIMEOUT = 900
"""Seconds: a dozen packages over a mobile link."""
MAX_OUTPUT = 32 << 20
"""Bytes of what pip says that are looked at: it names every file that it passes over, some thousands of a package."""
UNUSED_AFTER = 30 * 86_400
"""Seconds after which fetched packages that no deploy has used are removed."""

_PURE = f"--only-binary=:all: --platform any --python-version {GUEST_PYTHON} --implementation py --abi none".split()
_OTHERWISE = ["--no-compile", "--no-input", "--disable-pip-version-check", "-vv"]
_ENDINGS = (".so", ".pyd", ".dylib", ".dll")
_ELSEWHERE = re.compile(r"^\s*(-(?!-hash)|--(?!hash)|\.|/|[^#]*(://|@ |file:))", re.MULTILINE)
"""Lines that refer to something that may change although they stay the same."""
_MISSING = re.compile(
    r"Could not find a version that satisfies the requirement ([^\s;]+).*?(?: \(from ([^-)][^)]*)\))? "
    r"\(from versions: ([^)]*)\)"
)
_TAGS = "none of the wheel's tags"
_UNREACHABLE = re.compile(
    r"connection broken by|NewConnectionError|Could not fetch URL \S+ (?!404)|name resolution|Network is unreachable"
)
_CONFLICT = re.compile(r"^The conflict is caused by:\n((?: .*\n)+)", re.MULTILINE)
_DEPENDS = re.compile(r"^\s*(\S+) \S+ depends on ([A-Za-z0-9._-]+)")

Say = Callable[[str], None]


def with_packages(
    files: Files, folder: Path, say: Say, *, now: int, upgrade: bool = False, kept: Path | None = None
) -> Files:
    """The app's files with the packages that its requirements.txt names below `.packages/`.

    `folder` is the app's on disk. What was fetched before for the same requirements.txt is taken again, unless
    `upgrade` asks for the newest; it is kept in `kept`, until no deploy has used it for a month (`now` is in
    microseconds since 1970). `say` is told where this takes time. Raises `DeployError`.
    """
    text = files.get(REQUIREMENTS)
    if text is None or not entry_of(files).endswith(".py") or not _asks(text):
        return files
    store = cache.prepare(cache.prepare(kept or cache.default_folder()) / "packages")
    path = store / f"{_key(text)}.msgpack"
    packages = None if upgrade or _ELSEWHERE.search(text.decode(errors="replace")) else _fetched_before(path, now)
    if packages is None:
        say(f"fetching the packages of {REQUIREMENTS} ...")
        packages = _fetch(folder)
        with cache.written(path) as temporary:
            temporary.write_bytes(msgspec.msgpack.encode(packages))
        os.utime(path, (now / 1e6, now / 1e6))
        _forget_unused(store, now)
    return {**files, **packages}


def _asks(text: bytes) -> bool:
    return any(line.partition(b"#")[0].strip() for line in text.splitlines())


def _key(text: bytes) -> str:
    """Names what pip would fetch: the text, and the settings that pip takes from the environment."""
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("PIP_"))
    return hashlib.sha256("\0".join([GUEST_PYTHON, *settings, ""]).encode(errors="replace") + text).hexdigest()[:32]


def _fetched_before(path: Path, now: int) -> Files | None:
    try:
        descriptor = cache.open_own(path)
    except cache.CacheError:
        return None
    with open(descriptor, "rb") as file:
        try:
            found = msgspec.msgpack.decode(file.read(), type=Files)
        except msgspec.MsgspecError:
            return None
    with suppress(OSError):
        os.utime(path, (now / 1e6, now / 1e6))
    return found


def _forget_unused(store: Path, now: int) -> None:
    for path in store.glob("*.msgpack"):
        with suppress(OSError):
            if now / 1e6 - path.stat().st_mtime > UNUSED_AFTER:
                path.unlink()


def _fetch(folder: Path) -> Files:
    """Have pip fetch and unpack. It is pip of this Python, with the settings that the user has given pip."""
    environment = {"PIP_RETRIES": "2", "PIP_DEFAULT_TIMEOUT": "15", **os.environ}
    with tempfile.TemporaryDirectory(prefix="edge-packages-") as work, tempfile.TemporaryFile() as output:
        target = Path(work) / "target"
        # -I: the app's folder may hold modules with the names of those that pip imports.
        command = [sys.executable, "-I", "-m", "pip", "install", "--target", str(target), *_PURE, *_OTHERWISE]
        try:
            ended = subprocess.run(
                [*command, "-r", REQUIREMENTS],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeployError(f"{REQUIREMENTS}: pip was not done after {TIMEOUT // 60} minutes") from None
        except OSError as error:
            raise DeployError(f"{REQUIREMENTS}: pip cannot be started: {error.strerror}") from error
        if ended.returncode != 0:
            output.seek(max(0, output.tell() - MAX_OUTPUT))
            raise _explained(output.read().decode(errors="replace"))
        return _collected(target)


def _collected(target: Path) -> Files:
    found: Files = {}
    for path in sorted(target.rglob("*")) if target.is_dir() else ():
        inside = path.relative_to(target)
        if path.name.endswith(_ENDINGS):
            raise _not_plain(inside.parts[0].removesuffix(path.suffix), "")
        if path.suffix == ".py" and path.is_file() and not inside.parts[0].endswith((".dist-info", "bin")):
            found[f"{PACKAGES}/{inside.as_posix()}"] = path.read_bytes()
    return found


def _explained(output: str) -> DeployError:
    """What pip complained of, in a sentence."""
    if "No module named pip" in output:
        return DeployError(f"{REQUIREMENTS}: pip is not installed beside edge", hint=f"{sys.executable} -m ensurepip")
    if "DO NOT MATCH THE HASHES" in output:
        what = re.search(r"^\s+(\S+) from .*\(from -r", output, re.MULTILINE)
        return DeployError(
            f"{REQUIREMENTS}: {what[1] if what else 'a package'} does not have the hash that it should have",
            hint="Somebody may have tampered with it, or it was published anew.",
        )
    missing = _MISSING.search(output)
    if missing:
        return _unavailable(missing[1], f" (needed by {missing[2]})" if missing[2] else "", missing[3], output)
    conflict = _CONFLICT.search(output)
    reasons = conflict[1].splitlines() if conflict else []
    for depends in filter(None, map(_DEPENDS.match, reasons)):
        if _skipped(output, _TAGS, depends[2]):
            return _not_plain(depends[2], f" (needed by {depends[1]})")
    errors = [line.strip().removeprefix("ERROR: ") for line in output.splitlines() if line.strip().startswith("ERROR:")]
    said = "; ".join(line.strip() for line in reasons[:3]) or (errors or ["pip failed"])[0]
    return DeployError(f"{REQUIREMENTS}: {said[:500]}", hint=f"Try it: pip download -r {REQUIREMENTS}")


def _unavailable(requirement: str, needed_by: str, versions: str, output: str) -> DeployError:
    name = re.split(r"[<>=!~\[;(]", requirement)[0]
    if versions != "none":
        newest = versions.rpartition(", ")[2]
        return DeployError(
            f"{REQUIREMENTS}: there is no {requirement}{needed_by} for Python {GUEST_PYTHON}; "
            f"the newest {name} is {newest}"
        )
    if _skipped(output, _TAGS, name):
        return _not_plain(name, needed_by)
    if _UNREACHABLE.search(output):
        return DeployError(
            f"{REQUIREMENTS}: the package index cannot be reached to look for {name}{needed_by}",
            hint="Is this machine online? pip takes PIP_INDEX_URL, PIP_PROXY and PIP_FIND_LINKS from the environment.",
        )
    if _skipped(output, "No sources permitted", name):
        return DeployError(
            f"{REQUIREMENTS}: {name}{needed_by} is published as source only, which a deploy does not build",
            hint="Build a wheel of it (pip wheel) and name its folder: PIP_FIND_LINKS=FOLDER edge deploy ...",
        )
    return DeployError(f"{REQUIREMENTS}: there is no package {name}{needed_by}", hint="Is its name spelt right?")


def _skipped(output: str, why: str, name: str) -> bool:
    """Whether pip has passed over a file of the package for this reason."""
    file = re.compile(r"/" + re.sub(r"[-_.]+", "[-_.]+", re.escape(name).replace("\\", "")) + r"-\d", re.IGNORECASE)
    return any(why in line and file.search(line) for line in output.splitlines())


def _not_plain(name: str, needed_by: str) -> DeployError:
    return DeployError(
        f"{REQUIREMENTS}: {name}{needed_by} has parts that are not Python, and the sandbox runs only Python",
        hint="Packages with C extensions are for the native tier: install them beside the gateway, list them as preload"
        " in [apps.NAME] of edge.toml, and not here.",
    )
