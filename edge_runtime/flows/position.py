"""How far a flow has come, over its hash slots and held keys: pure values, no storage, no tasks."""

from __future__ import annotations

from zlib import crc32

import msgspec

from edge_runtime.journal.records import FlowState, Progress

SLOTS = 64
"""Fixed for ever: a flow's progress is stored by slot, and executors own slots."""


def slot_of(key: str) -> int:
    """The hash slot of a partition key."""
    return crc32(key.encode()) % SLOTS


class Position(msgspec.Struct, frozen=True):
    """As in the record `Progress`: held keys first, then slots, then the cursor."""

    cursor: int
    slots: dict[int, int] = {}
    held: dict[str, int] = {}

    @classmethod
    def of(cls, state: FlowState | Progress) -> Position:
        """Where a record of the journal says the flow stands."""
        return cls(state.cursor, state.slots, state.held)

    def done(self, offset: int, key: str) -> bool:
        """Whether the event at `offset` with this partition key has been dealt with."""
        if self.held:
            at = self.held.get(key)
            if at is not None:
                return offset <= at
        if offset > self.cursor:
            return False
        return not self.slots or offset <= self.slots.get(slot_of(key), self.cursor)

    @property
    def highest(self) -> int:
        """Nothing behind here has been dealt with, whatever its key."""
        return max(self.cursor, *self.slots.values(), *self.held.values(), self.cursor)

    @property
    def lowest(self) -> int:
        """Everything up to here has been dealt with, whatever its key."""
        return min(self.cursor, *self.slots.values(), *self.held.values(), self.cursor)


def position(reached: list[int], held: dict[str, int]) -> Position:
    """The position of a flow whose slot number i has come to `reached[i]`."""
    cursor = max(reached)
    return Position(cursor, {slot: at for slot, at in enumerate(reached) if at < cursor}, held)
