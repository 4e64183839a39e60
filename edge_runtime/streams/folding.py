"""Has an app fold what its own aggregates have gathered: in the sandbox, within the limits of its functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_runtime.clock import Clock
from edge_runtime.events import FOLD, GATEWAY, Event
from edge_runtime.flows.flow import StateLost
from edge_runtime.flows.ports import Failure, Invoker, Outcome, Success, Unavailable
from edge_runtime.manifest import FunctionRef
from edge_runtime.streams.messages import Fold, Folded

BATCH = 64
"""What is handed to the sandbox at a time."""
RETRIES = 2
PASSING = ("timeout", "memory", "crash")
"""What can be the machine's fault, and so is tried again."""


class Folding:
    """A `Folder` for a function of an app's version. `say` takes a line for the app's log."""

    def __init__(self, invoker: Invoker, function: FunctionRef, clock: Clock, say: Callable[[str], None]) -> None:
        self._invoker = invoker
        self._function = function
        self._clock = clock
        self._say = say

    async def __call__(self, folds: Sequence[Fold]) -> list[Folded]:
        """Raises `StateLost` where the sandbox cannot be had just now: nothing was taken then, and it is tried anew."""
        now = self._clock.now()
        events = [
            Event(GATEWAY, b"", number, FOLD, now, now, {"name": f.name, "parts": f.parts, "values": f.values})
            for number, f in enumerate(folds)
        ]
        outcomes: list[Outcome] = []
        while len(outcomes) < len(events):
            outcomes += await self._invoked(events[len(outcomes) : len(outcomes) + BATCH])
        return [await self._folded(event, outcome) for event, outcome in zip(events, outcomes, strict=True)]

    async def _folded(self, event: Event, outcome: Outcome) -> Folded:
        for _ in range(RETRIES):
            if not isinstance(outcome, Failure) or outcome.reason not in PASSING:
                break
            [outcome, *_] = await self._invoked([event])
        if not isinstance(outcome, Success | Failure):
            return Folded(failed="error: it makes requests, which an aggregate cannot")
        for line in outcome.logs:
            self._say(line.text)
        if isinstance(outcome, Failure):
            return Folded(failed=f"{outcome.reason}: {outcome.detail}")
        return Folded(outcome.value)

    async def _invoked(self, events: Sequence[Event]) -> Sequence[Outcome]:
        try:
            return await self._invoker.invoke(self._function, events)
        except Unavailable as error:
            raise StateLost from error
