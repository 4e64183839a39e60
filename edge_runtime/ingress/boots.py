"""A bound on how often a device may begin a new boot.

The journal remembers every boot for ever (ADR 0023): that is how an old repeat is recognised. So how fast their number
grows has to be bounded.
"""

from __future__ import annotations

from edge_runtime.clock import Clock

SECOND = 1_000_000
BURST = 1_000
"""Boots at once: more than a board with a loose contact gets through in an hour, or a spool of old ones holds."""
INTERVAL = 60 * SECOND
"""Between two boots in the long run."""


class Boots:
    """Counts the changes of boot of each device; what was already under way stays so."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._last: dict[str, bytes] = {}
        self._full_at: dict[str, int] = {}

    def admit(self, device: str, boot: bytes) -> bool:
        """Whether events of this boot may be kept as such."""
        if self._last.get(device) == boot:
            return True
        now = self._monotonic()
        full_at = max(self._full_at.get(device, 0), now)
        if full_at - now > (BURST - 1) * INTERVAL:
            return False
        self._full_at[device] = full_at + INTERVAL
        self._last[device] = boot
        return True
