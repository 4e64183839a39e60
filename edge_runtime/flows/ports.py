"""What flows need from others, as seen from here: somebody who runs a function, somebody who delivers a command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from edge_runtime.errors import EdgeError
from edge_runtime.events import Event
from edge_runtime.journal.records import Command, Entry, State
from edge_runtime.manifest import FunctionRef


class Emit(msgspec.Struct, frozen=True, tag="emit"):
    """A function emits an event."""

    kind: str
    data: Any


class Order(msgspec.Struct, frozen=True, tag="command"):
    """A function orders a device to do something."""

    device: str
    name: str
    args: Any
    ttl: int
    """Microseconds from the commit to the command's expiry."""
    key: str = ""
    """Where it has one: it replaces older commands to the device with this key."""


class Defer(msgspec.Struct, frozen=True, tag="defer"):
    """A function wants an event to come later."""

    kind: str
    data: Any
    after: int
    """Microseconds."""
    key: str = ""
    """Where it has one: it takes the place of the function's pending one of this device with this key."""


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """A function does not want a deferred event any more."""

    key: str


Effect = Emit | Order | Defer | Cancel


class HttpRequest(msgspec.Struct, frozen=True):
    """A request that a function wants to have sent."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    timeout: int
    """Microseconds for all of it."""


class HttpAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a request: an answer, or an `error` in words."""

    method: str
    url: str
    status: int = 0
    headers: dict[str, str] = {}
    """By their names in lower case."""
    body: bytes = b""
    error: str = ""


class Given(msgspec.Struct):
    """What a function is given besides the events of a batch."""

    serial: bool = False
    """All events have one partition key, the empty one; otherwise it is the device."""
    states: dict[str, State] = {}
    """By partition key, as they stand before the first event. Keys without state are left out."""
    answers: dict[str, list[HttpAnswer]] = {}
    """By event id: the answers to the requests that the function has made on the event so far, in order."""
    secrets: dict[str, str] = {}
    """Those that the app was granted, by name."""

    def key(self, event: Event) -> str:
        """The partition key of an event."""
        return "" if self.serial else event.device


NOTHING = Given()
"""For functions that are given nothing but events."""


class LogLine(msgspec.Struct, frozen=True):
    """A line a function logged or printed."""

    level: str
    """`debug`, `info`, `warning` or `error`."""
    text: str


class Success(msgspec.Struct, frozen=True, tag="ok"):
    """The function returned."""

    effects: list[Effect] = []
    value: Any = None
    """What it returned (plain values)."""
    logs: list[LogLine] = []
    state: dict[str, Entry | None] = {}
    """The entries of its partition key's state that it has changed; None for those that it has removed."""
    metrics: list[tuple[str, float]] = []
    """Values that it has measured, by name."""
    refused: list[str] = []
    """What it tried without the grant for it."""
    micros: int = 0
    """Wall time inside the sandbox, microseconds."""


class Failure(msgspec.Struct, frozen=True, tag="failed"):
    """The function did not return."""

    reason: str
    """`error` (it raised), `timeout`, `memory`, `output` (too much of it), or `crash`."""
    detail: str
    """For the person: the exception and where it was raised, in the user's own file."""
    logs: list[LogLine] = []
    refused: list[str] = []
    """What it tried without the grant for it."""
    micros: int = 0


class Unanswered(msgspec.Struct, frozen=True, tag="unanswered"):
    """The function cannot go on without the answer to a request; it is to be run again with it, from its start."""

    request: HttpRequest
    micros: int = 0


Outcome = Success | Failure | Unanswered


class Unavailable(EdgeError):
    """The function or target cannot be reached just now; trying again later is right, and costs the event nothing."""


class Invoker(Protocol):
    """Runs functions."""

    async def invoke(self, function: FunctionRef, events: Sequence[Event], given: Given = NOTHING) -> Sequence[Outcome]:
        """Run one function over events, in order: an outcome for each of the first, and at least for one.

        There are fewer than events where the outcomes of all would take too much memory. An event sees the state that
        those before it with its partition key have left, within the batch too.
        """
        ...


class Fetcher(Protocol):
    """Sends requests for functions."""

    async def fetch(self, request: HttpRequest, idempotency_key: str) -> HttpAnswer:
        """Send it and answer what came back; whatever goes wrong is an answer with an `error`."""
        ...


class Answers(Protocol):
    """Takes the answers to requests from outside that became events."""

    def waits(self, event: str) -> bool:
        """Whether somebody waits for the answer to the event with this id."""
        ...

    def answer(self, event: str, value: Any, failure: str) -> None:
        """The event has been dealt with, durably: what its function returned, or a word for why it failed."""
        ...


class Outlet(Protocol):
    """Delivers commands."""

    def deliver(self, command: Command) -> bool:
        """Hand a command to its device if it is connected and listening; True if it was handed over."""
        ...


class Target(Protocol):
    """Somewhere outside that takes events."""

    async def send(self, event: Event, value: Any) -> None:
        """Deliver `value`, shaped from `event`, under `event.outside_id`.

        Returns once the receiver has accepted it. Raises `Unavailable` when it may work later, `Rejected` when the
        receiver will never take this one.
        """
        ...


class Rejected(EdgeError):
    """The receiver refused this very event; sending it again will not help."""
