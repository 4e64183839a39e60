"""Parts that the tests of the flows share: a flow that does as it is told, and turns of the event loop."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.events import Event, Origin
from edge_runtime.flows.flow import Done, Failed, Policy, Taken, Turn
from edge_runtime.flows.flows import Flows
from edge_runtime.flows.ports import Unavailable
from edge_runtime.flows.runner import LONGEST_WAIT
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Command, DeadLetter, State, StateChange

T = TypeVar("T")
BOOT = b"8 bytes."


def event(seq: int, device: str = "gh-1", kind: str = "climate") -> Event:
    return Event(device, BOOT, seq, kind, 1_000 + seq, 2_000, {"n": seq})


class Orders:
    """A flow that answers each event of its kind with a command, and remembers what it was given."""

    def __init__(
        self, name: str = "app.f", kind: str = "climate", start: str = "earliest", policy: Policy | None = None
    ) -> None:
        self.name = name
        self.kind = kind
        self.start = start
        self.taken: list[Event] = []
        self.silent = False
        self.out_of_reach: Callable[[Event], bool] = lambda event: False
        self.broken: Callable[[Event], bool] = lambda event: False
        self.policy = policy or Policy()

    def wants(self, event: Event) -> bool:
        return event.kind == self.kind

    def key(self, event: Event) -> str:
        return event.device

    async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
        results: list[Done | Failed] = []
        for item in events:
            if self.out_of_reach(item):
                return Taken(results, Unavailable("the target is away"))
            self.taken.append(item)
            if self.broken(item):
                results.append(Failed(DeadLetter(self.name, "error", "it is broken", 1, item.device, item)))
            elif self.silent:
                results.append(Done())
            else:
                origin = Origin(self.name, turn.epoch, item.id, 0)
                results.append(Done([Command(item.device, "fan", {}, 1, 10**18, origin)]))
        return Taken(results)

    def settled(self, events: Sequence[Event], turn: Turn) -> None:
        pass


class Keeping(Orders):
    """Keeps, for each device, the sequence numbers it has dealt with, and says them with each command."""

    async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
        taken = await super().take(events, turn)
        states = await turn.states.of(self.name, {event.device for event in events})
        return Taken([self._kept(*pair, states) for pair in zip(events, taken.results, strict=False)], taken.waiting)

    def _kept(self, event: Event, result: Done | Failed, states: dict[str, State]) -> Done | Failed:
        if isinstance(result, Failed):
            return result
        before = states.get(event.device, {}).get("seen")
        after = (json.dumps([*json.loads(before[0] if before else "[]"), event.seq]), 0)
        states[event.device] = {"seen": after}
        (command,) = result.effects
        change = StateChange(self.name, event.device, {"seen": after}, {"seen": before})
        return Done([msgspec.structs.replace(command, args=json.loads(after[0])), change])


class House:
    """Flows over the restricted journal, in virtual time."""

    def __init__(self, journal: MemoryJournal | None = None) -> None:
        self.journal = journal or MemoryJournal()
        self.clock = ManualClock()

    async def open(self) -> House:
        self.flows = Flows(self.journal, await self.journal.tables(), self.clock, random.Random(1))
        return self

    async def after_restart(self) -> House:
        """The same after a clean stop and a start."""
        await self.flows.stop()
        return await House(MemoryJournal(self.journal.records())).open()

    async def after_crash(self) -> House:
        """The same after everything was lost that the journal does not hold."""
        records = self.journal.records()
        for runner in self.flows.runners.values():
            for task in runner._tasks():
                task.cancel()
        return await House(MemoryJournal(records)).open()

    async def time(self, rounds: int = 1) -> None:
        """Let so much time pass that everything that waits is due."""
        for _ in range(rounds):
            self.clock.advance(LONGEST_WAIT)
            await turns(60)

    def of(self, kind: type[T]) -> list[T]:
        """The records of a kind, in order."""
        return [record for record in self.journal.records() if isinstance(record, kind)]

    def causes(self) -> list[str]:
        """The events that commands answer to, in the order of the commands."""
        return [command.origin.cause for command in self.of(Command)]


@pytest.fixture
async def house() -> House:
    return await House().open()


async def turns(number: int = 50) -> None:
    """Let everything that is ready run; no time passes."""
    for _ in range(number):
        await asyncio.sleep(0)
