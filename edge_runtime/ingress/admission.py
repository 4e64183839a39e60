"""Admission: what a device sends becomes durable records, whichever front door it came through.

The caller has made sure who the device is; here it is decided whether what it says can be kept, and it is told only
once it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from enum import Enum
from functools import partial

from devices.registry import Registry
from devices.twin import Twin, reported
from edge_runtime import wire
from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, StorageError, WireError
from edge_runtime.journal.interface import Appended, Journal, Placed
from edge_runtime.journal.records import Command, CommandEnd, DeadLetter, Record, Stored

KEPT_OF_INVALID = 4096
"""Bytes kept of a payload that cannot be read: enough to see what it was, too little to fill a disk quickly."""
KEPT_OF_TOPIC = 256


class Verdict(Enum):
    """What became of something that a device sent. All but REFUSED are to be acknowledged."""

    ACCEPTED = 0
    """At least one new event, or the end of a command, is durable."""
    DUPLICATE = 1
    """It changes nothing: all of it is there already, or it answers a command that has ended."""
    DEAD = 2
    """It cannot be taken, and a durable dead letter says so; sending it again would not help."""
    REFUSED = 3
    """It could not be stored; the device must keep it and send it again."""


_STORED, _ACCEPTED = Placed.STORED, Verdict.ACCEPTED
"""As plain names: looking up a member of an enumeration is slow in CPython 3.11, and these are needed per message."""

Settle = Callable[[Verdict], None]


class Admission:
    """Made with `await Admission.open(...)`.

    `submit`, `submit_reply` and `submit_dead` call `settle` exactly once, in a later turn of the event loop; `admit`
    and `reply` are the same as awaitables. Appends do not wait for each other: the journal groups them.
    """

    def __init__(self, journal: Journal, registry: Registry, clock: Clock, security: Callable[[str], None]) -> None:
        self.twin = Twin(journal, registry, clock)
        """Configurations and states; there is one for all doors."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._journal = journal
        self._last_seen = registry.last_seen
        self._clock = clock
        self._security = security
        self._open: dict[bytes, str] = {}
        """Commands without an end, and the devices they are for."""

    @classmethod
    async def open(
        cls, journal: Journal, registry: Registry, clock: Clock, security: Callable[[str], None]
    ) -> Admission:
        """Admission to `journal`, knowing the commands that wait for a reply; `security` takes security-log lines."""
        admission = cls(journal, registry, clock, security)
        early: list[Stored] = []
        opened = False

        def heard(stored: Sequence[Stored]) -> None:
            if opened:
                admission._follow(stored)
            else:
                early.extend(s for s in stored if isinstance(s.record, Command | CommandEnd))

        journal.listen(heard)
        tables = await journal.tables()
        admission._open = {command.id: command.device for command in tables.outbox}
        admission._follow([s for s in early if s.offset > tables.head])
        opened = True
        return admission

    def admit(self, device: str, kind: str | None, payload: bytes, topic: str = "") -> Awaitable[Verdict]:
        """Take an event packet; see `submit`."""
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.submit(device, kind, payload, topic, partial(_resolve, future))
        return future

    def reply(self, device: str, payload: bytes, topic: str = "") -> Awaitable[Verdict]:
        """Take a command reply; see `submit_reply`."""
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.submit_reply(device, payload, topic, partial(_resolve, future))
        return future

    def submit(self, device: str, kind: str | None, payload: bytes, topic: str, settle: Settle) -> None:
        """Decode, date and append an event packet of `device`; `kind` is None for a batch.

        `topic` names the place it was sent to, for the dead letter of one that cannot be read.
        """
        now = self._clock.now()
        self._last_seen[device] = now
        try:
            events: Sequence[Record] = wire.decode_events(payload, kind).events(device, now)
        except WireError as error:
            self.submit_dead(device, str(error), payload, topic, settle)
            return
        self._append(events, settle)

    def submit_decoded(self, device: str, envelope: wire.Envelope, settle: Settle) -> None:
        """Date and append events that came in another form and were made into our envelope."""
        now = self._clock.now()
        self._last_seen[device] = now
        self._append(envelope.events(device, now), settle)

    def submit_reply(self, device: str, payload: bytes, topic: str, settle: Settle) -> None:
        """Decode a command reply and append the command's end, if the command is this device's and has none yet."""
        now = self._clock.now()
        self._last_seen[device] = now
        try:
            reply = wire.decode_reply(payload)
        except WireError as error:
            self.submit_dead(device, str(error), payload, topic, settle)
            return
        owner = self._open.get(reply.id)
        if owner == device:
            self._append([CommandEnd(reply.id, device, reply.status, reply.result, now)], settle)
            return
        if owner is not None:
            self._security(f"device '{device}' replied to command {reply.id.hex()}, which is for '{owner}'; ignored")
        asyncio.get_running_loop().call_soon(settle, Verdict.DUPLICATE)

    def submit_state(self, device: str, payload: bytes, topic: str, settle: Settle) -> None:
        """Decode a state and keep it as the device's newest."""
        self._last_seen[device] = self._clock.now()
        try:
            content = reported(wire.decode_state(payload))
        except WireError as error:
            self.submit_dead(device, str(error), payload, topic, settle)
            return
        self._in_time(self._change(self.twin.report(device, content), device, payload, topic, settle))

    def submit_config_ack(self, device: str, payload: bytes, topic: str, settle: Settle) -> None:
        """Decode what the device says of a version of its configuration, and keep it."""
        self._last_seen[device] = self._clock.now()
        try:
            ack = wire.decode_config_ack(payload)
        except WireError as error:
            self.submit_dead(device, str(error), payload, topic, settle)
            return
        change = self.twin.acknowledge(device, ack.version, ack.refused, ack.detail)
        self._in_time(self._change(change, device, payload, topic, settle))

    def _in_time(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _change(
        self, change: Awaitable[bool | None], device: str, payload: bytes, topic: str, settle: Settle
    ) -> None:
        try:
            changed = await change
        except (StorageError, asyncio.CancelledError):
            settle(Verdict.REFUSED)
        except EdgeError as error:
            self.submit_dead(device, str(error), payload, topic, settle)
        else:
            settle(Verdict.DUPLICATE if changed is False else _ACCEPTED)

    def submit_dead(self, device: str, why: str, payload: bytes, topic: str, settle: Settle) -> None:
        """Keep what cannot be taken as a dead letter, with the first 4 KiB of its payload."""
        if len(payload) > KEPT_OF_INVALID:
            why = f"{why} (payload of {len(payload)} bytes, the first {KEPT_OF_INVALID} kept)"
        letter = DeadLetter(
            "ingress",
            "invalid",
            why,
            self._clock.now(),
            device,
            topic=topic[:KEPT_OF_TOPIC],
            payload=payload[:KEPT_OF_INVALID],
        )
        self._append([letter], partial(_as_dead, settle))

    def _append(self, records: Sequence[Record], settle: Settle) -> None:
        appending = self._journal.append(records)
        if not isinstance(appending, asyncio.Future):  # the journal writer's client gives futures: no task per message
            appending = asyncio.ensure_future(appending)
        appending.add_done_callback(partial(_appended, settle))

    def _follow(self, stored: Sequence[Stored]) -> None:
        for item in stored:
            record = item.record
            if type(record) is Command:
                self._open[record.id] = record.device
            elif type(record) is CommandEnd:
                self._open.pop(record.command, None)


def _appended(settle: Settle, appending: asyncio.Future[Appended]) -> None:
    try:
        placed = appending.result().placed
    except (StorageError, asyncio.CancelledError):
        settle(Verdict.REFUSED)
    except BaseException:
        settle(Verdict.REFUSED)
        raise  # a defect: the event loop reports it, and nothing was acknowledged
    else:
        if _STORED in placed:
            settle(_ACCEPTED)
        else:
            settle(Verdict.DEAD if Placed.CONFLICT in placed else Verdict.DUPLICATE)


def _as_dead(settle: Settle, verdict: Verdict) -> None:
    settle(Verdict.REFUSED if verdict is Verdict.REFUSED else Verdict.DEAD)


def _resolve(future: asyncio.Future[Verdict], verdict: Verdict) -> None:
    if not future.done():
        future.set_result(verdict)
