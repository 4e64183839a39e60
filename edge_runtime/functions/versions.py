"""The versions of apps on disk: each is written once, whole, and never changed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import msgspec

from edge_runtime.errors import DeployError, EdgeError, NotFound
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.sources import LANGUAGES, Files, check_files, check_path, entry_of
from edge_runtime.manifest import Manifest

KEPT = 10
"""The newest versions of an app that are kept; older ones go, unless they are in use."""

_VERSION = re.compile(r"[0-9a-f]{12}")
_META = "version.json"
_FILES = "files"
_MEND = "Deploy the app again, or go back: edge rollback {}."


class AppFiles(msgspec.Struct, frozen=True):
    """An app's content: what its version is computed from."""

    files: Files
    limits: Limits
    guest: str
    """The version of the sandbox guest that it was checked with."""

    @property
    def entry(self) -> str:
        """The file that holds the app."""
        return entry_of(self.files)

    @property
    def language(self) -> str:
        """What it is written in: `python`, `javascript` or `wasm`."""
        return LANGUAGES[os.path.splitext(self.entry)[1]]

    @property
    def version(self) -> str:
        """12 hex digits: the same content has the same version, wherever it is deployed."""
        return _named(self.files, msgspec.json.encode(self.limits, order="sorted"), self.guest)


class StoredVersion(msgspec.Struct, frozen=True):
    """A version that is kept on disk."""

    version: str
    stored: int
    """When it was deployed last, microseconds since 1970."""


class _Meta(msgspec.Struct, frozen=True):
    manifest: Manifest
    files: list[str]
    limits: msgspec.Raw
    guest: str


def _named(files: Files, limits: bytes, guest: str) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    digest.update(limits + guest.encode())
    return digest.hexdigest()[:12]


class Versions:
    """The folder `<app>/<version>/` with the files of each version."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changing = threading.Lock()
        """Whoever writes or removes holds it: a deploy, a dry run and the pruning may come at the same time."""

    def write(self, app: AppFiles, manifest: Manifest, now: int | None = None) -> None:
        """Store a version durably; one that is there whole stays as it is, a damaged one is mended. Raises `EdgeError`.

        `now` dates it, in microseconds since 1970; without it the file system does.
        """
        times = None if now is None else (now / 1e6, now / 1e6)
        with self._changing:
            if self._is_whole(manifest.app, app.version):
                with suppress(OSError):
                    # Deployed again: the newest once more.
                    os.utime(self._folder / manifest.app / app.version / _META, times)
                return
            self._remove(manifest.app, app.version)
            self._write(app, manifest, times)

    def _is_whole(self, app: str, version: str) -> bool:
        try:
            self.read(app, version)
        except EdgeError:
            return False
        return True

    def _write(self, app: AppFiles, manifest: Manifest, times: tuple[float, float] | None) -> None:
        final = self._folder / manifest.app / app.version
        meta = _Meta(manifest, sorted(app.files), msgspec.Raw(msgspec.json.encode(app.limits)), app.guest)
        temporary = final.with_name(f".{app.version}.new")
        try:
            shutil.rmtree(temporary, ignore_errors=True)  # of a gateway that was interrupted
            temporary.mkdir(parents=True)
            folders = {temporary, temporary / _FILES}
            for name, content in app.files.items():
                path = temporary / _FILES / name
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, content)
                folders.update(parent for parent in path.parents if parent.is_relative_to(temporary))
            _write(temporary / _META, msgspec.json.encode(meta))
            os.utime(temporary / _META, times)
            for folder in folders:
                _sync(folder)
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
        if not _is_name(app) or not _VERSION.fullmatch(version) or not folder.is_dir():
            raise NotFound(f"there is no version {version} of the app '{app}' in {self._folder}")
        try:
            meta = msgspec.json.decode((folder / _META).read_bytes(), type=_Meta)
            # Versions of an app of one file used to have it beside the description.
            base = folder / _FILES if (folder / _FILES).is_dir() else folder
            for name in meta.files:
                check_path(name)
            files = check_files({name: (base / name).read_bytes() for name in meta.files})
            limits = msgspec.json.decode(meta.limits, type=Limits)
            # As they were when it was named: a limit that came later stands for its default.
            named_limits = msgspec.json.encode(msgspec.json.decode(meta.limits), order="sorted")
        except (OSError, ValueError, DeployError) as error:
            raise EdgeError(f"{folder} cannot be read: {error}", hint=_MEND.format(app)) from error
        if _named(files, named_limits, meta.guest) != version:
            raise EdgeError(f"the files in {folder} are not those that were deployed", hint=_MEND.format(app))
        return AppFiles(files, limits, meta.guest), meta.manifest

    def stored(self, app: str) -> list[StoredVersion]:
        """The versions of an app that are kept, the newest first."""
        found = []
        folder = self._folder / app
        for path in folder.iterdir() if _is_name(app) and folder.is_dir() else ():
            with suppress(OSError):
                if _VERSION.fullmatch(path.name):
                    found.append(StoredVersion(path.name, (path / _META).stat().st_mtime_ns // 1000))
        return sorted(found, key=lambda item: (item.stored, item.version), reverse=True)

    def prune(self, app: str, keep: Collection[str]) -> None:
        """Remove the versions of an app that are neither among the newest `KEPT` nor in `keep`."""
        with self._changing:
            for item in self.stored(app)[KEPT:]:
                if item.version not in keep:
                    self._remove(app, item.version)
            for left in (self._folder / app).glob(".*"):  # by a gateway that was interrupted
                shutil.rmtree(left, ignore_errors=True)

    def remove(self, app: str, version: str) -> None:
        """Remove a version; nothing where it is not stored."""
        with self._changing:
            self._remove(app, version)

    def _remove(self, app: str, version: str) -> None:
        folder = self._folder / app
        gone = folder / f".{version}.old"
        with suppress(OSError):
            (folder / version).rename(gone)  # gone at once, whole, and then bit by bit
        shutil.rmtree(gone, ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()  # where it was the only one


def _is_name(app: str) -> bool:
    return bool(app) and "/" not in app and not app.startswith(".")


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
