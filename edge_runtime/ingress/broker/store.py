"""What the broker keeps over a restart: retained messages, persistent sessions and their queues, in the journal.

They are entries of the journal's state table, as what a function keeps is, under a name that no flow can have: a key
for each retained topic and each session, and in a session's an entry for each message. So neither a change nor a
snapshot writes more than what has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec

from edge_runtime.errors import StorageError
from edge_runtime.ingress.broker.message import Message
from edge_runtime.journal.interface import Appended, Journal
from edge_runtime.journal.records import Entry, StateChange
from edge_runtime.proto import mqtt

KEPT = "$broker"
SESSION, RETAINED, USER = "s:", "r:", "u:"
"""What keys begin with."""
ABOUT = "about"
"""A session's entry with what is known of it; a message's is `q` and its number, a begun one's of QoS 2 `i` and its
packet identifier."""
MAX_APPEND = 500
PAGE = 200

Changes = dict[str, dict[str, Entry | None]]


class Queued(msgspec.Struct, omit_defaults=True):
    """A message in a session's queue; no `message` when only the second half of QoS 2 is left."""

    qos: int
    message: Message | None = None
    retain: bool = False
    ids: tuple[int, ...] = ()


class About(msgspec.Struct, omit_defaults=True):
    """A persistent session."""

    user: str
    client_id: str
    expiry: int
    left: int
    """When its connection ended, microseconds since 1970-01-01 UTC; 0 while there is one."""
    subscriptions: list[tuple[str, int, int]] = []
    """Filter, options, identifier."""
    will: mqtt.Will | None = None


def kept(value: object, expires: int = 0) -> Entry:
    """An entry with `value` as JSON."""
    return msgspec.json.encode(value).decode(), expires


def number_name(number: int) -> str:
    """The entry of a queued message: names sort as the numbers do."""
    return f"q{number:012}"


def begun_name(packet_id: int) -> str:
    """The entry of a message of QoS 2 that a client has begun to send."""
    return f"i{packet_id}"


class Store:
    """Writes changes; those that nobody waits for go out together."""

    def __init__(self, journal: Journal, failed: Callable[[str], None]) -> None:
        """`failed` takes a line for the log."""
        self._journal = journal
        self._failed = failed
        self._later: Changes = {}
        self._pending: set[asyncio.Future[Appended]] = set()

    def put(self, changes: Changes, done: Callable[[bool], None]) -> None:
        """Make changes durable, in the order of the calls; `done` hears in a later turn whether they are."""
        records = [StateChange(KEPT, key, entries, {}) for key, entries in changes.items()]
        for key in changes:
            self._forget_overtaken(key, changes[key])
        last = len(records) - 1 - (len(records) - 1) % MAX_APPEND
        verdicts: list[bool] = []

        def appended(future: asyncio.Future[Appended]) -> None:
            self._pending.discard(future)
            verdicts.append(not future.cancelled() and future.exception() is None)
            if not verdicts[-1] and not future.cancelled():
                error = future.exception()
                self._failed(f"the MQTT broker could not store what it was given: {error}")
                if not isinstance(error, StorageError) and error is not None:
                    raise error
            if len(verdicts) == 1 + last // MAX_APPEND:
                done(all(verdicts))

        for start in range(0, len(records), MAX_APPEND):
            appending = self._journal.append(records[start : start + MAX_APPEND])
            future = asyncio.ensure_future(appending)
            self._pending.add(future)
            future.add_done_callback(appended)

    def later(self, key: str, name: str, entry: Entry | None = None) -> None:
        """Note a change whose loss would do no harm but a repetition; written by `flush`."""
        self._later.setdefault(key, {})[name] = entry

    def drop(self, key: str, names: list[str]) -> None:
        """Note that a key's entries are gone."""
        self._later.setdefault(key, {}).update(dict.fromkeys(names))

    def flush(self) -> None:
        """Write what was noted."""
        if self._later:
            later, self._later = self._later, {}
            self.put(later, _regardless)

    async def settle(self) -> None:
        """Write what was noted, and wait for all that is being written."""
        self.flush()
        while self._pending:
            await asyncio.wait(self._pending)

    async def load(self, prefix: str) -> AsyncIterator[tuple[str, dict[str, Entry]]]:
        """All that is kept under keys with this prefix, without it, in the order of the keys."""
        after = prefix
        while keys := await self._journal.state_keys(KEPT, after, PAGE):
            found = [key for key in keys if key.startswith(prefix)]
            states = await self._journal.states(KEPT, found) if found else {}
            for key in found:
                if key in states:
                    yield key[len(prefix) :], states[key]
            if len(found) < len(keys):
                return
            after = keys[-1]

    def _forget_overtaken(self, key: str, entries: dict[str, Entry | None]) -> None:
        noted = self._later.get(key)
        if noted is not None:
            for name in entries:
                noted.pop(name, None)


def _regardless(_stored: bool) -> None:
    """A change whose loss does no harm."""
