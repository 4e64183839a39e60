"""Reads the journal that a board's program writes by itself: evidence to compare the gateway's own records with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CommandSeen:
    """A command as it arrived at the board."""

    id: str
    """32 hex digits."""
    name: str
    cause: str | None
    """The id of the board's own event that caused it, `device/boot/seq`."""
    us: int | None
    """Microseconds from the first publishing of that event, where it was of this start of the board."""
    repeat: bool
    """It had been met before, and was only answered again."""


@dataclass
class BoardJournal:
    """All that a board wrote down. Events are named `device/boot/seq`, as `Event.id` has it."""

    starts: int = 0
    published: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    commands: list[CommandSeen] = field(default_factory=list)
    ack_us: list[int] = field(default_factory=list)
    """Microseconds from the first publishing of an event to its acknowledgement."""
    republished: int = 0
    """How many times an event went out once more."""

    @property
    def command_us(self) -> list[int]:
        """Microseconds from publishing an event to the command it caused, repeats left out."""
        return [c.us for c in self.commands if c.us is not None and not c.repeat]


def read_journal(path: Path, device: str, *, after: int = 0) -> BoardJournal:
    """Read a board's journal from the byte `after` on.

    A line that was cut off (by a loss of power, or because it is just being written) is passed over.
    """
    journal = BoardJournal()
    try:
        with open(path, "rb") as file:
            file.seek(after)
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return journal
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            _take(journal, device, entry)
    return journal


def _take(journal: BoardJournal, device: str, entry: dict[str, Any]) -> None:
    match entry:
        case {"event": "boot"}:
            journal.starts += 1
        case {"event": "published", "boot": str(boot), "seq": int(seq), "again": again}:
            journal.published.add(f"{device}/{boot}/{seq}")
            journal.republished += bool(again)
        case {"event": "acknowledged", "boot": str(boot), "seq": int(seq), "us": us}:
            journal.acknowledged.add(f"{device}/{boot}/{seq}")
            if isinstance(us, int):
                journal.ack_us.append(us)
        case {"event": "command", "id": str(command), "name": str(name), "cause": cause, "us": us, "repeat": repeat}:
            origin = f"{device}/{cause[0]}/{cause[1]}" if isinstance(cause, list) and len(cause) == 2 else None
            seen = CommandSeen(command, name, origin, us if isinstance(us, int) else None, bool(repeat))
            journal.commands.append(seen)
