"""A timer wheel: thousands of coarse deadlines behind one timer of the event loop.

It counts ticks and knows no clock; whoever turns it says how long a tick is.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """Something with a deadline. It may be moved later freely; `Wheel.put` is needed to move it to an earlier tick."""

    deadline: int
    """The tick at which it is due."""
    slot: int
    """Where the wheel keeps it; -1 while it does not. The wheel's own."""


T = TypeVar("T", bound=Timed)


class Wheel(Generic[T]):
    """Deadlines in ticks. An item whose deadline was moved later is looked at on the old one and put on again."""

    def __init__(self) -> None:
        self.now = 0
        self._slots: dict[int, set[T]] = {}

    def put(self, item: T) -> None:
        """Have `item` come out of `turn` at its deadline, or at the next tick if that has passed."""
        due = max(item.deadline, self.now + 1)
        if 0 <= item.slot <= due:
            return
        self.remove(item)
        item.slot = due
        self._slots.setdefault(due, set()).add(item)

    def remove(self, item: T) -> None:
        """Forget `item`."""
        if item.slot >= 0:
            bucket = self._slots.get(item.slot)
            if bucket is not None:
                bucket.discard(item)
                if not bucket:
                    del self._slots[item.slot]
            item.slot = -1

    def turn(self) -> list[T]:
        """One tick on: the items that are due now, which the wheel then no longer holds."""
        self.now += 1
        due = []
        for item in self._slots.pop(self.now, ()):
            item.slot = -1
            if item.deadline <= self.now:
                due.append(item)
            else:
                self.put(item)
        return due
