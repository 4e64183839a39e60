"""Where in the journal a verb begins: at an offset, at a time, or at the oldest record."""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from edge_runtime.errors import EdgeError

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)")
_UNITS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


class Moment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An `offset`, a `time` (microseconds since 1970-01-01 UTC), or with neither the oldest record."""

    offset: int | None = None
    time: int | None = None


EARLIEST = Moment()


def parse(text: str, now: int) -> Moment:
    """A moment as a person says it: `1h` ago, `2026-11-22T10:00` (local time), `earliest`. Raises EdgeError."""
    text = text.strip()
    if text == "earliest":
        return EARLIEST
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return Moment(time=now - round(float(ago[1]) * _UNITS[ago[2]]))
    try:
        return Moment(time=round(datetime.fromisoformat(text).timestamp() * 1e6))
    except (ValueError, OverflowError):
        raise EdgeError(
            f"'{text}' is not a moment", hint="Say how long ago (30s, 15m, 1h, 2d), 2026-11-22T10:00, or earliest."
        ) from None


def shown(time: int) -> str:
    """A time for a person, in local time."""
    try:
        return datetime.fromtimestamp(time / 1e6).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return f"{time / 1e6:.0f} s since 1970"
