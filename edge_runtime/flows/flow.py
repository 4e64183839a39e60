"""What a flow is: anything that consumes the journal's events and produces effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from edge_runtime.events import Event
from edge_runtime.flows.ports import Unavailable
from edge_runtime.journal.records import Record


class Taken(msgspec.Struct, frozen=True):
    """What became of a batch of events."""

    effects: list[Record]
    """To be committed together with the progress."""
    done: int
    """How many events of the batch, from its start, have been dealt with."""
    waiting: Unavailable | None = None
    """Why the rest was not: something is out of reach for now. The runner tries again, with back-off."""


class Flow(Protocol):
    """One consumer of the journal."""

    @property
    def name(self) -> str:
        """Unique among the gateway's flows: `<app>.<function>`."""
        ...

    @property
    def start(self) -> str:
        """Where the flow begins when it is new: `latest` or `earliest`."""
        ...

    def wants(self, event: Event) -> bool:
        """Whether the event concerns this flow; cheap and without effects."""
        ...

    async def take(self, events: Sequence[Event], epoch: int) -> Taken:
        """Deal with events in order. It may be called again with events whose effects were not committed."""
        ...
