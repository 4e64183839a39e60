"""What there is to be done by an executor, and how far it has come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from edge_runtime.events import Event
from edge_runtime.flows.ports import Failure, Given, Outcome, Success
from edge_runtime.functions.budget import Budget
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.outcomes import encode_event, encode_given

MAX_EVENTS = 256
"""Events handed over at once. More gains nothing (measured), and what an executor does not begin is sent again."""

MAX_BYTES = 1024 * 1024
"""JSON handed over at once, unless a single event is larger."""

MAX_SAID = 8 * 1024 * 1024
"""JSON of outcomes of one run, about: of which the gateway makes many times as much, and can store only so much."""


class LoadFailed(Exception):
    """The guest refused an app; `problem` is its JSON, or empty."""

    def __init__(self, problem: bytes, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem


class Job:
    """Something to be done by an executor for an app's instance; `future` takes the result."""

    def __init__(self, app: int, budget: Budget | None = None) -> None:
        self.app = app
        """The instance's number."""
        self.budget = budget
        """Where the app's share of the processor is limited, and what is done counts against it."""
        self.future: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        """Tell whoever waits that it will not be done."""
        if not self.future.done():
            self.future.set_exception(error)


class LoadJob(Job):
    """Load an app."""

    def __init__(self, app: int, source: str, limits: Limits) -> None:
        super().__init__(app)
        self.source = source
        self.limits = limits
        self.suspect = False
        """An executor died while it loaded this."""


class UnloadJob(Job):
    """Forget an app."""


class RunJob(Job):
    """Run a function over events, in pieces."""

    def __init__(
        self,
        app: int,
        function: str,
        events: Sequence[Event],
        given: Given,
        limits: Limits,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(app, budget)
        self.function = function
        self.events = events
        self.given = given
        self.limits = limits
        self._states = {key: dict(state) for key, state in given.states.items()}
        """As the outcomes so far have left them."""
        self.outcomes: list[Outcome] = []
        self.said = 0
        """Bytes of outcomes so far."""
        self.suspects = 0
        """How many of the next events were in the hands of an executor that died: they go one by one."""
        self._encoded: dict[int, bytes] = {}

    @property
    def done(self) -> bool:
        """Whether it is over: every event has an outcome, or there is no room for more."""
        return len(self.outcomes) >= len(self.events) or self.said > MAX_SAID

    def encode_ahead(self) -> None:
        """Encode what `chunk` will ask for."""
        size = 0
        for index, event in enumerate(self.events[:MAX_EVENTS]):
            try:
                part = self._encoded[index] = encode_event(event)
            except (TypeError, ValueError, RecursionError):
                return
            size += len(part)
            if size > MAX_BYTES:
                return

    def chunk(self) -> list[bytes]:
        """The next events, encoded. Those that cannot be encoded before them fail here."""
        parts: list[bytes] = []
        size = 0
        index = len(self.outcomes)
        while index < len(self.events) and len(parts) < (1 if self.suspects else MAX_EVENTS):
            try:
                part = self._encoded.pop(index, None) or encode_event(self.events[index])
            except (TypeError, ValueError, RecursionError) as error:
                if parts:
                    break
                self.take([Failure("error", f"the event's data cannot be handed to a function: {error}")])
                index += 1
                continue
            self._encoded[index] = part
            if parts and size + len(part) > MAX_BYTES:
                break
            parts.append(part)
            size += len(part)
            index += 1
        return parts

    def chunk_given(self, count: int) -> str:
        """What is given with the next `count` events, for the guest."""
        start = len(self.outcomes)
        return encode_given(self.given, self._states, self.events[start : start + count])

    def take(self, outcomes: Sequence[Outcome]) -> None:
        """Note the outcomes of the next events."""
        for event, outcome in zip(self.events[len(self.outcomes) :], outcomes, strict=False):
            if isinstance(outcome, Success) and outcome.state:
                state = self._states.setdefault(self.given.key(event), {})
                for name, entry in outcome.state.items():
                    if entry is None:
                        state.pop(name, None)
                    else:
                        state[name] = entry
        self.outcomes += outcomes
        self.suspects = max(0, self.suspects - len(outcomes))
