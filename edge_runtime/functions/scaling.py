"""How many instances an app should have, and why. Decides only: time and what was observed are handed in.

Up fast: an app that is behind while its instances are busy gets one more every `PAUSE`. Down slowly: one less once the
others could have done its work easily for all of `CALM`. To `min` (usually none) when it has not been called for
`idle`; its next call brings it back. An alert asks for one more for as long as it fires.
"""

from __future__ import annotations

from collections import deque

import msgspec

from edge_runtime.errors import ConfigError

PAUSE = 2_000_000
"""Microseconds between two steps up: what the first one has brought about must show."""
CALM = 30_000_000
"""Microseconds that an instance must have been superfluous before it goes."""
BUSY = 0.7
"""The part of the time that instances work, above which one more can help; below it, what is slow is something else."""
EASY = 0.5
"""The part of the time that the others would have to work at most, if one went."""
BEHIND = 1_000_000
"""Microseconds that events may wait before an app counts as behind."""
ALERT = 5 * 3600 * 1_000_000
"""Microseconds after which an alert that was not repeated is forgotten: Alertmanager repeats it every 4 hours."""
KEPT = 50
"""Decisions that are kept for each app."""
MAX_ALERTS = 16
"""Alerts of one app that count at a time; more are not heard."""


class ScaleSettings(msgspec.Struct, frozen=True):
    """Between what bounds, and when not to bother."""

    min: int = 0
    """Instances that are kept even while nobody calls."""
    max: int = 1
    """Instances at most: this many calls of the app are under way at a time."""
    idle: int = 600_000_000
    """Microseconds without a call after which the instances above `min` are taken back."""

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.max or self.max < 1:
            raise ConfigError(f"an app cannot have from {self.min} to {self.max} instances")


class Observation(msgspec.Struct, frozen=True):
    """How an app is doing just now."""

    instances: int
    busy: float = 0.0
    """The part of the time since the last observation that its instances worked, 0 to 1."""
    waiting: int = 0
    """Calls that wait for an instance."""
    lag: int = 0
    """Events that its slowest flow has not dealt with."""
    lag_us: int = 0
    """How long ago the oldest of them arrived, microseconds."""
    rate: float = 0.0
    """Events a second that its flows have dealt with of late."""
    quiet_us: int = 0
    """How long ago it was last called, microseconds."""


class Decision(msgspec.Struct, frozen=True):
    """A change of the number of instances."""

    time: int
    """Microseconds since 1970-01-01 UTC."""
    before: int
    after: int
    reason: str


class Scaler:
    """Decides for one app. `monotonic` moments are in microseconds; `now` is only noted."""

    def __init__(self, settings: ScaleSettings) -> None:
        self.settings = settings
        self.decisions: deque[Decision] = deque(maxlen=KEPT)
        self._alerts: dict[str, tuple[int, str]] = {}
        """By what identifies an alert: until when it counts, and what it says."""
        self._asked = 0
        """How many instances of the present number are there because of alerts."""
        self._total: int | None = None
        self._last_up: int | None = None
        self._calm_since: int | None = None

    def alert(self, identity: str, says: str, firing: bool, monotonic: int) -> bool:
        """An alert fires (again) or is resolved; answers whether that was news."""
        self._expire(monotonic)
        if not firing:
            return self._alerts.pop(identity, None) is not None
        new = identity not in self._alerts
        if new and len(self._alerts) >= MAX_ALERTS:
            return False
        self._alerts[identity] = (monotonic + ALERT, says)
        return new

    def decide(self, seen: Observation, monotonic: int, now: int) -> int:
        """How many instances the app should have from now on."""
        self._expire(monotonic)
        before = seen.instances
        if self._total is not None and before > self._total:
            self._note(now, self._total, before, "it was called")
        if before == 0:
            self._asked = 0
        decided = before if self._total is None else self._total
        taken_over = 0 < before < decided
        own = max(0, (decided if taken_over else before) - self._asked)
        wish, reason = self._wish(seen, own, monotonic)
        reason = reason or "as many as the version before it" * taken_over
        asked = min(len(self._alerts), self.settings.max - min(wish, self.settings.max))
        if asked > self._asked:
            reason = f"{reason}; " * bool(reason) + f"alert: {next(reversed(self._alerts.values()))[1]}"
        elif asked < self._asked:
            reason = f"{reason}; " * bool(reason) + "an alert is over"
        after = min(max(wish + asked, self.settings.min), self.settings.max)
        self._asked = asked
        self._total = after
        if after != before:
            self._note(now, before, after, reason or f"between {self.settings.min} and {self.settings.max}")
        return after

    def refused(self, instances: int, why: str, now: int) -> None:
        """What was decided could not be done; the app has so many instances now."""
        if self._total is not None and self._total != instances:
            self._note(now, self._total, instances, f"it could not be done: {why}")
        self._total = instances
        self._asked = min(self._asked, instances)

    def _wish(self, seen: Observation, own: int, monotonic: int) -> tuple[int, str]:
        """How many instances its own load calls for."""
        settings = self.settings
        if own < settings.min:
            return settings.min, f"at least {settings.min}"
        if seen.quiet_us >= settings.idle:
            return settings.min, f"not called for {_duration(seen.quiet_us)}"
        if seen.instances == 0:
            return 0, ""
        own = max(1, own)
        if own and seen.busy >= BUSY and (behind := self._behind(seen)):
            self._calm_since = None
            if self._last_up is not None and monotonic - self._last_up < PAUSE:
                return own, ""
            if seen.instances >= settings.max:
                return own, ""
            self._last_up = monotonic
            return own + 1, f"{behind} while its {_instances(seen.instances)} worked {seen.busy:.0%} of the time"
        others = seen.instances - 1
        if own > max(1, settings.min) and others and seen.busy * seen.instances / others <= EASY and not seen.waiting:
            if self._calm_since is None:
                self._calm_since = monotonic
            if monotonic - self._calm_since >= CALM:
                self._calm_since = monotonic
                return own - 1, f"its {_instances(seen.instances)} worked {seen.busy:.0%} of the time"
        else:
            self._calm_since = None
        return own, ""

    def _behind(self, seen: Observation) -> str:
        """In what way it is behind; empty where it is not."""
        if seen.waiting > seen.instances:
            return f"{seen.waiting} calls waited"
        if seen.lag and seen.lag_us >= BEHIND:
            return f"{seen.lag} events, {_duration(seen.lag_us)}, behind at {seen.rate:.0f} events/s"
        return ""

    def _expire(self, monotonic: int) -> None:
        self._alerts = {name: alert for name, alert in self._alerts.items() if alert[0] > monotonic}

    def _note(self, now: int, before: int, after: int, reason: str) -> None:
        self.decisions.append(Decision(now, before, after, reason))


def _instances(number: int) -> str:
    return "instance" if number == 1 else f"{number} instances"


def _duration(micros: int) -> str:
    seconds = micros / 1e6
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
