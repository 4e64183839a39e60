"""What the function platform counts."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from copy import copy, deepcopy
from typing import Literal

import msgspec

from edge_runtime.flows.ports import Failure, Outcome

KEPT = 2048
"""How many of the newest measurements are kept of each sort."""


Cause = Literal["timeout", "on_demand", "implicit", "error"]


class Stops(msgspec.Struct):
    """Why calls and instances came to an end other than by returning."""

    timeout: int = 0
    """Calls that ran out of time."""
    on_demand: int = 0
    """Instances that were ended by somebody: another version, a removal, the gateway's stop."""
    implicit: int = 0
    """Instances that were taken back because they were idle or not needed any more."""
    error: int = 0
    """Calls that failed: an exception, too much memory or output, a crash."""


class AppStats(msgspec.Struct):
    """One app, all its versions, since the start."""

    calls: int = 0
    """Events handed to its functions."""
    failures: dict[str, int] = {}
    """By reason."""
    stops: Stops = msgspec.field(default_factory=Stops)
    micros: int = 0
    """Time inside the sandbox."""


class FunctionStats(msgspec.Struct, frozen=True):
    """Figures since the start; times in microseconds, percentiles over the newest 2,048."""

    calls: int
    """Events handed to functions."""
    failures: dict[str, int]
    """By reason."""
    cold_starts: list[int]
    """From the request to load an app to its being ready, the newest last."""
    sandbox_p50: int
    """Time of one event inside the sandbox."""
    sandbox_p99: int
    invoke_p50: int
    """Time of one invocation (one event or a batch) as its caller saw it, waiting included."""
    invoke_p99: int
    restarts: int
    """How often an executor died and was started again."""
    stops: Stops
    apps: dict[str, AppStats]


class Recorder:
    """Takes measurements."""

    def __init__(self) -> None:
        self._calls = 0
        self._failures: Counter[str] = Counter()
        self._apps: dict[str, AppStats] = {}
        self._stops = Stops()
        self._cold: deque[int] = deque(maxlen=KEPT)
        self._sandbox: deque[int] = deque(maxlen=KEPT)
        self._invoke: deque[int] = deque(maxlen=KEPT)

    def loaded(self, micros: int) -> None:
        """An app became ready."""
        self._cold.append(micros)

    def stopped(self, app: str, cause: Cause, count: int) -> None:
        """Instances of an app were ended, or calls cut short."""
        for stops in (self._stops, self._app(app).stops):
            setattr(stops, cause, getattr(stops, cause) + count)

    def invoked(self, app: str, outcomes: Sequence[Outcome], micros: int) -> None:
        """A function of an app answered."""
        stats = self._app(app)
        self._calls += len(outcomes)
        stats.calls += len(outcomes)
        self._invoke.append(micros)
        self._sandbox.extend(outcome.micros for outcome in outcomes[-KEPT:])
        stats.micros += sum(outcome.micros for outcome in outcomes)
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                self._failures[outcome.reason] += 1
                stats.failures[outcome.reason] = stats.failures.get(outcome.reason, 0) + 1
                self.stopped(app, "timeout" if outcome.reason == "timeout" else "error", 1)

    def _app(self, name: str) -> AppStats:
        return self._apps.setdefault(name, AppStats())

    def snapshot(self, restarts: int) -> FunctionStats:
        """The figures now."""
        return FunctionStats(
            calls=self._calls,
            failures=dict(self._failures),
            cold_starts=list(self._cold),
            sandbox_p50=percentile(self._sandbox, 50),
            sandbox_p99=percentile(self._sandbox, 99),
            invoke_p50=percentile(self._invoke, 50),
            invoke_p99=percentile(self._invoke, 99),
            restarts=restarts,
            stops=copy(self._stops),
            apps=deepcopy(self._apps),
        )


def percentile(values: Sequence[int], percent: int) -> int:
    """The nearest-rank percentile; 0 of nothing."""
    if not values:
        return 0
    ordered = sorted(values)
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]
