"""What a function may reach beyond its events, and the requests that it makes there."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2s

import msgspec

from edge_runtime.events import Event
from edge_runtime.flows.flow import Turn
from edge_runtime.flows.metrics import Metrics
from edge_runtime.flows.ports import Fetcher, HttpAnswer, HttpRequest
from edge_runtime.grants import Grants

MEMORY = 1000
"""Events whose answers are remembered until they are settled."""
MAX_REQUESTS = 8
"""Requests of one event."""
SHORTEST_MASKED = 4
"""Characters: a shorter secret is none, and hiding it would garble every line."""
READING = frozenset({"GET", "HEAD"})
"""Methods that only read (RFC 9110, 9.2.1): they are sent while a flow catches up."""


class Reach(msgspec.Struct, frozen=True):
    """What an app's functions may reach, and through whom."""

    grants: Grants = Grants()
    secret: Callable[[str], str | None] = lambda name: None
    """A secret's value; None while it has none."""
    fetcher: Fetcher | None = None
    metrics: Metrics | None = None
    max_state: int = 64 * 1024
    """Bytes that a function keeps of one partition key, names and values."""

    def secrets(self) -> dict[str, str]:
        """The secrets that were granted and have a value."""
        return {name: value for name in self.grants.secrets if (value := self.secret(name)) is not None}

    def masked(self, text: str) -> str:
        """A text without the secrets that the app knows."""
        for name in self.grants.secrets:
            value = self.secret(name)
            if value is not None and len(value) >= SHORTEST_MASKED:
                text = text.replace(value, f"<secret {name}>")
        return text


class Requests:
    """The requests of one function: sent once for an event, however often the function is run on it.

    Their answers are remembered until the event is settled, or the function has failed on it: then they are sent again.
    """

    def __init__(self, flow: str, reach: Reach) -> None:
        self._flow = flow
        self._reach = reach
        self._answers: dict[tuple[int, str], list[HttpAnswer]] = {}
        self._withheld: set[tuple[int, str]] = set()

    def answers(self, event: Event, turn: Turn) -> list[HttpAnswer]:
        """The answers there are for an event, in order."""
        return self._answers.get((turn.epoch, event.id), [])

    async def send(self, event: Event, request: HttpRequest, turn: Turn) -> HttpAnswer:
        """Send the next request of an event and remember its answer."""
        key = (turn.epoch, event.id)
        known = self._answers.setdefault(key, [])
        answer = await self._answered(event, request, turn, len(known))
        if answer.error and (turn.quiet or turn.dry or event.quiet):
            self._withheld.add(key)
        known.append(answer)
        while len(self._answers) > MEMORY:
            self.forget(*next(iter(self._answers)))
        return answer

    def withheld(self, event: Event, turn: Turn) -> bool:
        """Whether a request of this event was not sent because its flow only catches up."""
        return (turn.epoch, event.id) in self._withheld

    def forget(self, epoch: int, event: str) -> None:
        """Should it come again, its requests are sent again."""
        self._answers.pop((epoch, event), None)
        self._withheld.discard((epoch, event))

    async def _answered(self, event: Event, request: HttpRequest, turn: Turn, number: int) -> HttpAnswer:
        found = HttpAnswer(request.method, request.url)
        if turn.dry or ((turn.quiet or event.quiet) and request.method not in READING):
            return msgspec.structs.replace(found, error="withheld: the flow only catches up, and sends nothing")
        if self._reach.fetcher is None or not self._reach.grants.http(request.url):
            return msgspec.structs.replace(found, error="this host was not granted")
        if number >= MAX_REQUESTS:
            return msgspec.structs.replace(found, error=f"more than {MAX_REQUESTS} requests on one event")
        return await self._reach.fetcher.fetch(request, self._key(event, number))

    def _key(self, event: Event, number: int) -> str:
        """The same for every repeat of the request, in every epoch."""
        return blake2s("\0".join((self._flow, event.id, "http", str(number))).encode(), digest_size=16).hexdigest()
