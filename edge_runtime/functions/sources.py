"""What an app is made of: its files, read from disk or taken from a request, and never more of them than allowed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from edge_runtime.errors import DeployError

LANGUAGES = {".py": "python", ".js": "javascript", ".wasm": "wasm"}
"""What an app may be written in, by the ending of the file that holds it."""

PACKAGES = ".packages"
"""The folder of an app that holds the packages it was deployed with."""

MAX_FILE = 1024 * 1024
"""Bytes of one file of source."""
MAX_APP = 8 * 1024 * 1024
"""Bytes of an app's files together; one that is not source may be as large."""
MAX_FILES = 500
MAX_DEPTH = 10
"""Parts of a path."""
MAX_PART = 100
"""Bytes of a part."""

_MAX_LOOKED_AT = 10_000
"""Entries of a folder and those below it, what is passed over included."""
_PASSED_OVER = frozenset({"__pycache__", "node_modules"})
_ENTRY_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_TEXT = (".py", ".js")

Files = dict[str, bytes]
"""Content by path; the parts of a path, relative to the app, are joined by `/`."""


def entry_of(files: Mapping[str, object]) -> str:
    """The file that holds the app: the only one, or `main.py` (`main.js`, `main.wasm`). Raises `DeployError`."""
    if len(files) == 1:
        (entry,) = files
        stem, ending = os.path.splitext(entry)
        if ending not in LANGUAGES or not stem or not _ENTRY_NAME.issuperset(stem):
            raise DeployError(
                f"'{_shown(entry)}' is not the name of an app's file",
                hint="An app is a .py, .js or .wasm file with a plain name, such as greenhouse.py, or a folder with a "
                "main.py.",
            )
        return entry
    found = [name for name in (f"main{ending}" for ending in LANGUAGES) if name in files]
    if not found:
        raise DeployError(
            "the folder has no main.py" if files else "an app without files was sent",
            hint="The app of a folder is found in its main.py (main.js, main.wasm), which imports the rest.",
        )
    if len(found) > 1:
        raise DeployError(f"the folder holds two apps, {' and '.join(found)}", hint="One folder holds one app.")
    return found[0]


def check_files(files: Mapping[str, bytes]) -> Files:
    """The files of an app, none of which means harm. Raises `DeployError` with what is wrong with which of them."""
    if len(files) > MAX_FILES:
        raise _too_many(files)
    total = 0
    folders = {path[:at] for path in files for at, char in enumerate(path) if char == "/"}
    for path, content in files.items():
        check_path(path)
        if path in folders:
            raise DeployError(f"'{_shown(path)}' is a file of the app and a folder of it")
        total += len(content)
        _check_size(path, len(content), total)
        if path.endswith(_TEXT):
            _check_text(path, content)
    entry_of(files)
    return dict(files)


def check_path(path: str) -> None:
    """See that a file's path stays inside the app. Raises `DeployError`."""
    problem = _problem(path)
    if problem:
        raise DeployError(f"the app's file '{_shown(path)}' {problem}")


def read_files(source: Path) -> Files:
    """The files of the app at a path: that file, or all of that folder but what is hidden. Raises `DeployError`.

    Nothing is read that is too large, not a plain file, or outside the folder; `__pycache__`, `node_modules` and
    virtual environments are passed over.
    """
    try:
        if not source.is_dir():
            return check_files({source.name: _read(source, source.name, 0)})
        files: Files = {}
        total = 0
        for name, path in sorted(_walk(source)):
            files[name] = _read(path, name, total)
            total += len(files[name])
    except OSError as error:
        raise DeployError(f"{source} cannot be read: {error.strerror or error}") from error
    if not files:
        raise DeployError(f"the folder {source} holds no app", hint="The app of a folder is found in its main.py.")
    return check_files(files)


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Every file below a folder with its path in the app. Names are looked at one by one, and not without end."""
    inside = root.resolve()
    waiting = [(root, "")]
    looked_at = found = 0
    while waiting:
        folder, prefix = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                looked_at += 1
                if looked_at > _MAX_LOOKED_AT:
                    raise DeployError(
                        f"the folder {root} holds more than {_MAX_LOOKED_AT} files", hint="Give the app its own folder."
                    )
                name = prefix + entry.name
                if entry.name.startswith(".") or entry.name in _PASSED_OVER:
                    continue
                path = folder / entry.name
                if entry.is_symlink():
                    _check_link(path, name, inside)
                if entry.is_dir():
                    if not (path / "pyvenv.cfg").exists():
                        waiting.append((path, name + "/"))
                    continue
                found += 1
                if found > MAX_FILES:
                    raise _too_many([name])
                yield name, path


def _check_link(path: Path, name: str, inside: Path) -> None:
    if path.is_dir():
        raise DeployError(f"{_shown(name)} is a link to a folder", hint="An app holds plain folders and files.")
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise DeployError(f"{_shown(name)} is a link to nowhere") from None
    if not target.is_relative_to(inside):
        raise DeployError(
            f"{_shown(name)} is a link to a file outside the app's folder", hint="Put the file itself there."
        )


def _read(path: Path, name: str, before: int) -> bytes:
    """A plain file; `before` bytes of the app are there already. It is looked at before anything of it is read."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DeployError(f"{_shown(name)} is not a plain file")
    # Should it have become a FIFO since: without O_NONBLOCK that would be waited for; to a plain file it means nothing.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        _check_size(name, found.st_size, before + found.st_size)
        content = bytearray()
        while data := file.read(MAX_APP + 1 - len(content)):
            content += data  # it may be growing as we read
            _check_size(name, len(content), before + len(content))
    return bytes(content)


def _check_size(name: str, size: int, total: int) -> None:
    if size > MAX_FILE and name.endswith(_TEXT):
        raise DeployError(f"{_shown(name)} is larger than {MAX_FILE // 1024} KiB")
    if total > MAX_APP:
        what = _shown(name) if size == total else "the app"
        raise DeployError(f"{what} is larger than {MAX_APP >> 20} MiB", hint="An app is code and small tables.")


def _check_text(name: str, content: bytes) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DeployError(f"{_shown(name)}, line {line}: not UTF-8 text") from None


def _problem(path: str) -> str:
    """What is wrong with a path of the app; empty for nothing."""
    parts = path.split("/")
    if not path or not path.isprintable() or "\\" in path:
        return "has a name with characters that no path should have"
    if path.startswith("/"):
        return "is named by an absolute path"
    if len(parts) > MAX_DEPTH:
        return f"lies deeper than {MAX_DEPTH} folders"
    for number, part in enumerate(parts):
        if part == "..":
            return "lies outside the app"
        if not part or (part.startswith(".") and (number, part) != (0, PACKAGES)):
            return "has an empty or hidden part in its path"
        if len(part.encode(errors="replace")) > MAX_PART:
            return f"has a name longer than {MAX_PART} bytes"
    return ""


def _too_many(files: Mapping[str, bytes] | list[str]) -> DeployError:
    packages = sum(path.startswith(PACKAGES + "/") for path in files)
    what = f", {packages} of them in packages" if packages else ""
    return DeployError(f"the app has more than {MAX_FILES} files{what}", hint="Give the app its own folder.")


def _shown(path: str) -> str:
    return ascii(path)[1:-1][:120] if not path.isprintable() else path[:120]
