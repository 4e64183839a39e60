"""Releases: versions of what boards run. A manifest names every file by its SHA-256; a signature stands for all of it.

A manifest is lines of text, which a board reads one at a time:

    edge-release 1
    name greenhouse
    version 1.2
    boards rp2 esp32
    micropython 1.22
    health 300 report
    file <sha256 in hex> <size> <path>

`boards` (values of `sys.platform`) and `micropython` (the least version) may be missing. The id of a release is the
SHA-256 of its manifest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from edge_runtime.errors import EdgeError

FIRST = "edge-release 1"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
MICROPYTHON = re.compile(r"\d{1,3}\.\d{1,3}(\.\d{1,3})?")
MAX_FILES = 200
MAX_PATH = 100
MAX_SIZE = 4 << 20
"""Bytes of a release: more than any slot of the boards that this is for."""
HEALTH = 300
"""Seconds in which a new version has to prove itself, unless a release says otherwise."""
MAX_HEALTH = 65_535
MAIN = ("main.py", "main.mpy")
REPORT, EVENT = "report", "event"


class File(msgspec.Struct, frozen=True):
    """A file of a release."""

    path: str
    digest: str
    """SHA-256, in hex."""
    size: int


class Manifest(msgspec.Struct, frozen=True):
    """What a release is."""

    name: str
    version: str
    files: list[File]
    """By path."""
    boards: list[str] = []
    """`sys.platform` of the boards that it is for; empty for all."""
    micropython: str = ""
    """The least version; empty for any."""
    health: int = HEALTH
    """Seconds in which a board that runs it has to prove itself."""
    proof: str = REPORT
    """By what: `report` (the gateway has answered it), or `event` (it has stored a reading besides)."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def encode(self) -> bytes:
        """As it is signed, hashed and sent. Raises EdgeError for one that cannot be."""
        self.check()
        lines = [FIRST, f"name {self.name}", f"version {self.version}"]
        lines += [f"boards {' '.join(self.boards)}"] if self.boards else []
        lines += [f"micropython {self.micropython}"] if self.micropython else []
        lines += [f"health {self.health} {self.proof}"]
        lines += [f"file {file.digest} {file.size} {file.path}" for file in self.files]
        return ("\n".join(lines) + "\n").encode()

    def check(self) -> None:
        """Raise EdgeError for what no release can be."""
        for what, text in (("name", self.name), ("version", self.version)):
            if not NAME.fullmatch(text):
                hint = "Use 1 to 64 of the characters A-Z a-z 0-9 _ . -, the first a letter or digit."
                raise EdgeError(f"{text[:80]!r} cannot be the {what} of a release", hint=hint)
        for board in self.boards:
            if not NAME.fullmatch(board):
                raise EdgeError(f"{board[:40]!r} is not a platform", hint="As sys.platform: rp2, esp32, ...")
        if self.micropython and not MICROPYTHON.fullmatch(self.micropython):
            raise EdgeError(f"'{self.micropython[:20]}' is not a version of MicroPython", hint="Such as 1.22.")
        if not 10 <= self.health <= MAX_HEALTH:
            raise EdgeError(f"a new version is given from 10 to {MAX_HEALTH} seconds to prove itself")
        if self.proof not in (REPORT, EVENT):
            raise EdgeError(f"'{self.proof[:20]}' is no proof", hint=f"Proofs: {REPORT}, {EVENT}.")
        self._check_files()

    def _check_files(self) -> None:
        if not any(file.path in MAIN for file in self.files):
            raise EdgeError("a release without main.py is no program", hint="A board starts with main.py or main.mpy.")
        if len(self.files) > MAX_FILES:
            raise EdgeError(f"these are {len(self.files)} files; {MAX_FILES} are the most")
        if self.size > MAX_SIZE:
            raise EdgeError(f"these are {self.size >> 10} KiB; {MAX_SIZE >> 10} are the most")
        paths = [file.path for file in self.files]
        folders = {_on_fat(path[:at]) for path in paths for at in range(len(path)) if path[at] == "/"}
        seen: dict[str, str] = {}
        for path in paths:
            if not PATH.fullmatch(path) or len(path) > MAX_PATH:
                hint = f"At most {MAX_PATH} of A-Z a-z 0-9 _ . - and '/', no part beginning with '.' or '-'."
                raise EdgeError(f"{path[:120]!r} cannot be a path on a board", hint=hint)
            same = seen.setdefault(_on_fat(path), path)
            if same != path:
                raise EdgeError(f"'{same}' and '{path}' are the same file to some boards", hint="Name one otherwise.")
            if _on_fat(path) in folders:
                raise EdgeError(f"'{path}' is a file and a folder")
        if paths != sorted(set(paths)):
            raise EdgeError("the files of a manifest are not in order, or one is there twice")


def _on_fat(path: str) -> str:
    """As FAT, which some boards have, tells names apart: not by case, nor by dots at their end."""
    return "/".join(part.rstrip(".") for part in path.lower().split("/"))


def digest_of(data: bytes) -> str:
    """SHA-256 in hex."""
    return sha256(data).hexdigest()


def manifest_of(
    name: str,
    version: str,
    files: Mapping[str, bytes],
    *,
    boards: list[str] | None = None,
    micropython: str = "",
    health: int = HEALTH,
    proof: str = REPORT,
) -> Manifest:
    """The manifest of files, by their path on the board. Raises EdgeError."""
    found = [File(path, digest_of(data), len(data)) for path, data in sorted(files.items())]
    manifest = Manifest(name, version, found, boards or [], micropython, health, proof)
    manifest.check()
    return manifest


def decode(raw: bytes) -> Manifest:
    """Read a manifest; raises EdgeError for one that is not in its one form."""
    name = version = micropython = ""
    boards: list[str] = []
    health, proof = HEALTH, REPORT
    files: list[File] = []
    try:
        lines = raw.decode("ascii").split("\n")
        if lines[0] != FIRST:
            raise EdgeError("that is not the manifest of a release, or of one that is newer than this gateway")
        for line in lines[1:-1]:
            word, _, rest = line.partition(" ")
            if word == "name":
                name = rest
            elif word == "version":
                version = rest
            elif word == "boards":
                boards = rest.split(" ")
            elif word == "micropython":
                micropython = rest
            elif word == "health":
                seconds, proof = rest.split(" ")
                health = int(seconds)
            elif word == "file":
                digest, size, path = rest.split(" ")
                files.append(File(path, bytes.fromhex(digest).hex(), int(size)))
    except ValueError as error:
        raise EdgeError(f"the manifest cannot be read: {error}") from None
    manifest = Manifest(name, version, files, boards, micropython, health, proof)
    if manifest.encode() != raw:
        raise EdgeError("the manifest is not in the form that is signed")
    return manifest


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their path on the board; hidden ones and `__pycache__` stay out. Raises EdgeError."""
    if not folder.is_dir():
        raise EdgeError(f"{folder} is not a folder", hint="It holds main.py, and what it imports in lib/.")
    files: dict[str, bytes] = {}
    size = 0
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith(".") or part == "__pycache__" for part in parts):
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise EdgeError(f"{path} is a link to a file outside the folder", hint="Put the file itself there.")
        size += path.stat().st_size
        if len(files) >= MAX_FILES or size > MAX_SIZE:
            raise EdgeError(f"{folder} holds more than {MAX_FILES} files, or than {MAX_SIZE >> 10} KiB")
        try:
            files["/".join(parts)] = path.read_bytes()
        except OSError as error:
            raise EdgeError(f"{path} cannot be read: {error.strerror}") from None
    return files
