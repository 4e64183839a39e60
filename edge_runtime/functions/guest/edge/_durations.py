"""Lengths of time as users write them."""

from __future__ import annotations

import re
from functools import lru_cache

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_UNITS = {"us": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}

_LIMITS = {
    "a year": 366 * _UNITS["d"],
    "30 seconds": 30 * _UNITS["s"],
    "7 days": 7 * _UNITS["d"],
    "ten years": 3653 * _UNITS["d"],
}


@lru_cache(maxsize=64, typed=True)  # a function says the same few lengths with every event: 2 us of a command's 25
def microseconds(length: float | str, name: str, longest: str) -> int:
    """A length of time in seconds, or as text such as "90s" or "5m", in microseconds: above 0, at most `longest`."""
    if isinstance(length, str):
        match = _DURATION.fullmatch(length.strip())
        if match is None:
            raise ValueError(f"{name}={length!r} is not a time such as '60s', '5m' or '2h'")
        value = int(float(match[1]) * _UNITS[match[2]])
    elif isinstance(length, (int, float)) and not isinstance(length, bool):
        value = int(length * 1_000_000)
    else:
        raise TypeError(f"{name}={length!r} is neither seconds nor text such as '60s'")
    if not 0 < value <= _LIMITS[longest]:
        raise ValueError(f"{name}={length!r} is not between 0 and {longest}")
    return value
