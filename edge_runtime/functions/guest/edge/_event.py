"""The event as a function sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Event:
    """Something that happened on a device or in a function. All times are microseconds since 1970-01-01 UTC."""

    device: str
    """The device it happened on; for an event emitted by a function, the device of its cause."""
    kind: str
    """What kind of event it is, such as `climate`."""
    time: int
    """When it happened."""
    data: Any
    """The reading, usually a dict. Byte strings arrive as base64 text, NaN and infinities as None."""
    id: str
    """Identifies the event: the same for every delivery of it."""
    seq: int = 0
    """The device's own count within one `boot`."""
    boot: str = ""
    """16 hex digits, new whenever the device's sequence starts again; empty for emitted events."""
    received: int = 0
    """When the gateway took it in."""
    late: bool = False
    """It comes out of order: it had failed, and somebody has asked for it to be tried again."""
