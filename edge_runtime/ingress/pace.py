"""How fast a device may send: a bucket of messages and one of bytes for each, over the monotonic clock.

What lies beyond is for a door to deal with, by what its protocol can say. Two ways are offered: `spend` takes a message
that must not be given up (MQTT QoS 1) and says for how long its sender is then not to be heard; `take` refuses a
message that can be given up (QoS 0) or sent again (CoAP, HTTP).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from edge_runtime.clock import Clock

SECOND = 1_000_000


class Allowance(msgspec.Struct, frozen=True):
    """What one device may send in the long run. 0 is no limit."""

    rate: float = 0
    """Messages a second."""
    bytes: float = 0
    """Bytes of payload a second."""
    burst: int = 5 * SECOND
    """What may come at once after a silence: as much as in so many microseconds."""


UNLIMITED = Allowance()


class _Buckets:
    """A bucket is the moment when it will be full again: it empties as that moves on, and fills as time does."""

    __slots__ = ("burst", "full", "full_of_bytes", "per_byte", "per_message")

    def __init__(self, allowance: Allowance) -> None:
        self.per_message = SECOND / allowance.rate if allowance.rate else 0.0
        self.per_byte = SECOND / allowance.bytes if allowance.bytes else 0.0
        self.burst = allowance.burst
        self.full = 0.0
        self.full_of_bytes = 0.0


class Pace:
    """All devices' buckets. One for all doors: a device does not get more by coming in through two of them."""

    def __init__(self, clock: Clock, allowance_of: Callable[[str], Allowance] | None = None) -> None:
        """`allowance_of` says what a device may, asked when it is first heard; without it there is no limit."""
        self.dropped: dict[str, int] = {}
        """Messages that were given up, by device, since somebody last took note."""
        self._monotonic = clock.monotonic
        self._allowance_of = allowance_of or _unlimited
        self._buckets: dict[str, _Buckets] = {}

    def spend(self, device: str, size: int, now: int = 0) -> int:
        """Count a message of `size` bytes that is taken in any case; `now` is the monotonic time, if it is at hand.

        Returns for how many microseconds the device is not to be heard, until there is room for a message again.
        """
        now = now or self._monotonic()
        buckets = self._buckets.get(device) or self._of(device)
        # Written out: this is done for every message.
        full, of_bytes = buckets.full, buckets.full_of_bytes
        buckets.full = full = (full if full > now else now) + buckets.per_message
        buckets.full_of_bytes = of_bytes = (of_bytes if of_bytes > now else now) + size * buckets.per_byte
        brim = now + buckets.burst
        if full <= brim and of_bytes <= brim:
            return 0
        return int(max(full, of_bytes) - brim)

    def take(self, device: str, size: int) -> bool:
        """Count a message if there is room for it; False if it is not to be taken."""
        now = self._monotonic()
        buckets = self._of(device)
        if buckets.full - now > buckets.burst or buckets.full_of_bytes - now > buckets.burst:
            return False
        self._count(buckets, size, now)
        return True

    def take_or_drop(self, device: str, size: int) -> bool:
        """As `take`, for a message that nobody sends again: giving it up is noted in `dropped`."""
        if self.take(device, size):
            return True
        self.dropped[device] = self.dropped.get(device, 0) + 1
        return False

    def changed(self, device: str) -> None:
        """What the device may is another now; what it has sent stays counted."""
        old = self._buckets.pop(device, None)
        if old is not None:
            new = self._of(device)
            new.full, new.full_of_bytes = old.full, old.full_of_bytes

    def forget_full(self) -> None:
        """Let go of devices that have been silent for so long that nothing is known of them any more."""
        now = self._monotonic()
        self._buckets = {
            device: buckets
            for device, buckets in self._buckets.items()
            if buckets.full > now or buckets.full_of_bytes > now
        }

    def _of(self, device: str) -> _Buckets:
        buckets = self._buckets.get(device)
        if buckets is None:
            buckets = self._buckets[device] = _Buckets(self._allowance_of(device))
        return buckets

    def _count(self, buckets: _Buckets, size: int, now: int) -> None:
        full, of_bytes = buckets.full, buckets.full_of_bytes
        buckets.full = (full if full > now else now) + buckets.per_message
        buckets.full_of_bytes = (of_bytes if of_bytes > now else now) + size * buckets.per_byte


def _unlimited(_device: str) -> Allowance:
    return UNLIMITED
