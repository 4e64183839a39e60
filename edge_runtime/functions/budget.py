"""An app's share of a core, held to over all its instances."""

from __future__ import annotations

WINDOW = 5_000_000
"""Microseconds over which the share is meant: an app that was at rest may use the whole core for its share of them."""


class Budget:
    """Fills up with time at the rate of the share, and is drawn on by what the app uses. Moments and durations are in
    microseconds of a monotonic clock."""

    def __init__(self, share: float, now: int) -> None:
        self._share = share
        self._left = share * WINDOW
        self._at = now
        self._since: int | None = None
        """When it began to be held back; None while it is not."""
        self._held = 0

    def spend(self, micros: int, now: int) -> None:
        """The app has used so much."""
        self._fill(now)
        self._left -= micros

    def wait(self, now: int) -> int:
        """How long an app that wants to go on has to wait; 0 for not at all."""
        if self._share >= 1.0:
            return 0
        self._fill(now)
        if self._left > 0:
            if self._since is not None:
                self._held += now - self._since
                self._since = None
            return 0
        if self._since is None:
            self._since = now
        return int(-self._left / self._share) + 1

    def held(self, now: int) -> int:
        """How long the app was held back in all."""
        return self._held + (now - self._since if self._since is not None else 0)

    def _fill(self, now: int) -> None:
        self._left = min(self._share * WINDOW, self._left + (now - self._at) * self._share)
        self._at = now
