"""What the function platform counts."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import msgspec

from edge_runtime.flows.ports import Failure, Outcome

KEPT = 2048
"""How many of the newest measurements are kept of each sort."""


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


class Recorder:
    """Takes measurements."""

    def __init__(self) -> None:
        self._calls = 0
        self._failures: Counter[str] = Counter()
        self._cold: deque[int] = deque(maxlen=KEPT)
        self._sandbox: deque[int] = deque(maxlen=KEPT)
        self._invoke: deque[int] = deque(maxlen=KEPT)

    def loaded(self, micros: int) -> None:
        """An app became ready."""
        self._cold.append(micros)

    def invoked(self, outcomes: Sequence[Outcome], micros: int) -> None:
        """A function answered."""
        self._calls += len(outcomes)
        self._invoke.append(micros)
        for outcome in outcomes[-KEPT:]:
            self._sandbox.append(outcome.micros)
        self._failures.update(outcome.reason for outcome in outcomes if isinstance(outcome, Failure))

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
        )


def percentile(values: Sequence[int], percent: int) -> int:
    """The nearest-rank percentile; 0 of nothing."""
    if not values:
        return 0
    ordered = sorted(values)
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]
