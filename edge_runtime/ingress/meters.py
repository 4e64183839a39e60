"""What a front door counts, for the instrumentation plane."""

from __future__ import annotations

import msgspec

_FINE = 3
"""Bits of precision: a bucket is an eighth of a power of two wide, so a quantile is at most 12.5 % too high."""
_BUCKETS = 40 << _FINE
"""Up to 2^39 us, six days; what takes longer counts as that."""


class Counters(msgspec.Struct):
    """Running totals since the start, but for `connections`."""

    connections: int = 0
    """Open now."""
    accepted: int = 0
    """Connections of devices with the right key."""
    messages: int = 0
    """Messages received, of either QoS."""
    acknowledged: int = 0
    """PUBACKs sent."""
    duplicates: int = 0
    """Messages that were there already."""
    dead: int = 0
    """Messages that became a dead letter."""
    refused: int = 0
    """Messages that could not be stored and were not acknowledged."""
    slowed: int = 0
    """How often a connection was not heard for a while, since its device sent too fast."""
    throttled: int = 0
    """Messages of QoS 0 that were given up, since their device sent too fast."""
    failed_logins: int = 0
    violations: int = 0
    """Connections closed for breaking the protocol or a limit."""
    trespasses: int = 0
    """Attempts to publish or subscribe outside the device's own tree."""
    turned_away: int = 0
    """Connections closed at once because there were too many."""
    commands: int = 0
    """Commands handed to devices."""


class Histogram:
    """Durations in microseconds in buckets of rising width: 2.5 KB, however many there were."""

    def __init__(self) -> None:
        self.count = 0
        self._buckets = [0] * _BUCKETS

    def record(self, micros: int) -> None:
        """Count one duration."""
        if micros < 0:
            micros = 0
        shift = micros.bit_length() - _FINE - 1
        index = micros if shift <= 0 else (shift << _FINE) + (micros >> shift)
        self._buckets[index if index < _BUCKETS else -1] += 1
        self.count += 1

    def quantile(self, q: float) -> int:
        """An upper bound of the `q`-quantile (0 to 1), in microseconds; 0 if nothing was counted."""
        wanted = q * self.count
        seen = 0
        for index, number in enumerate(self._buckets):
            seen += number
            if number and seen >= wanted:
                return _upper(index)
        return 0


def _upper(index: int) -> int:
    shift = max((index >> _FINE) - 1, 0)
    return ((index - (shift << _FINE) + 1) << shift) - 1
