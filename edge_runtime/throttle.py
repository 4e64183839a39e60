"""Bounds on how much strangers, and functions, can make the gateway write into its logs."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_runtime.clock import Clock

SECOND = 1_000_000


class Throttle:
    """Lets at most `burst` pass at once and one per `interval` microseconds after; counts the rest."""

    def __init__(self, clock: Clock, burst: int, interval: int) -> None:
        self._clock = clock
        self._burst = burst
        self._interval = interval
        self._full_at = clock.monotonic()
        """When the allowance will be whole again; each that passes moves it one interval further."""
        self._left_out = 0

    def admit(self) -> int | None:
        """Whether the next one passes: how many were left out before it, or None if it is left out itself."""
        now = self._clock.monotonic()
        self._full_at = max(self._full_at, now)
        if self._full_at - now > (self._burst - 1) * self._interval:
            self._left_out += 1
            return None
        self._full_at += self._interval
        left_out, self._left_out = self._left_out, 0
        return left_out


class ThrottledLog:
    """Passes lines on within the bounds of a `Throttle`; says how many it left out."""

    def __init__(self, line: Callable[[str], None], clock: Clock, burst: int = 20, interval: int = SECOND) -> None:
        self._line = line
        self._throttle = Throttle(clock, burst, interval)

    def __call__(self, text: str) -> None:
        """Pass the line on, or count it."""
        left_out = self._throttle.admit()
        if left_out is None:
            return
        if left_out:
            self._line(f"{left_out} lines like the following were left out: too many at once")
        self._line(text)


class Quiet(logging.Filter):
    """What strangers make a library say is bounded like our own lines."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._throttle = Throttle(clock, 20, 1_000_000)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line passes."""
        return self._throttle.admit() is not None
