"""What a function keeps from one event to the next, by partition key."""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from typing import Any

from edge._durations import microseconds
from edge._plain import dumps

MAX_NAME = 128
"""Characters of an entry's name."""

Stored = dict[str, tuple[str, int]]
"""Entries by name: the value as JSON, and when it expires (by the events' `received`; 0 for never)."""

Stores = dict[str, Stored]
"""By partition key."""

_decode = json.JSONDecoder().decode


class State(MutableMapping[str, Any]):
    """A dict of plain values that lasts: stored together with the effects of the call, if it succeeds.

    It belongs to the function and to the device of the event; a function with `serial=True` has one for all devices.
    Lists and dicts that were read from it may be changed in place.
    """

    __slots__ = ("_now", "_opened", "_removed", "_stored", "_until")

    def __init__(self, stored: Stored, now: int) -> None:
        self._stored = stored
        self._now = now
        self._opened: dict[str, Any] = {}
        self._until: dict[str, int] = {}
        self._removed: set[str] = set()

    def set(self, name: str, value: Any, *, ttl: float | str | None = None) -> None:
        """Keep a value; with `ttl` (seconds, or text such as "90s" or "12h") only for so long, at most ten years."""
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise ValueError(f"{name!r} is not the name of a state entry: text of 1 to {MAX_NAME} characters")
        dumps(value)  # what cannot be kept is refused here, where the mistake is
        self._opened[name] = value
        self._until[name] = 0 if ttl is None else self._now + microseconds(ttl, "ttl", "ten years")
        self._removed.discard(name)

    def __getitem__(self, name: str) -> Any:
        if name in self._opened:
            return self._opened[name]
        if name in self._removed or not self._lives(name):
            raise KeyError(name)
        text, self._until[name] = self._stored[name]
        value = self._opened[name] = _decode(text)
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        self.set(name, value)

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._opened.pop(name, None)
        self._removed.add(name)

    def __contains__(self, name: object) -> bool:
        return name in self._opened or (name not in self._removed and self._lives(name))

    def __iter__(self) -> Iterator[str]:
        yield from [name for name in self._stored if name in self]
        yield from [name for name in self._opened if name not in self._stored]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"State({dict(self)!r})"

    def _lives(self, name: object) -> bool:
        entry = self._stored.get(name)  # type: ignore[call-overload]  # whatever was asked for
        return entry is not None and not 0 < entry[1] <= self._now

    def _changes(self) -> dict[str, tuple[str, int] | None]:
        """What is to be stored; None for entries that are gone."""
        found: dict[str, tuple[str, int] | None] = {}
        for name, value in self._opened.items():
            entry = (dumps(value), self._until[name])
            if entry != tuple(self._stored.get(name, ())):
                found[name] = entry
        for name, (_, until) in self._stored.items():
            if name in self._removed or (0 < until <= self._now and name not in self._opened):
                found[name] = None
        return found

    def _after(self, changes: dict[str, tuple[str, int] | None]) -> Stored:
        """The entries once the changes are in force."""
        entries: dict[str, tuple[str, int] | None] = {**self._stored, **changes}
        return {name: entry for name, entry in entries.items() if entry is not None}
