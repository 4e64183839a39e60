"""Dry runs: retained events go through a flow's live version, and what it does is held against the journal.

The flow begins with what it kept then. Nothing is committed and nothing is sent. Effects are compared by what caused
them and their number among its effects.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError
from edge_runtime.events import Event
from edge_runtime.flows.flow import Done, Failed, Flow, Turn
from edge_runtime.flows.states import ScratchStates
from edge_runtime.flows.timeline import pages
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import Command, DeadLetter, Record, StateChange

BATCH = 64
"""Events taken at a time: the live flows share the sandbox with this."""
MAX_LOOKED_AT = 200_000
"""Events of a replay's range, those that the flow does not want included: their ids are remembered."""
MAX_BYTES = 16 << 20
"""What the effects to be compared may take in memory."""
MAX_DIFFERENCES = 20
PATIENCE = (100_000, 500_000, 2_000_000)
"""Pauses while the sandbox is out of reach, microseconds; then the replay gives up."""
LETTER = -1
"""The number under which a dead letter is compared: an event has one at most."""


class Difference(msgspec.Struct):
    """An effect that would be another one now."""

    what: str
    """`changed`, `new` (only now) or `missing` (only in the journal)."""
    event: str
    """The id of the event that causes it."""
    index: int
    """Which of its effects; -1 for a dead letter."""
    before: Any = None
    now: Any = None


class Replayed(msgspec.Struct):
    """What a dry run has found."""

    flow: str
    first: int
    """The first record that was looked at, and the last."""
    last: int
    complete: bool
    """False if there was more than the limits allow; `last` says how far it came."""
    events: int
    """Events that went through the flow."""
    failed: int
    """Of them, those on which it failed now."""
    same: int
    changed: int
    new: int
    missing: int
    differences: list[Difference]
    """The first ones."""


_Key = tuple[str, int]
_pack = msgspec.msgpack.Encoder().encode


class _Effect(msgspec.Struct):
    """One effect that was computed now, and what became of its comparison."""

    value: dict[str, Any]
    epoch: int = -1
    verdict: str = "new"
    before: Any = None


class Replay:
    """One dry run of `flow` over the records from `first` to `head`; at most `limit` events go through it."""

    def __init__(self, flow: Flow, epoch: int, journal: Journal, clock: Clock, *, limit: int) -> None:
        self._flow = flow
        self._epoch = epoch
        self._states: ScratchStates | None = None
        self._journal = journal
        self._clock = clock
        self._limit = limit
        self._waiting: list[tuple[int, Event]] = []
        self._now: dict[_Key, _Effect] = {}
        self._gone: dict[_Key, Any] = {}
        self._in_range: set[str] = set()
        self._room = MAX_BYTES
        self._last = -1
        self._events = self._failed = 0
        self._full = False

    async def run(self, first: int, head: int) -> Replayed:
        """Take the events and compare. Raises EdgeError if the sandbox stays out of reach."""
        self._last = first - 1
        self._states = await ScratchStates.at(self._journal, self._flow.name, first - 1, head)
        async for page in pages(self._journal, first - 1, head):
            for stored in page:
                if type(stored.record) is Event and not self._full:
                    self._look(stored.offset, stored.record)
                if not self._full:
                    self._last = stored.offset
            while len(self._waiting) >= BATCH or (self._waiting and self._full):
                await self._take()
            if self._full:
                break
        while self._waiting:
            await self._take()
        # Effects stand behind what caused them, but for how far behind there is no limit.
        async for page in pages(self._journal, first - 1, head):
            for stored in page:
                self._compare(stored.record)
        return self._report(first, head)

    def _look(self, offset: int, event: Event) -> None:
        wanted = self._flow.wants(event)
        if len(self._in_range) >= MAX_LOOKED_AT or (wanted and self._events + len(self._waiting) >= self._limit):
            self._full = True
            return
        self._in_range.add(event.id)
        if wanted:
            self._waiting.append((offset, event))

    async def _take(self) -> None:
        batch, rest = self._waiting[:BATCH], self._waiting[BATCH:]
        results = await self._results([event for _, event in batch])
        for (_, event), result in zip(batch, results, strict=True):
            self._events += 1
            if isinstance(result, Failed):
                self._failed += 1
                self._expect((event.id, LETTER), result.letter)
            else:
                for index, record in enumerate(result.effects):
                    if type(record) is StateChange:
                        continue  # What it keeps shows in what it does later.
                    if event.quiet and type(record) is Command:
                        continue  # It was emitted by a flow that was catching up: withheld then and now.
                    self._expect((event.id, LETTER if type(record) is DeadLetter else index), record)
        self._waiting = rest
        if self._room < 0:
            self._full = True
            self._waiting = []
            self._last = batch[-1][0]
            self._in_range.difference_update(event.id for _, event in rest)
        await asyncio.sleep(0)

    async def _results(self, batch: list[Event]) -> list[Done | Failed]:
        assert self._states is not None
        states = self._states
        turn = Turn(self._epoch, quiet=True, dry=True, states=states)
        found: list[Done | Failed] = []
        for pause in (0, *PATIENCE):
            if pause:
                await self._clock.sleep(pause)
            taken = await self._flow.take(batch[len(found) :], turn)
            found += taken.results
            for result in taken.results:
                for record in result.effects if isinstance(result, Done) else ():
                    if type(record) is StateChange:
                        states.apply(record)
            if len(found) == len(batch):
                return found
        why = taken.waiting or "it does not say why"
        raise EdgeError(f"'{self._flow.name}' cannot be run just now: {why}", hint="Try again later.")

    def _expect(self, key: _Key, record: Record) -> None:
        value = _plain(record)
        self._room -= len(_pack(value)) + 500
        self._now[key] = _Effect(value)

    def _compare(self, record: Record) -> None:
        key, epoch = self._key(record)
        if key is None or key[0] not in self._in_range:
            return
        effect = self._now.get(key)
        before = _plain(record)
        if effect is None:
            if key in self._gone or len(self._gone) < MAX_LOOKED_AT:
                self._gone[key] = before if len(self._gone) < MAX_DIFFERENCES else None
        elif epoch >= effect.epoch:
            effect.epoch = epoch
            effect.verdict = "same" if before == effect.value else "changed"
            effect.before = before if effect.verdict == "changed" else None

    def _key(self, record: Record) -> tuple[_Key | None, int]:
        if isinstance(record, Event | Command):
            origin = record.origin
            if origin is not None and origin.flow == self._flow.name:
                return (origin.cause, origin.index), origin.epoch
        elif type(record) is DeadLetter and record.flow == self._flow.name and record.event is not None:
            return (record.event.id, LETTER), 0
        return None, 0

    def _report(self, first: int, head: int) -> Replayed:
        count = {"same": 0, "changed": 0, "new": 0}
        differences: list[Difference] = []
        for (event, index), effect in self._now.items():
            count[effect.verdict] += 1
            if effect.verdict != "same" and len(differences) < MAX_DIFFERENCES:
                differences.append(Difference(effect.verdict, event, index, effect.before, effect.value))
        for (event, index), before in self._gone.items():
            if len(differences) < MAX_DIFFERENCES:
                differences.append(Difference("missing", event, index, before))
        return Replayed(
            self._flow.name,
            first,
            self._last,
            not self._full,
            self._events,
            self._failed,
            count["same"],
            count["changed"],
            count["new"],
            len(self._gone),
            differences,
        )


def _plain(record: Record) -> dict[str, Any]:
    """What makes two effects the same: not when they were made, nor in which epoch."""
    match record:
        case Command() as c:
            found = {"command": c.name, "device": c.device, "args": c.args, "ttl": c.expires - c.created}
            return found | ({"key": c.key} if c.key else {})
        case Event() as e:
            return {"event": e.kind, "device": e.device, "data": e.data}
        case DeadLetter() as d:
            return {"dead letter": d.reason, "detail": (d.detail.splitlines() or [""])[0][:200]}
        case _:
            return {"record": type(record).__name__}
