"""Business metrics: what functions measure, per app and name, since the gateway started."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

MAX_NAMES = 200
"""Names of one app; values under further ones are counted, not kept."""


class Metric(msgspec.Struct):
    """The values noted under a name."""

    count: int
    sum: float
    last: float
    least: float
    greatest: float
    time: int
    """When the last one was noted, microseconds since 1970."""


class Metrics:
    """Takes values and knows them by app and name."""

    def __init__(self) -> None:
        self._apps: dict[str, dict[str, Metric]] = {}
        self.left_out: dict[str, int] = {}
        """By app: how many values had a name too many."""

    def note(self, app: str, values: Iterable[tuple[str, float]], now: int) -> None:
        """Take the values of a call whose effects are stored."""
        known = self._apps.setdefault(app, {})
        for name, value in values:
            metric = known.get(name)
            if metric is None:
                if len(known) >= MAX_NAMES:
                    self.left_out[app] = self.left_out.get(app, 0) + 1
                    continue
                known[name] = Metric(1, value, value, value, value, now)
                continue
            metric.count += 1
            metric.sum += value
            metric.last, metric.time = value, now
            metric.least, metric.greatest = min(metric.least, value), max(metric.greatest, value)

    def of(self, app: str) -> dict[str, Metric]:
        """An app's metrics by name."""
        return dict(sorted(self._apps.get(app, {}).items()))
