"""A board, whatever it is made of: what tests and the demo can do with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edge_runtime.errors import EdgeError
from hil.journal import BoardJournal


class BoardError(EdgeError):
    """A board cannot be started, or a part that it is made of is missing."""


@dataclass(frozen=True)
class BoardConfig:
    """What goes into the board's settings file."""

    device: str
    key: str = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 1883
    options: Mapping[str, object] = field(default_factory=dict)
    """Sizes and times of the firmware: `keepalive`, `patience`, `backoff`, `queue`, ... (`docs/firmware.md`).
    `link` chooses the link: `"mqtt"` or `"serial"`."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """The program's own settings; the greenhouse knows `period_ms`, `readings`, `seed`, `speed` and `journal`."""

    def file(self) -> dict[str, object]:
        """The content of `/edge.json`."""
        named = {"device": self.device, "key": self.key, "host": self.host, "port": self.port}
        return {**named, **self.options, "settings": {"journal": JOURNAL, **self.settings}}


JOURNAL = "/journal.jsonl"
"""Where, on the board's own file system, its program keeps its journal."""


class Board(Protocol):
    """A board with power, a serial log and a file system."""

    @property
    def device(self) -> str:
        """Its device id."""
        ...

    @property
    def running(self) -> bool:
        """Whether it has power and its program has not ended."""
        ...

    async def start(self) -> None:
        """Power on: flash the program and run it. What its file system held besides is kept. Raises BoardError."""
        ...

    async def stop(self) -> None:
        """Power off, politely where the board can tell; nothing if it is off."""
        ...

    async def kill(self) -> None:
        """Cut the power at once."""
        ...

    def logs(self) -> str:
        """What it has printed, over all starts: at most the last 64 KiB."""
        ...

    def journal(self, *, last_start: bool = False) -> BoardJournal:
        """What its program wrote down about events and commands, over all starts or since the last one."""
        ...


class Buttons(Protocol):
    """A board with buttons that can be pressed from here."""

    async def press(self, button: str) -> None:
        """Press and release one: `a` or `b`. Raises BoardError where there is no such button."""
        ...


class Pins(Protocol):
    """A board of which it can be seen from here what it does."""

    async def pin(self) -> bool:
        """Whether its output is on."""
        ...


class Reset(Protocol):
    """A board that can be started anew without a cut of its power."""

    async def reset(self) -> None:
        """Start its program anew."""
        ...


def firmware_folder() -> Path:
    """The folder that holds the MicroPython package; raises BoardError where it is not installed."""
    folder = Path(__file__).resolve().parent.parent / "firmware"
    if not (folder / "edge_device" / "__init__.py").is_file():
        raise BoardError(
            f"the boards' firmware is not at {folder}",
            hint="It comes with a clone of the project; run from there.",
        )
    return folder
