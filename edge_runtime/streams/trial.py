"""A computation tried out in this process, without a gateway: for tests of apps, and for our own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from edge_runtime.events import GATEWAY, TICK, Event
from edge_runtime.streams.check import check
from edge_runtime.streams.machine import Pane, Result
from edge_runtime.streams.messages import Fold, Folded, Taken
from edge_runtime.streams.running import STEP
from edge_runtime.streams.session import Answer, Session
from edge_runtime.streamspec import Stream

Part = Callable[[str, list[Any], list[Any]], Any]
"""Makes one part of an aggregate's parts and values; by its name."""
BASE = 1_699_920_000_000_000
"""Second 0: a midnight (2023-11-14 UTC), microseconds."""


class Trial:
    """One stream; ticks come as they would in the gateway."""

    def __init__(self, stream: Stream, tags: Mapping[str, Mapping[str, str]], part: Part | None = None) -> None:
        check(stream)
        self._session = Session(stream, lambda device: tags.get(device, {}))
        self._part = part
        self._now = 0
        self._wakes: int | None = None
        self._due: int | None = None
        self._tick = TICK + "trial"
        self.results: list[Result] = []

    def event(self, event: Event) -> None:
        """An event comes; before it, the ticks that are due."""
        self.until(event.received)
        self._take(event)

    def until(self, received: int) -> None:
        """Let the gateway's time go on."""
        while self._due is not None and self._due <= received:
            due = self._due
            self._due = None
            self._take(Event(GATEWAY, b"", 0, self._tick, due, due, {"due": due}))

    def _take(self, event: Event) -> None:
        taken = Taken(0, [], 0, None)
        while not taken.events:
            taking = self._session.take([event])
            try:
                needs = next(taking)
                while True:
                    needs = taking.send(self._answer(needs))
            except StopIteration as ended:
                taken = ended.value
                self.results += taken.results
        if taken.wakes is not None and self._due is None:
            self._due = max(taken.now, min(taken.wakes, taken.now + STEP))

    def _answer(self, needs: list[str] | list[Fold]) -> Answer:
        if needs and isinstance(needs[0], Fold):
            assert self._part is not None
            return [Folded(self._part(fold.name, fold.parts, fold.values)) for fold in needs if isinstance(fold, Fold)]
        return dict.fromkeys(name for name in needs if isinstance(name, str))


def computed(
    plain: Mapping[str, Any],
    events: Iterable[tuple[Any, ...]],
    until: float | None,
    tags: Mapping[str, Mapping[str, str]],
    part: Part | None = None,
) -> list[dict[str, Any]]:
    """The panes of a stream, as the data of their events; `edge.testing.panes` says what the rest is."""
    trial = Trial(msgspec.convert(plain, Stream), tags, part)
    for number, (when, kind, data, *more) in enumerate(events):
        taken, arrived = when if isinstance(when, tuple) else (when, when)
        device = more[0] if more else "test"
        trial.event(Event(device, b"8 bytes.", number, kind, _micros(taken), _micros(arrived), data))
    if until is not None:
        trial.until(_micros(until))
    return [
        {
            "key": result.key,
            "start": result.start,
            "end": result.end,
            "values": result.values,
            "timing": result.timing,
            "number": result.number,
            "retraction": result.retraction,
        }
        for result in trial.results
        if isinstance(result, Pane)
    ]


def _micros(seconds: float) -> int:
    return BASE + round(seconds * 1_000_000)
