"""What a function may reach beyond its events, and the requests that it makes there."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2s
from urllib.parse import quote, quote_plus

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
MAX_EVENT_BYTES = 1 << 20
"""Of answers to one event: beyond it no further request of it is sent."""
MAX_REMEMBERED_BYTES = 8 << 20
"""Of answers that are remembered: beyond it no further event of a batch is let ask."""
OVERHEAD = 500
"""Bytes that an answer takes beside its body, about."""
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
                for form in _forms(value):
                    text = text.replace(form, f"<secret {name}>")
        return text


def _forms(value: str) -> list[str]:
    """How a value may stand in a text: as it is, in Python's or JSON's quotes, in a URL; the longest first."""
    found = {value, repr(value)[1:-1], json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    found |= {quote(value), quote(value, safe=""), quote_plus(value)}
    return sorted(found, key=len, reverse=True)


class TooManyRequests(Exception):
    """A function asks for more on one event than it may."""


class Requests:
    """The requests of one function: sent once for an event, however often the function is run on it.

    Their answers are remembered until the event is settled, or the function has failed on it: then they are sent again.
    What a dry run is told is not remembered beyond it: a live run of the same event must hear something else.
    """

    def __init__(self, flow: str, reach: Reach) -> None:
        self._flow = flow
        self._reach = reach
        self._known: dict[_Key, _Known] = {}
        self._bytes = 0
        self._epoch = -1

    @property
    def crowded(self) -> bool:
        """Whether the answers that are remembered take so much that no further event should ask for some."""
        return self._bytes > MAX_REMEMBERED_BYTES

    def answers(self, event: Event, turn: Turn) -> list[HttpAnswer]:
        """The answers there are for an event, in order."""
        known = self._known.get(_key(event, turn))
        return [] if known is None else known.answers

    async def send(self, event: Event, request: HttpRequest, turn: Turn) -> HttpAnswer:
        """Send the next request of an event and remember its answer. Raises `TooManyRequests`."""
        if not turn.dry and turn.epoch != self._epoch:
            self._epoch = turn.epoch
            for key in [key for key in self._known if not key[1] and key[0] != turn.epoch]:
                self._forget(key)  # of an epoch that is over: nobody will settle them
        place = _key(event, turn)
        known = self._known.setdefault(place, _Known())
        if len(known.answers) > MAX_REQUESTS:
            raise TooManyRequests
        answer = await self._answered(event, request, turn, known)
        known.answers.append(answer)
        if self._known.get(place) is known:
            known.bytes += OVERHEAD + len(answer.body)
            self._bytes += OVERHEAD + len(answer.body)
        while len(self._known) > MEMORY:
            self._forget(next(iter(self._known)))
        return answer

    def withheld(self, event: Event, turn: Turn) -> bool:
        """Whether a request of this event was not sent because its flow only catches up."""
        known = self._known.get(_key(event, turn))
        return known is not None and known.withheld

    def forget(self, event: Event, turn: Turn) -> None:
        """Should it come again, its requests are sent again."""
        self._forget(_key(event, turn))

    def _forget(self, key: _Key) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._bytes -= known.bytes

    async def _answered(self, event: Event, request: HttpRequest, turn: Turn, known: _Known) -> HttpAnswer:
        found = HttpAnswer(request.method, request.url)
        if turn.dry or ((turn.quiet or event.quiet) and request.method not in READING):
            known.withheld = True
            return msgspec.structs.replace(found, error="withheld: the flow only catches up, and sends nothing")
        if self._reach.fetcher is None or not self._reach.grants.http(request.url):
            return msgspec.structs.replace(found, error="this host was not granted")
        if len(known.answers) >= MAX_REQUESTS:
            return msgspec.structs.replace(found, error=f"more than {MAX_REQUESTS} requests on one event")
        if known.bytes > MAX_EVENT_BYTES:
            return msgspec.structs.replace(
                found, error=f"more than {MAX_EVENT_BYTES >> 20} MiB of answers to one event"
            )
        return await self._reach.fetcher.fetch(request, self._idempotency_key(event, len(known.answers)))

    def _idempotency_key(self, event: Event, number: int) -> str:
        """The same for every repeat of the request, in every epoch."""
        return blake2s("\0".join((self._flow, event.id, "http", str(number))).encode(), digest_size=16).hexdigest()


_Key = tuple[int, bool, str]


class _Known(msgspec.Struct):
    """What is known of the requests of one event."""

    answers: list[HttpAnswer] = []
    bytes: int = 0
    withheld: bool = False


def _key(event: Event, turn: Turn) -> _Key:
    return (turn.epoch, turn.dry, event.id)
