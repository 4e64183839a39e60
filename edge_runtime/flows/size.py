"""About how much memory an event holds on to: enough to bound queues of them, cheap enough to ask of each."""

from __future__ import annotations

from typing import Any

from edge_runtime.journal.records import Record

BASE = 500
"""Bytes of an event with a few small fields."""
DEPTH = 4
"""Deeper values count by their number only."""


def rough(record: Record) -> int:
    """Bytes, within a factor of a few."""
    data = getattr(record, "data", None)
    return BASE if data is None else BASE + _rough(data, DEPTH)


def _rough(value: Any, depth: int) -> int:
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value)
    if kind is dict:
        if depth == 0:
            return 100 * len(value)
        return 60 * len(value) + sum(_rough(item, depth - 1) for item in value.values())
    if kind is list:
        if depth == 0:
            return 60 * len(value)
        return 8 * len(value) + sum(_rough(item, depth - 1) for item in value)
    return 24
