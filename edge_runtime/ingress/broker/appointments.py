"""What is to happen to a session by the clock, unless its client comes back before."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.ingress.broker.session import Session

_FEW = 1_000
"""Void appointments that are not worth looking for."""


class _Appointment(msgspec.Struct, order=True):
    moment: int
    order: int
    """The one that was made first comes first; so sessions are never compared."""
    session: Session
    era: int
    what: Callable[[], None]

    @property
    def holds(self) -> bool:
        """Whether nothing has come between."""
        return self.session.era == self.era and self.session.link is None


class Appointments:
    """Those of all sessions, by their moments."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._made: list[_Appointment] = []
        self._order = itertools.count()
        self._bound = _FEW

    def __len__(self) -> int:
        return len(self._made)

    def make(self, delay: int, session: Session, what: Callable[[], None]) -> None:
        """Have `what` happen after so many microseconds, if the session has no connection until then."""
        if len(self._made) > self._bound:  # of clients that come and go, most are void
            self._made = [found for found in self._made if found.holds]
            heapq.heapify(self._made)
            # So many may come again before the next look: its cost is shared by as many as it looks at.
            self._bound = _FEW + 2 * len(self._made)
        moment = self._clock.monotonic() + max(0, delay)
        heapq.heappush(self._made, _Appointment(moment, next(self._order), session, session.era, what))

    def void(self, session: Session) -> None:
        """Nothing of what was appointed for a session is to happen."""
        session.era += 1

    def keep(self) -> None:
        """Let what is due happen."""
        now = self._clock.monotonic()
        while self._made and self._made[0].moment <= now:
            due = heapq.heappop(self._made)
            if due.holds:
                due.what()
