"""A bound on what strangers can make the gateway do: try keys."""

from __future__ import annotations

from collections import OrderedDict

from edge_runtime.clock import Clock
from edge_runtime.throttle import SECOND


class FailedLogins:
    """How long an address has to wait for its next refusal.

    Keys are 256 random bits: nobody guesses one. The delay is there so that a peer that tries on and on costs little;
    a right key is never delayed, since other boards may sit behind the same address.
    """

    FREE = 3
    """Failures before the first delay: a person who is typing."""
    LONGEST = 10
    """Seconds of delay at most."""
    FORGET = 60 * SECOND
    """After so long without a failure an address starts anew."""
    ADDRESSES = 1024
    """Addresses remembered; beyond them the one quiet for longest is forgotten."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def delay(self, address: str) -> int:
        """Count a failure of `address`; the seconds after which it may be told."""
        now = self._clock.monotonic()
        count, last = self._failures.pop(address, (0, now))
        count = 1 if now - last > self.FORGET else count + 1
        self._failures[address] = count, now
        if len(self._failures) > self.ADDRESSES:
            self._failures.popitem(last=False)
        beyond = min(count - self.FREE, 8)
        return min(2 ** (beyond - 1), self.LONGEST) if beyond > 0 else 0
