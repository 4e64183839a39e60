"""What a flow is: anything that consumes the journal's events and produces effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from edge_runtime.events import Event
from edge_runtime.flows.ports import Unavailable
from edge_runtime.flows.states import NoStates, States
from edge_runtime.journal.records import DeadLetter, Record, StateChange


class Policy(msgspec.Struct, frozen=True):
    """What happens to an event on which the flow fails."""

    retries: int = 2
    """How often it is tried again, with growing pauses; meanwhile only events with its partition key wait."""
    on_error: str = "skip"
    """Then: `skip` it to the dead letters, `hold` its partition key back, or `stop` the flow."""


class Turn(msgspec.Struct, frozen=True):
    """The circumstances of a batch."""

    epoch: int
    quiet: bool = False
    """The flow is catching up: nothing is to be sent to the outside."""
    dry: bool = False
    """Only to see what would happen: nothing is kept, so nothing is to be logged as if it had happened."""
    states: States = NoStates()
    """What the flow keeps, as the batches before have left it."""


class Done(msgspec.Struct, frozen=True):
    """An event was dealt with; its effects are to be committed together with the progress."""

    effects: list[Record] = []


class Failed(msgspec.Struct, frozen=True):
    """The flow failed on an event."""

    letter: DeadLetter
    retry: bool = True
    """Whether trying again can help."""


class Taken(msgspec.Struct, frozen=True):
    """What became of a batch of events: a result for each, from the first on."""

    results: list[Done | Failed]
    waiting: Unavailable | None = None
    """Why there are fewer results than events, if something is out of reach for now: the runner pauses and tries again.
    Without it, the rest stands behind a failure among the results, and is taken again once that has been dealt with."""
    commit: bool = False
    """A checkpointed flow holds so much that is not stored that it is to be committed with these, effects or not."""


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

    @property
    def policy(self) -> Policy:
        """What happens to events on which it fails."""
        ...

    def wants(self, event: Event) -> bool:
        """Whether the event concerns this flow; cheap and without effects."""
        ...

    def key(self, event: Event) -> str:
        """The partition key: events with the same key are taken in order, one after the other."""
        ...

    async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
        """Deal with events in order. It may be called again with events whose effects were not committed."""
        ...

    def settled(self, events: Sequence[Event], turn: Turn) -> None:
        """These events of a turn will not come again: what became of them is durable, or costs nothing to repeat."""
        ...


class StateLost(Exception):
    """What a checkpointed flow held in memory is gone: it has to go on from its last commit.

    With a text, the flow itself has failed on what it was given.
    """


@runtime_checkable
class Checkpointed(Flow, Protocol):
    """A flow that holds in memory what follows from many events, and stores it when its progress is committed.

    Its state and its progress are one commit, so neither is ever ahead of the other. It has one lane in effect (one
    partition key), never fails on an event, and everything that one `take` has answered is committed together. `take`
    raises `StateLost` where the memory is gone.
    """

    async def checkpoint(self, settling: Sequence[Event], at: int) -> list[StateChange] | None:
        """What to store with the progress; None while it has taken more than what has been settled and `settling`.

        `at` is the offset up to which that progress goes. Raises `StateLost`.
        """
        ...

    def checkpointed(self) -> None:
        """The last checkpoint is durable."""
        ...

    def let_go(self) -> None:
        """Forget what is in memory: the next `take` goes on from what is stored."""
        ...

    async def reached(self, states: States) -> int | None:
        """The offset up to which the stored state goes; None if there is none."""
        ...
