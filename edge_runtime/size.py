"""About how much memory a record holds on to: enough to bound queues of them, cheap enough to ask of each."""

from __future__ import annotations

from typing import Any

from edge_runtime.events import Event

BASE = 500
"""Bytes of a record with a few small fields."""
DEPTH = 4
"""Deeper values count by their number only."""


def rough(record: object) -> int:
    """Bytes, within a factor of a few: of what an event, a command, a timer or a dead letter carries."""
    if type(record) is Event:
        return BASE + _rough(record.data, DEPTH)
    data = getattr(record, "data", None)
    if data is None:
        data = getattr(record, "args", None)
    size = BASE if data is None else BASE + _rough(data, DEPTH)
    event = getattr(record, "event", None)
    return size if event is None else size + rough(event)


def _rough(value: Any, depth: int) -> int:
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value)
    if kind is dict:
        if depth == 0:
            return 100 * len(value)
        size = 60 * len(value)
        for item in value.values():
            if type(item) is float or type(item) is int:
                size += 24  # written out: most of what boards send
            else:
                size += _rough(item, depth - 1)
        return size
    if kind is list:
        if depth == 0:
            return 60 * len(value)
        return 8 * len(value) + sum(_rough(item, depth - 1) for item in value)
    return 24
