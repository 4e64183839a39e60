"""What can happen to data on its way: the words that all links of boards have in common, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random


class Faults:
    """A link's bad sides; none at first. All may be changed while data is under way."""

    def __init__(self, seed: int) -> None:
        self.loss = 0.0
        """The share of pieces that get lost."""
        self.damage = 0.0
        """The share of pieces in which a bit flips."""
        self.duplicates = 0.0
        """The share of pieces that arrive twice."""
        self.delay = 0.0
        """Seconds that every piece takes."""
        self.jitter = 0.0
        """Seconds that a piece takes besides, at most."""
        self.rate = 0
        """Bytes per second; 0 for as fast as it goes."""
        self.cut = False
        """Nothing reaches anybody, and nobody notices."""
        self.deaf_board = False
        """Half open: nothing reaches the board, though what it says arrives."""
        self.random = Random(seed)

    def heal(self) -> None:
        """A good link again, from now on."""
        self.loss = self.damage = self.duplicates = self.delay = self.jitter = 0.0
        self.rate = 0
        self.cut = self.deaf_board = False

    def fate(self, data: bytes, to_board: bool) -> list[bytes]:
        """What is left of a piece: nothing, itself, itself with a bit changed, or two of it."""
        chance = self.random.random
        if self.closed(to_board) or chance() < self.loss:
            return []
        if chance() < self.damage:
            data = flip(data, self.random)
        return [data, data] if chance() < self.duplicates else [data]

    def closed(self, to_board: bool) -> bool:
        """Whether nothing gets through in this direction."""
        return self.cut or (self.deaf_board and to_board)

    def lateness(self) -> float:
        """Seconds that the next piece takes."""
        return self.delay + (self.random.random() * self.jitter if self.jitter else 0.0)


class InTurn:
    """Hands pieces on after their delays and at a rate, none before an earlier one."""

    def __init__(self, faults: Faults, now: Callable[[], float]) -> None:
        """`now` gives seconds that never go back."""
        self._faults = faults
        self._now = now
        self._free = 0.0

    def due(self, size: int, extra: float = 0.0) -> float:
        """The moment, by `now`, at which a piece of `size` bytes has arrived that is sent now and held up `extra` s."""
        faults = self._faults
        sent = max(self._now() + faults.lateness() + extra, self._free)
        self._free = sent + (size / faults.rate if faults.rate else 0.0)
        return self._free


def flip(data: bytes, random: Random) -> bytes:
    """The same with one bit changed."""
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes((data[at] ^ (1 << random.randrange(8)),)) + data[at + 1 :]
