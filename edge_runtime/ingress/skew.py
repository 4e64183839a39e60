"""How far a device's clock seems to be off: by how much its events came after, or before, their own time.

An estimate, not a measurement: what took long on its way, or waited in a spool, looks the same as a clock that is
slow. The median of the newest packets forgets a single late one, and a spool that was drained.
"""

from __future__ import annotations

from collections import deque
from statistics import median_low

WINDOW = 9
"""Packets that the median is taken of; a device is judged once it has sent so many."""


class Skews:
    """The newest differences of each device that dates its events itself."""

    def __init__(self, threshold: int) -> None:
        """`threshold`: microseconds beyond which a clock is off; 0 for never."""
        self.threshold = threshold
        self._samples: dict[str, deque[int]] = {}
        self._told: set[str] = set()

    def note(self, device: str, difference: int) -> None:
        """A packet came `difference` microseconds after the time of its newest event (before it, if negative)."""
        samples = self._samples.get(device)
        if samples is None:
            samples = self._samples[device] = deque(maxlen=WINDOW)
        samples.append(difference)

    def of(self, device: str) -> int | None:
        """Microseconds that its clock is behind ours (ahead, if negative); None for too few packets."""
        samples = self._samples.get(device)
        return median_low(samples) if samples is not None and len(samples) == WINDOW else None

    def off(self) -> dict[str, int]:
        """The devices whose clock is off, and by how much."""
        if not self.threshold:
            return {}
        found = ((device, self.of(device)) for device in self._samples)
        return {device: skew for device, skew in found if skew is not None and abs(skew) > self.threshold}

    def news(self) -> dict[str, int]:
        """Those of them that were not yet told of since they were last right."""
        off = self.off()
        fresh = {device: skew for device, skew in off.items() if device not in self._told}
        self._told = set(off)
        return fresh

    def forget(self, device: str) -> None:
        """The device is not there any more, or is another."""
        self._samples.pop(device, None)
