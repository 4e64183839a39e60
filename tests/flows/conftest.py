"""Parts that the tests of the flows share: a flow that does as it is told, and turns of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from edge_runtime.events import Event, Origin
from edge_runtime.flows.flow import Taken
from edge_runtime.flows.ports import Unavailable
from edge_runtime.journal.records import Command, Record

BOOT = b"8 bytes."


def event(seq: int, device: str = "gh-1", kind: str = "climate") -> Event:
    return Event(device, BOOT, seq, kind, 1_000 + seq, 2_000, {"n": seq})


class Orders:
    """A flow that answers each event of its kind with a command, and remembers what it was given."""

    def __init__(self, name: str = "app.f", kind: str = "climate", start: str = "earliest") -> None:
        self.name = name
        self.kind = kind
        self.start = start
        self.taken: list[Event] = []
        self.silent = False
        self.out_of_reach: Callable[[Event], bool] = lambda event: False

    def wants(self, event: Event) -> bool:
        return event.kind == self.kind

    async def take(self, events: Sequence[Event], epoch: int) -> Taken:
        effects: list[Record] = []
        for done, item in enumerate(events):
            if self.out_of_reach(item):
                return Taken(effects, done, Unavailable("the target is away"))
            self.taken.append(item)
            if not self.silent:
                origin = Origin(self.name, epoch, item.id, 0)
                effects.append(Command(item.device, "fan", {}, 1, 10**18, origin))
        return Taken(effects, len(events))


async def turns(number: int = 50) -> None:
    """Let everything that is ready run; no time passes."""
    for _ in range(number):
        await asyncio.sleep(0)
