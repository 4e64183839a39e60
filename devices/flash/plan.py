"""Which files go where on a board: the boot loader, and the firmware and the program in its slot `/a` (docs/ota.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from devices.flash.errors import FlashError
from devices.releases import read_folder

SLOT = "/a"
SETTINGS = "/edge.json"
MAIN = "/main.py"
STALE = ("/ota.0", "/ota.1", "/ota.why", f"{SLOT}/.release")
"""What an update over the air has left: without it the board starts what is in `/a`."""
MAX_PROGRAM = 1 << 20


@dataclass(frozen=True)
class BoardFile:
    """A file for the board."""

    path: str
    """On the board, absolute."""
    data: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256, in hex."""
        return sha256(self.data).hexdigest()


def firmware_folder() -> Path:
    """The folder with `edge_device` and `loader`: in a wheel it is in this package, in a clone beside it."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "firmware", package.parent / "firmware"):
        if (folder / "edge_device" / "__init__.py").is_file():
            return folder
    raise FlashError(
        "the boards' firmware is not installed",
        hint="It is in a clone of the project, and in the wheel that 'make wheel' builds.",
    )


def program(source: Path) -> dict[str, bytes]:
    """A program's files by their path in the slot: a file is its `main.py`, a folder is as in a release."""
    if source.is_file():
        return {"main.py": _read(source)}
    if not (source / "main.py").is_file():
        raise FlashError(
            f"there is no program for the board at {source}", hint="Give a file, or a folder with main.py."
        )
    return read_folder(source)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PROGRAM + 1)
    except OSError as error:
        raise FlashError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_PROGRAM:
        raise FlashError(f"{path} is larger than {MAX_PROGRAM >> 20} MiB", hint="Leave it out of the program's folder.")
    return data


def settings_file(form: Mapping[str, Any]) -> BoardFile:
    """`/edge.json`: the same settings make the same bytes."""
    return BoardFile(SETTINGS, (json.dumps(form, indent=1, sort_keys=True) + "\n").encode())


def files(code: Mapping[str, bytes], *, wifi: bool = False, more: Mapping[str, bytes] | None = None) -> list[BoardFile]:
    """All files but the settings, in the order in which they are to be written: what starts the rest comes last."""
    firmware = firmware_folder()
    found = {
        f"{SLOT}/lib/edge_device/{path.name}": _read(path) for path in sorted((firmware / "edge_device").glob("*.py"))
    }
    found |= {f"{SLOT}/{name}": data for name, data in code.items()}
    found |= more or {}
    found["/edge_boot.py"] = _read(firmware / "loader" / "edge_boot.py")
    if wifi:
        found["/boot.py"] = _read(firmware / "boards" / "wifi" / "boot.py")
    found[MAIN] = _read(firmware / "loader" / "main.py")
    return [BoardFile(path, data) for path, data in found.items()]


def folders(paths: list[str]) -> list[str]:
    """The folders that must be there for these files, outer ones first."""
    needed: dict[str, None] = {}
    for path in paths:
        parts = path.strip("/").split("/")[:-1]
        for number in range(len(parts)):
            needed["/" + "/".join(parts[: number + 1])] = None
    return list(needed)
