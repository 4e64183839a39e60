"""Holds a flow to a rate, if one is set."""

from __future__ import annotations

from edge_runtime.clock import Clock


class Limiter:
    """Lets at most `rate` events a second pass, in bursts of up to a second's worth; None for no limit."""

    def __init__(self, clock: Clock, rate: float | None = None) -> None:
        self._clock = clock
        self.rate = rate
        self._free = clock.monotonic()
        """When the events that have passed are paid for."""

    async def pass_(self, events: int) -> None:
        """Return when so many more events may pass."""
        if self.rate is None:
            return
        now = self._clock.monotonic()
        self._free = max(self._free, now - 1_000_000) + round(events / self.rate * 1_000_000)
        if self._free > now:
            await self._clock.sleep(self._free - now)
