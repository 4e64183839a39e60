"""A few numbers for each of many texts, all of them in memory: bounded, and stored in pieces."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Collection, Mapping

import msgspec

MAX_KEYS = 100_000
"""Texts that are remembered; beyond them the one that was quiet for longest is forgotten."""
NAMES = 64
"""Pieces of state that they are stored in."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(dict[str, list[int]]).decode


class Remembered:
    """State by text, in pieces by hash: one that changes has its piece stored again."""

    def __init__(self, name: str, age: int = -1) -> None:
        self._name = name
        self._age = age
        """Which of the numbers says how lately it was put."""
        self.values: OrderedDict[str, list[int]] = OrderedDict()
        """The one that was put last comes last."""
        self._changed: set[int] = set()
        self._missing = [f"{name}.{piece}" for piece in range(NAMES)]
        self.owed = 0
        """As `Machine.owed`."""

    def missing(self) -> Collection[str]:
        """The names of state that is needed first: all of it, and once."""
        return self._missing

    def load(self, state: Mapping[str, bytes | None]) -> None:
        """Take up what was dumped; it may be a part of it."""
        found = [name for name in self._missing if name in state]
        for name in found:
            if packed := state[name]:
                self.values.update(_unpack(packed))
        self._missing = [name for name in self._missing if name not in state]
        if found and not self._missing:
            age = self._age
            self.values = OrderedDict(sorted(self.values.items(), key=lambda item: (item[1][age], item[0])))

    def put(self, key: str, value: list[int]) -> list[str]:
        """Remember. Answers what is forgotten for it."""
        self.owed += len(key) + 10 * len(value)
        self.values[key] = value
        self.values.move_to_end(key)
        self._changed.add(_piece(key))
        forgotten = []
        while len(self.values) > MAX_KEYS:
            forgotten.append(self.values.popitem(last=False)[0])
            self._changed.add(_piece(forgotten[-1]))
        return forgotten

    def drop(self, key: str) -> None:
        """Forget."""
        if self.values.pop(key, None) is not None:
            self._changed.add(_piece(key))

    def dump(self) -> dict[str, bytes | None]:
        """What has changed since the last dump."""
        pieces: dict[int, dict[str, list[int]]] = {piece: {} for piece in self._changed}
        if pieces:
            for key, value in self.values.items():
                piece = _piece(key)
                if piece in pieces:
                    pieces[piece][key] = value
        self._changed = set()
        self.owed = 0
        return {f"{self._name}.{piece}": _pack(found) if found else None for piece, found in pieces.items()}


def _piece(key: str) -> int:
    return zlib.crc32(key.encode()) % NAMES
