"""The journal's tree, `/devices/...`, as programs see it: events come out of it, commands go into it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import StorageError
from edge_runtime.events import NAME, Event, Origin
from edge_runtime.ingress.broker.broker import Broker, Settle
from edge_runtime.ingress.broker.message import SECOND, Message
from edge_runtime.journal.interface import Appended, Journal
from edge_runtime.journal.records import Command, Stored
from edge_runtime.proto.mqtt import Properties, Reason

COMMAND_LIFE = 60
"""Seconds that a command waits for its device, unless its message says otherwise."""
LONGEST_LIFE = 86_400
_JSON = Properties(payload_format=1, content_type="application/json")


class Known(Protocol):
    """Knows which devices there are."""

    def __contains__(self, device: str, /) -> bool: ...


class DeviceTree:
    """Between the journal and the broker."""

    def __init__(self, broker: Broker, journal: Journal, devices: Known, clock: Clock) -> None:
        self._broker = broker
        self._journal = journal
        self.devices = devices
        """Those that there are."""
        self._clock = clock
        journal.listen(self._hear)

    def _hear(self, stored: Sequence[Stored]) -> None:
        tree = self._broker.tree
        # Without anybody who could want them this costs a look at two dictionaries for each batch.
        if not tree.count or not tree.concerns(""):
            return
        for item in stored:
            record = item.record
            if type(record) is Event and not record.quiet:
                topic = f"/devices/{record.device}/events/{record.kind}"
                direct, groups = tree.match(topic)
                if direct or groups:
                    self._broker.announce(Message(topic, event_json(record), 1, properties=_JSON))

    def command(self, user: str, topic: str, payload: bytes, expiry: int | None, settle: Settle) -> None:
        """Take what a program has published below `/devices/`: only commands may be."""
        parts = topic.split("/")
        if len(parts) != 5 or parts[3] != "commands" or not NAME.fullmatch(parts[4]) or parts[2] not in self.devices:
            settle(Reason.TOPIC_NAME_INVALID)
            return
        try:
            args = msgspec.json.decode(payload) if payload else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            settle(Reason.PAYLOAD_FORMAT_INVALID)
            return
        now = self._clock.now()
        life = COMMAND_LIFE if expiry is None else min(expiry, LONGEST_LIFE)
        origin = Origin(f"mqtt:{user}", 0, secrets.token_hex(16), 0)
        command = Command(parts[2], parts[4], args, now, now + life * SECOND, origin)
        appending = asyncio.ensure_future(self._journal.append([command]))
        appending.add_done_callback(partial(_appended, settle))


def _appended(settle: Settle, appending: asyncio.Future[Appended]) -> None:
    try:
        appending.result()
    except (StorageError, asyncio.CancelledError):
        settle(None)
    except BaseException:
        settle(None)
        raise  # a defect: the event loop reports it, and nothing was acknowledged
    else:
        settle(int(Reason.SUCCESS))


def event_json(event: Event) -> bytes:
    """An event for programs: `id`, `device`, `kind`, `time`, `received` and `data`; bytes as base64, NaN as null."""
    form = {
        "id": event.id,
        "device": event.device,
        "kind": event.kind,
        "time": event.time,
        "received": event.received,
        "data": event.data,
    }
    return msgspec.json.encode(form)
