"""Flows over the journal in memory, with the planes on top; time is turned by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from edge_runtime.clock import ManualClock
from edge_runtime.events import Event, Origin
from edge_runtime.flows.deadletters import DeadLetters
from edge_runtime.flows.flow import Done, Failed, Policy, Taken, Turn
from edge_runtime.flows.flows import Flows
from edge_runtime.flows.lineage import Lineage
from edge_runtime.flows.ports import Unavailable
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Command, DeadLetter, Record
from edge_runtime.planes.control import FlowControl
from tests.flows.conftest import BOOT, turns

__all__ = ["BOOT", "Answers", "House", "reading", "turns"]

SECOND = 1_000_000


def reading(seq: int, value: float, *, device: str = "gh-1", kind: str = "climate", received: int = 0) -> Event:
    return Event(device, BOOT, seq, kind, 1_000 + seq, received, {"value": value})


class Answers:
    """A function flow in the open: a command and an emitted event for each reading; it fails where it is told to."""

    start = "earliest"

    def __init__(self, name: str = "app.f", kind: str = "climate", policy: Policy | None = None) -> None:
        self.name = name
        self.kind = kind
        self.policy = policy or Policy(retries=0)
        self.taken: list[tuple[Event, Turn]] = []
        self.broken: Callable[[Event], bool] = lambda event: False
        self.wanted: Callable[[Event], bool] = lambda event: True
        self.away: list[Unavailable] = []
        self.emits = "alarm"
        self.args: Callable[[Event], Any] = lambda event: event.data

    def wants(self, event: Event) -> bool:
        return event.kind == self.kind and self.wanted(event)

    def key(self, event: Event) -> str:
        return event.device

    async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
        if self.away:
            return Taken([], self.away.pop())
        results: list[Done | Failed] = []
        for event in events:
            self.taken.append((event, turn))
            if self.broken(event):
                letter = DeadLetter(self.name, "error", f"{event.data} is too much\nline 3", 7, event.device, event)
                results.append(Failed(letter))
            else:
                results.append(Done(self._effects(event, turn)))
        return Taken(results)

    def settled(self, events: Sequence[Event], turn: Turn) -> None:
        pass

    def _effects(self, event: Event, turn: Turn) -> list[Record]:
        origins = [Origin(self.name, turn.epoch, event.id, index) for index in range(2)]
        effects: list[Record] = [Command(event.device, "fan", self.args(event), event.received, 10**18, origins[0])]
        if self.emits:
            quiet = turn.quiet or event.quiet
            effects.append(
                Event(event.device, b"", 0, self.emits, event.time, 9, event.data, event.hops + 1, origins[1], quiet)
            )
        return effects


class House:
    """What the API stands on."""

    def __init__(self, journal: MemoryJournal | None = None) -> None:
        self.journal = journal or MemoryJournal()
        self.clock = ManualClock()

    async def open(self, letters: int = 20_000) -> House:
        self.flows = Flows(self.journal, await self.journal.tables(), self.clock, random.Random(1))
        self.control = FlowControl(self.flows, self.journal, self.clock)
        self.letters = DeadLetters(self.journal, self.flows, self.clock, letters)
        self.lineage = Lineage(self.journal, self.flows, lambda runner: runner.flow.name.endswith(".route"))
        return self

    async def stop(self) -> None:
        await self.flows.stop()

    def of(self, kind: type) -> list:  # type: ignore[type-arg]
        return [record for record in self.journal.records() if isinstance(record, kind)]

    def offset(self, record: Record) -> int:
        return self.journal.records().index(record)
