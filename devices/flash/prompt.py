"""The board at its prompt, through mpremote: what runs on it, what is in its files, and writing those that differ."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from devices.flash import tools
from devices.flash.errors import FlashError, NoAnswer, gone
from devices.flash.plan import SETTINGS, BoardFile, folders
from devices.flash.ports import check

OLDEST = (1, 22)
"""The oldest MicroPython that the firmware runs on."""
ANSWER = 40.0
"""Seconds for an answer: the hashes of a full file system take some."""
COPY = 600.0
_BLOCK = 4096
_MARK = "edge-flash:"
_MAX_SETTINGS = 8192

_LOOK = """
import os, sys, json
from binascii import hexlify
from hashlib import sha256
def look(path):
    h = sha256()
    try:
        with open(path, "rb") as f:
            while True:
                b = f.read(512)
                if not b:
                    return hexlify(h.digest()).decode()
                h.update(b)
    except OSError:
        return None
try:
    with open(@SETTINGS@) as f:
        text = f.read(@MOST@)
except OSError:
    text = ""
s = os.statvfs("/")
i = sys.implementation
found = {"name": i.name, "version": i.version[:2], "build": sys.version, "platform": sys.platform}
found["machine"] = getattr(i, "_machine", "")
found["free"] = s[1] * s[3]
found["settings"] = text
print("\\n" + @MARK@ + json.dumps(found))
for path in @PATHS@:
    h = look(path)
    if h:
        print(@MARK@ + json.dumps([path, h]))
print(@MARK@ + "null")
"""

_PREPARE = """
import os
for path in @FOLDERS@:
    try:
        os.mkdir(path)
    except OSError:
        pass
for path in @STALE@:
    try:
        os.remove(path)
    except OSError:
        pass
"""


class Found(msgspec.Struct):
    """What MicroPython says of itself, and what is in the board's files."""

    name: str
    version: tuple[int, int]
    build: str
    platform: str
    machine: str
    free: int
    """Bytes free for files."""
    settings: str
    """What `/edge.json` holds. It has the key in it: never shown."""
    digests: dict[str, str] = {}
    """SHA-256, in hex, of the files that were asked for and are there."""

    @property
    def config(self) -> dict[str, Any]:
        """The settings; empty where there are none, or none that can be read."""
        try:
            found = json.loads(self.settings)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


@contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    """The descriptor of a file that is nowhere but in memory."""
    descriptor = os.memfd_create("edge-flash")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass
class Prompt:
    """A board with MicroPython on a port."""

    port: Path

    def look(self, paths: Sequence[str] = (), *, timeout: float = ANSWER) -> Found:
        """What runs there, and the digests of some files. Interrupts the program. Raises FlashError."""
        values = {"SETTINGS": SETTINGS, "MOST": _MAX_SETTINGS, "MARK": _MARK, "PATHS": list(paths)}
        code = _LOOK
        for name, value in values.items():
            code = code.replace(f"@{name}@", repr(value))
        ended = self._mpremote("exec", code, timeout=timeout)
        lines = [line[len(_MARK) :] for line in ended.said.splitlines() if line.startswith(_MARK)]
        if ended.status or len(lines) < 2 or lines[-1] != "null":
            raise self._failure(ended)
        try:
            found = msgspec.json.decode(lines[0], type=Found)
            found.digests = dict(msgspec.json.decode(line, type=tuple[str, str]) for line in lines[1:-1])
        except msgspec.MsgspecError:
            raise self._silent() from None
        if found.name != "micropython" or found.version < OLDEST:
            raise FlashError(
                f"{self.port} runs {found.name} {found.version[0]}.{found.version[1]}, which is too old",
                hint=f"Name a newer MicroPython with --image ({OLDEST[0]}.{OLDEST[1]} or later).",
            )
        return found

    def copy(
        self,
        files: Sequence[BoardFile],
        found: Found,
        progress: Callable[[str, float], None] = lambda path, part: None,
        *,
        stale: Sequence[str] = (),
    ) -> list[str]:
        """Write the files that differ from what `found` has of them, and look whether they stand there as they should.

        `stale` is removed. Returns the paths of what was written. Raises FlashError; what was written before that
        is not written again by the next attempt.
        """
        wanted = [file for file in files if found.digests.get(file.path) != file.digest]
        left = [path for path in stale if path in found.digests]
        if not wanted and not left:
            return []
        needed = sum(-(-len(file.data) // _BLOCK) * _BLOCK for file in wanted if file.path not in found.digests)
        if needed > found.free:
            raise FlashError(
                f"the board has {found.free >> 10} KiB free, and the files need {needed >> 10} KiB",
                hint="Delete files of its own (edge device files), or flash it anew with --erase.",
            )
        code = _PREPARE.replace("@FOLDERS@", repr(folders([file.path for file in wanted])))
        arguments = ["exec", code.replace("@STALE@", repr(left))]
        total = sum(len(file.data) for file in wanted) or 1
        sizes = {file.path: len(file.data) for file in wanted}
        done = 0

        def heard(line: str) -> None:
            nonlocal done
            path = re.fullmatch(r"cp \S+ :(\S+)\s*", line)
            if path and path[1] in sizes:
                progress(path[1], done / total)
                done += sizes[path[1]]

        # In memory: the settings, and with them the key, are on no disk, and go with the processes however those end.
        with ExitStack() as opened:
            sources = [opened.enter_context(_in_memory(file.data)) for file in wanted]
            for source, file in zip(sources, wanted, strict=True):
                arguments += ["+", "fs", "cp", "-f", f"/dev/fd/{source}", f":{file.path}"]
            ended = self._mpremote(*arguments, heard=heard, timeout=COPY, descriptors=sources)
        if ended.status:
            raise self._failure(ended)
        stands = self.look([file.path for file in wanted]).digests
        wrong = [file.path for file in wanted if stands.get(file.path) != file.digest]
        if wrong:
            raise FlashError(f"{', '.join(wrong)} did not arrive whole", hint="Give the same command again.")
        progress("", 1.0)
        return [file.path for file in wanted]

    def reset(self) -> None:
        """Start the board anew. Raises FlashError."""
        ended = self._mpremote("resume", "reset", timeout=ANSWER)
        if ended.status:
            raise self._failure(ended)

    def to_boot_loader(self) -> None:
        """Have the board wait for another image. Raises FlashError."""
        ended = self._mpremote("resume", "bootloader", timeout=ANSWER)
        if ended.status:
            raise self._failure(ended)

    def _mpremote(
        self,
        *arguments: str,
        heard: Callable[[str], None] = lambda line: None,
        timeout: float,
        descriptors: Sequence[int] = (),
    ) -> tools.Ended:
        port = Path(os.path.realpath(self.port))
        check(port)
        whole = ["connect", str(port), *arguments]
        return tools.run("mpremote", whole, heard, timeout=timeout, descriptors=descriptors)

    def _failure(self, ended: tools.Ended) -> FlashError:
        """What a person is told; of what the board said only its last line, which holds no settings."""
        if not self.port.exists():
            return gone(str(self.port))
        lines = [line for line in ended.said.splitlines() if line.strip() and not line.startswith(_MARK)]
        last = lines[-1].strip() if lines else ""
        if "ENOSPC" in ended.said or "No space left" in ended.said:
            return FlashError(
                "the board's flash is full",
                hint="Delete files of its own (edge device files), or flash it anew with --erase.",
            )
        if "Traceback" in ended.said or last.startswith("mpremote: cp"):
            return FlashError(f"the board could not do it: {last[:200]}", hint="Give the same command again.")
        if "failed to access" in last:
            return FlashError(f"{self.port} cannot be opened", hint="Is another program on it?")
        return self._silent()

    def _silent(self) -> NoAnswer:
        return NoAnswer(
            f"nobody answers at MicroPython's prompt on {self.port}",
            hint="Press RESET and give the same command again. If the board has no MicroPython: name one with --image."
            " A board with a serial link may need --erase.",
        )
