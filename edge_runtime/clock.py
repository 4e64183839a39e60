"""Time as a parameter: the one place where a clock is read, and a clock that tests turn by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Protocol

TRUSTED_AFTER = 1_767_225_600_000_000
"""2026-01-01: a clock that stands before this program was written has not been set (a machine without a battery)."""


class Clock(Protocol):
    """What every module that needs the time is given."""

    def now(self) -> int:
        """Microseconds since 1970-01-01 UTC; may step when the system's clock is set."""
        ...

    def monotonic(self) -> int:
        """Microseconds from some fixed moment; never steps, never goes back."""
        ...

    async def sleep(self, microseconds: int) -> None:
        """Return when so much monotonic time has passed."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1000

    def monotonic(self) -> int:
        """Microseconds since the machine started."""
        return time.monotonic_ns() // 1000

    async def sleep(self, microseconds: int) -> None:
        """Return when so much time has passed."""
        await asyncio.sleep(microseconds / 1e6)


class ManualClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, now: int = 1_700_000_000_000_000) -> None:
        self._now = now
        self._monotonic = 0
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def now(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        return self._now

    def monotonic(self) -> int:
        """Microseconds since the clock was made."""
        return self._monotonic

    async def sleep(self, microseconds: int) -> None:
        """Return once the clock has been turned so far."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + microseconds, next(self._order), future))
        await future

    def advance(self, microseconds: int) -> None:
        """Let time pass, on both clocks; who slept until then wakes in the order of the waking times."""
        self._now += microseconds
        self._monotonic += microseconds
        while self._sleepers and self._sleepers[0][0] <= self._monotonic:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)

    def step(self, microseconds: int) -> None:
        """Set the wall clock forth or back, as an operator or NTP would; the monotonic clock goes on."""
        self._now += microseconds
