"""A virtual board's file system is a folder: this writes the program, the firmware and the settings into it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from hil.board import BoardConfig, BoardError, firmware_folder


def write_flash(root: Path, program: Path, config: BoardConfig, ports: Sequence[Path] = ()) -> None:
    """Make `root` the board's file system.

    `program` is a file, which becomes `main.py`, or a folder with a `main.py` and what it imports. `ports` are files
    of a port that go into `/lib`. Files of the board's own, as its journal, stay. Raises BoardError.
    """
    files = [program] if program.is_file() else sorted(program.glob("*.py"))
    if not program.is_file() and not (program / "main.py").is_file():
        raise BoardError(
            f"there is no program for the board at {program}", hint="Give a file, or a folder with main.py."
        )
    package = firmware_folder() / "edge_device"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    library = root / "lib"
    shutil.rmtree(library, ignore_errors=True)
    (library / package.name).mkdir(parents=True)
    for source in sorted(package.glob("*.py")):
        shutil.copyfile(source, library / package.name / source.name)
    for source in ports:
        shutil.copyfile(source, library / source.name)
    for source in files:
        shutil.copyfile(source, root / ("main.py" if program.is_file() else source.name))
    _write_private(root / "edge.json", json.dumps(config.file(), indent=1))


def _write_private(path: Path, text: str) -> None:
    """Replace a file that only its owner may read; it never exists with less protection or half written."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.replace(path)
