"""Parts that the tests of the flows share: a flow that does as it is told, and turns of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from edge_runtime.events import Event, Origin
from edge_runtime.flows.flow import Done, Failed, Policy, Taken, Turn
from edge_runtime.flows.ports import Unavailable
from edge_runtime.journal.records import Command, DeadLetter

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


async def turns(number: int = 50) -> None:
    """Let everything that is ready run; no time passes."""
    for _ in range(number):
        await asyncio.sleep(0)
