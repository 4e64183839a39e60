"""The versions of apps on disk: each is written once, whole, and never changed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edge_runtime.errors import DeployError, EdgeError, NotFound
from edge_runtime.functions.limits import Limits
from edge_runtime.manifest import Manifest

MAX_APP = 1024 * 1024
"""Bytes of an app's files together."""

_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}\.py")
_VERSION = re.compile(r"[0-9a-f]{12}")
_META = "version.json"


class AppFiles(msgspec.Struct, frozen=True):
    """An app's content: what its version is computed from."""

    files: dict[str, bytes]
    limits: Limits
    guest: str
    """The version of the sandbox guest that it was checked with."""

    @property
    def entry(self) -> str:
        """The file that holds the app."""
        return next(iter(self.files))

    @property
    def version(self) -> str:
        """12 hex digits: the same content has the same version, wherever it is deployed."""
        digest = hashlib.sha256()
        for name in sorted(self.files):
            digest.update(f"{name}\0{len(self.files[name])}\0".encode() + self.files[name])
        digest.update(msgspec.json.encode(self.limits, order="sorted") + self.guest.encode())
        return digest.hexdigest()[:12]


class _Meta(msgspec.Struct, frozen=True):
    manifest: Manifest
    files: list[str]
    limits: Limits
    guest: str


def read_source(source: Mapping[str, bytes] | Path) -> dict[str, bytes]:
    """An app's files by name, from memory or from the file at a path. Raises `DeployError`."""
    if isinstance(source, Path):
        try:
            if source.is_dir():
                raise DeployError(f"{source} is a folder", hint="Name the app's file; one file is one app.")
            if source.stat().st_size > MAX_APP:
                raise DeployError(f"{source} is larger than {MAX_APP // 1024} KiB")
            source = {source.name: source.read_bytes()}
        except OSError as error:
            raise DeployError(f"{source} cannot be read: {error.strerror}") from error
    if len(source) != 1:
        raise DeployError(f"an app is one file, not {len(source)}")
    for name, content in source.items():
        if not _FILE.fullmatch(name):
            raise DeployError(
                f"'{name[:120]}' is not a Python file's name", hint="Call it, for example, greenhouse.py."
            )
        if len(content) > MAX_APP:
            raise DeployError(f"{name} is larger than {MAX_APP // 1024} KiB")
        try:
            content.decode()
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise DeployError(f"{name}, line {line}: not UTF-8 text") from error
    return dict(source)


class Versions:
    """The folder `<app>/<version>/` with the files of each version."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, app: AppFiles, manifest: Manifest) -> None:
        """Store a version durably; one that is there already stays as it is. Raises `EdgeError`."""
        final = self._folder / manifest.app / app.version
        if final.exists():
            return
        meta = _Meta(manifest, sorted(app.files), app.limits, app.guest)
        temporary = final.with_name(f".{app.version}.{os.getpid()}")
        try:
            temporary.mkdir(parents=True)
            for name, content in [*app.files.items(), (_META, msgspec.json.encode(meta))]:
                with (temporary / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            _sync(temporary)
            temporary.rename(final)
            _sync(final.parent)
            _sync(self._folder)
        except OSError as error:
            raise EdgeError(
                f"the version cannot be stored in {final.parent}: {error.strerror}", hint="Is the disk full?"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def read(self, app: str, version: str) -> tuple[AppFiles, Manifest]:
        """A stored version, checked against its name. Raises `NotFound`, or `EdgeError` where it was changed."""
        folder = self._folder / app / version
        if "/" in app or app.startswith(".") or not _VERSION.fullmatch(version) or not folder.is_dir():
            raise NotFound(f"there is no version {version} of the app '{app}' in {self._folder}")
        try:
            meta = msgspec.json.decode((folder / _META).read_bytes(), type=_Meta)
            files = {name: (folder / name).read_bytes() for name in meta.files if _FILE.fullmatch(name)}
        except (OSError, msgspec.MsgspecError) as error:
            raise EdgeError(f"{folder} cannot be read: {error}", hint="Deploy the app again.") from error
        found = AppFiles(files, meta.limits, meta.guest)
        if found.version != version:
            raise EdgeError(f"the files in {folder} are not those that were deployed", hint="Deploy the app again.")
        return found, meta.manifest


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
