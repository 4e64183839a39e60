"""A function that answers requests, as a flow: whoever waits for its answer is told once that is durable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edge_runtime.clock import Clock
from edge_runtime.events import Event
from edge_runtime.flows.flow import Done, Failed, Turn
from edge_runtime.flows.function import FunctionFlow
from edge_runtime.flows.ports import Answers, Invoker, Outcome, Success
from edge_runtime.flows.reach import Reach
from edge_runtime.flows.timers import Timers
from edge_runtime.journal.records import State
from edge_runtime.manifest import Endpoint


class EndpointFlow(FunctionFlow):
    """Implements `Flow`. What the function has answered is handed to `answers` behind the commit of its effects."""

    def __init__(
        self,
        app: str,
        version: str,
        trigger: Endpoint,
        *,
        matches: Callable[[Any], bool],
        invoker: Invoker,
        clock: Clock,
        answers: Answers,
        reach: Reach | None = None,
        timers: Timers | None = None,
    ) -> None:
        super().__init__(
            app, version, trigger, matches=matches, invoker=invoker, clock=clock, reach=reach, timers=timers
        )
        self._answers = answers
        self._ready: dict[str, tuple[Any, str]] = {}
        """By event, as long as somebody waits: what was returned, and why nothing was."""

    def settled(self, events: Sequence[Event], turn: Turn) -> None:
        """As `Flow.settled`: now the answers stand."""
        super().settled(events, turn)
        for event in events:
            ready = self._ready.pop(event.id, None)
            if ready is not None:
                self._answers.answer(event.id, *ready)

    def _result(self, event: Event, outcome: Outcome, turn: Turn, states: dict[str, State]) -> Done | Failed:
        result = super()._result(event, outcome, turn, states)
        if not turn.dry and self._answers.waits(event.id):
            failure = result.letter.reason if isinstance(result, Failed) else ""
            self._ready[event.id] = (outcome.value if isinstance(outcome, Success) else None, failure)
        return result
