"""Secrets of functions: a file each, that only the gateway's user can read. Their values are never shown again."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from edge_runtime.errors import EdgeError, NotFound, nearest
from edge_runtime.events import NAME

MAX_SECRET = 16 << 10
"""Bytes: more than any key in use."""
MAX_SECRETS = 1000


class Secrets:
    """The secrets in a folder, read once and kept in memory."""

    def __init__(self, folder: Path) -> None:
        """Raises `EdgeError` where one cannot be read, or could be read by others."""
        self._folder = folder
        self._values: dict[str, str] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if NAME.fullmatch(path.name) and not path.name.endswith(".new"):
                self._values[path.name] = _read(path)

    def get(self, name: str) -> str | None:
        """A secret's value; None while it has none."""
        return self._values.get(name)

    def names(self) -> list[str]:
        """The secrets that have a value."""
        return sorted(self._values)

    def set(self, name: str, value: str) -> None:
        """Give a secret a value, durably. Raises `EdgeError`."""
        if not NAME.fullmatch(name) or name.endswith(".new"):
            raise EdgeError(f"'{name[:80]}' is not a secret's name", hint="Use letters, digits, '_', '.' and '-'.")
        if not 0 < len(value.encode()) <= MAX_SECRET:
            raise EdgeError(f"a secret has 1 to {MAX_SECRET} bytes")
        if name not in self._values and len(self._values) >= MAX_SECRETS:
            raise EdgeError(f"there are {MAX_SECRETS} secrets already", hint="Remove one: edge secret remove NAME")
        path = self._folder / name
        partial = path.with_name(f"{name}.new")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
            self._sync()
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise EdgeError(f"the secret '{name}' cannot be stored: {error.strerror}") from error
        self._values[name] = value

    def remove(self, name: str) -> None:
        """Forget a secret. Raises `NotFound`, which names the nearest one."""
        if name not in self._values:
            raise NotFound(f"there is no secret '{name[:80]}'", hint=nearest(name, self._values))
        try:
            (self._folder / name).unlink(missing_ok=True)
            self._sync()
        except OSError as error:
            raise EdgeError(f"the secret '{name}' cannot be removed: {error.strerror}") from error
        del self._values[name]

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise EdgeError(
                    f"the secret in {path} is not a file of ours alone (mode {stat.S_IMODE(found.st_mode):o})",
                    hint=f"Make it so: chmod 600 {path}",
                )
            return file.read(MAX_SECRET).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeError(f"the secret in {path} cannot be read: {error}") from error
