"""What is counted about a flow, for whoever watches it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

from edge_runtime.journal.records import DeadLetter, Record

SAMPLES = 1024
"""How many of the newest durations are kept for percentiles."""
RATE_SPAN = 10_000_000
"""The rate is a mean that forgets: what was this long ago counts about a third, microseconds."""


class FlowStats:
    """Counters of one flow since the gateway started."""

    def __init__(self) -> None:
        self.events = 0
        """Events dealt with."""
        self.effects = 0
        """Records committed as their effects."""
        self.dead_letters = 0
        self.retries = 0
        """How often an event was to be tried again."""
        self.waiting = ""
        """What the flow waits for, in words; empty while it runs freely."""
        self.take_micros: deque[int] = deque(maxlen=SAMPLES)
        """Durations of the newest batches, microseconds."""
        self.rate = 0.0
        """Events a second, of late."""
        self._sampled: tuple[int, int] | None = None

    def took(self, events: int, effects: Sequence[Record], micros: int) -> None:
        """A batch went through in so many microseconds, commit included."""
        self.events += events
        self.effects += len(effects)
        self.dead_letters += sum(type(record) is DeadLetter for record in effects)
        self.take_micros.append(micros)

    def sample(self, monotonic: int) -> None:
        """Bring the rate up to date; called every second or so."""
        if self._sampled is not None and monotonic > self._sampled[0]:
            elapsed = monotonic - self._sampled[0]
            newest = (self.events - self._sampled[1]) / elapsed * 1e6
            self.rate += (1 - math.exp(-elapsed / RATE_SPAN)) * (newest - self.rate)
        self._sampled = (monotonic, self.events)


def percentile(samples: Iterable[int], fraction: float) -> int:
    """The sample below which `fraction` of them lie (nearest rank); 0 without samples."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else 0
