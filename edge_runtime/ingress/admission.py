"""Admission: what a device sends becomes durable records, whichever front door it came through.

The caller has made sure who the device is; here it is decided whether what it says can be kept, and it is told only
once it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from enum import Enum
from functools import partial

from devices.ota import Ota
from devices.registry import Registry
from devices.twin import Content, Twin, reported
from edge_runtime import wire
from edge_runtime.clock import TRUSTED_AFTER, Clock
from edge_runtime.errors import EdgeError, StorageError, WireError
from edge_runtime.events import Event
from edge_runtime.ingress.boots import BURST, Boots
from edge_runtime.ingress.pace import Pace
from edge_runtime.ingress.schemas import Check
from edge_runtime.ingress.skew import Skews
from edge_runtime.journal.interface import Appended, Journal, Placed
from edge_runtime.journal.records import Command, CommandEnd, DeadLetter, Record, Stored

KEPT_OF_INVALID = 4096
"""Bytes kept of a payload that cannot be read: enough to see what it was, too little to fill a disk quickly."""
KEPT_OF_TOPIC = 256
MAX_APPEND = 1000
"""Records that the journal takes at once."""


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

_log = logging.getLogger("edge.admission")


class Admission:
    """Made with `await Admission.open(...)`.

    `submit`, `submit_reply` and `submit_dead` call `settle` exactly once, in a later turn of the event loop; `admit`
    and `reply` are the same as awaitables. Appends do not wait for each other: the journal groups them.
    """

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        clock: Clock,
        security: Callable[[str], None],
        *,
        pace: Pace | None = None,
        skews: Skews | None = None,
        schemas: Mapping[str, Check] | None = None,
    ) -> None:
        self.twin = Twin(journal, registry, clock)
        """Configurations and states; there is one for all doors."""
        self.ota: Ota | None = None
        """What boards are to run; set by who builds the house."""
        self.pace = pace or Pace(clock)
        """How fast devices may send: asked by the doors, before they hand anything in here."""
        self.skews = skews or Skews(0)
        """How far the clocks of devices seem to be off."""
        self._boots = Boots(clock)
        self._schemas = schemas or {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._journal = journal
        self._last_seen = registry.last_seen
        self._clock = clock
        self._security = security
        self._open: dict[bytes, str] = {}
        """Commands without an end, and the devices they are for."""

    @classmethod
    async def open(
        cls,
        journal: Journal,
        registry: Registry,
        clock: Clock,
        security: Callable[[str], None],
        *,
        pace: Pace | None = None,
        skews: Skews | None = None,
        schemas: Mapping[str, Check] | None = None,
    ) -> Admission:
        """Admission to `journal`, knowing the commands that wait for a reply; `security` takes security-log lines.

        Without `pace` nobody is held to one; `schemas` are by kind.
        """
        admission = cls(journal, registry, clock, security, pace=pace, skews=skews, schemas=schemas)
        early: list[Stored] = []
        opened = False

        def heard(stored: Sequence[Stored]) -> None:
            if opened:
                admission._follow(stored)
            else:
                early.extend(s for s in stored if isinstance(s.record, Command | CommandEnd))

        journal.listen(heard, events=False)
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
            envelope = wire.decode_events(payload, kind)
        except WireError as error:
            self.submit_dead(device, str(error), payload, topic, settle)
            return
        self._take(device, envelope, now, settle)

    def submit_decoded(self, device: str, envelope: wire.Envelope, settle: Settle) -> None:
        """Date and append events that came in another form and were made into our envelope."""
        now = self._clock.now()
        self._last_seen[device] = now
        self._take(device, envelope, now, settle)

    def _take(self, device: str, envelope: wire.Envelope, now: int, settle: Settle) -> None:
        dated = envelope.readings[-1].time
        if dated is not None and now > TRUSTED_AFTER:
            self.skews.note(device, now - dated)
        events = envelope.events(device, now)
        if not self._boots.admit(device, envelope.boot):
            why = f"the device has begun more than {BURST} boots, each within a minute of the one before"
            self._append([_letter(event, "boots", why) for event in events], partial(_as_dead, settle))
        elif self._schemas and any(event.kind in self._schemas for event in events):
            records = [self._judged(event) for event in events]
            all_dead = all(type(record) is DeadLetter for record in records)
            self._append(records, partial(_as_dead, settle) if all_dead else settle)
        else:
            self._append(events, settle)

    def _judged(self, event: Event) -> Event | DeadLetter:
        """The event, or a dead letter in its place if it is not what the schema of its kind asks for."""
        check = self._schemas.get(event.kind)
        wrong = check(event.data) if check is not None else ""
        return _letter(event, "invalid", wrong) if wrong else event

    async def keep(self) -> list[str]:
        """What is to be done once a minute: make it durable how much was given up since, and look at the clocks.

        Returns lines for the operations log.
        """
        self.pace.forget_full()
        dropped, self.pace.dropped = self.pace.dropped, {}
        now = self._clock.now()
        letters = [
            DeadLetter(
                "ingress", "throttled", f"{count} messages were given up: the device sends too fast", now, device
            )
            for device, count in dropped.items()
        ]
        try:
            for start in range(0, len(letters), MAX_APPEND):
                await self._journal.append(letters[start : start + MAX_APPEND])
        except StorageError:
            for device, count in dropped.items():
                self.pace.dropped[device] = self.pace.dropped.get(device, 0) + count
        return [
            f"the clock of device '{device}' seems to be {abs(skew) / 1e6:.0f} s {'behind' if skew > 0 else 'ahead'}; "
            "its events keep their own time"
            for device, skew in self.skews.news().items()
        ]

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

    def submit_content(self, device: str, content: Content, topic: str, settle: Settle) -> None:
        """Keep a state that came without our form as the device's newest."""
        self._last_seen[device] = self._clock.now()
        self._in_time(self._change(self.twin.report(device, content), device, content.data, topic, settle))

    def submit_taken(self, device: str, version: int) -> None:
        """Keep that the device has taken a version of its configuration; nobody is told."""
        self._in_time(self._change(self.twin.acknowledge(device, version), device, b"", "", lambda _verdict: None))

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

    def submit_ota(self, device: str, verb: str, payload: bytes, topic: str, settle: Settle) -> None:
        """Take what a device says about updates: a `report`, which is kept, or an `ask`, which is only answered."""
        self._last_seen[device] = self._clock.now()
        ota = self.ota
        if ota is None or verb not in ("report", "ask"):
            self.submit_dead(device, "nothing about updates belongs on this topic", payload, topic, settle)
        elif verb == "report":
            self._in_time(self._change(ota.report(device, payload), device, payload, topic, settle))
        else:
            try:
                ota.ask(device, payload)
            except WireError as error:
                self.submit_dead(device, str(error), payload, topic, settle)
            else:
                asyncio.get_running_loop().call_soon(settle, Verdict.DUPLICATE)

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
        self._journal.submit(records, partial(_appended, settle))

    def _follow(self, stored: Sequence[Stored]) -> None:
        for item in stored:
            record = item.record
            if type(record) is Command:
                self._open[record.id] = record.device
            elif type(record) is CommandEnd:
                self._open.pop(record.command, None)


def _appended(settle: Settle, outcome: Appended | Exception) -> None:
    if isinstance(outcome, Exception):
        settle(Verdict.REFUSED)
        if not isinstance(outcome, StorageError):
            _log.error("an append failed in a way that is none of the journal's", exc_info=outcome)
        return
    placed = outcome.placed
    if _STORED in placed:
        settle(_ACCEPTED)
    else:
        dead = Placed.CONFLICT in placed or Placed.SCATTERED in placed
        settle(Verdict.DEAD if dead else Verdict.DUPLICATE)


def _letter(event: Event, reason: str, why: str) -> DeadLetter:
    return DeadLetter("ingress", reason, why, event.received, event.device, event)


def _as_dead(settle: Settle, verdict: Verdict) -> None:
    settle(Verdict.REFUSED if verdict is Verdict.REFUSED else Verdict.DEAD)


def _resolve(future: asyncio.Future[Verdict], verdict: Verdict) -> None:
    if not future.done():
        future.set_result(verdict)
