"""Reads back what `store` has written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from edge_runtime.ingress.broker.message import Message
from edge_runtime.ingress.broker.session import Entry as Queue
from edge_runtime.ingress.broker.store import ABOUT, About, Queued
from edge_runtime.journal.records import Entry

Entries = Mapping[str, Entry]


def message(entry: Entry) -> Message:
    """A retained message."""
    return msgspec.json.decode(entry[0], type=Message)


def about(entries: Entries) -> About | None:
    """What is known of a session; None for the remains of one that has ended."""
    entry = entries.get(ABOUT)
    return None if entry is None else msgspec.json.decode(entry[0], type=About)


def incoming(entries: Entries) -> set[int]:
    """The packet identifiers of messages of QoS 2 that the client has begun to send."""
    return {int(name[1:]) for name in entries if name.startswith("i")}


def queue(entries: Entries) -> Iterator[Queue]:
    """What waits for the session, in order."""
    for name in sorted(name for name in entries if name.startswith("q")):
        found = msgspec.json.decode(entries[name][0], type=Queued)
        yield Queue(int(name[1:]), found.message, found.qos, found.retain, found.ids, stored=True, kept=True)
