"""Dry runs: retained events go through a version of a flow, and what it does is held against the journal, or against
what another version does.

The flow begins with what it kept then. Nothing is committed and nothing is sent. Effects are compared by what caused
them and their number among its effects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError
from edge_runtime.events import TICK, Event
from edge_runtime.flows.flow import Checkpointed, Done, Failed, Flow, Policy, Taken, Turn
from edge_runtime.flows.states import ScratchStates
from edge_runtime.flows.timeline import backwards, pages
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import Command, DeadLetter, Record, StateChange, Timer, TimerCancelled

BATCH = 64
"""Events taken at a time: the live flows share the sandbox with this."""
MAX_LOOKED_AT = 200_000
"""Events of a replay's range, those that the flow does not want included: their ids are remembered."""
MAX_BYTES = 16 << 20
"""What the effects to be compared may take in memory."""
MAX_DIFFERENCES = 20
MAX_FAULTS = 5
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


class Fault(msgspec.Struct):
    """An event on which the flow failed."""

    event: str
    detail: str


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
    faults: list[Fault] = []
    """The first of the events on which it failed now."""


_Key = tuple[str, int]
_pack = msgspec.msgpack.Encoder().encode


class _Effect(msgspec.Struct):
    """One effect that was computed now, and what became of its comparison."""

    value: dict[str, Any]
    epoch: int = -1
    verdict: str = "new"
    before: Any = None


class Absent:
    """Stands for a flow in a version that does not have it. Implements `Flow`."""

    start = "latest"
    policy = Policy()

    def __init__(self, name: str) -> None:
        self.name = name

    def wants(self, event: Event) -> bool:
        """Nothing."""
        return False

    def key(self, event: Event) -> str:
        """As any other."""
        return event.device

    async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
        """It is never handed any."""
        return Taken([Done()] * len(events))

    def settled(self, events: Sequence[Event], turn: Turn) -> None:
        """Nothing to forget."""


class _Actor:
    """One version of a flow in a dry run, with what it keeps meanwhile."""

    def __init__(self, flow: Flow, turn: Turn, states: ScratchStates, clock: Clock) -> None:
        self.flow = flow
        self._turn = turn
        self._states = states
        self._clock = clock

    async def results(self, batch: list[Event]) -> list[Done | Failed]:
        """What it does with events, in order. Raises EdgeError if the sandbox stays out of reach."""
        found: list[Done | Failed] = []
        pauses = iter(PATIENCE)
        while True:
            taken = await self.flow.take(batch[len(found) :], self._turn)
            found += taken.results
            for result in taken.results:
                for record in result.effects if isinstance(result, Done) else ():
                    if type(record) is StateChange:
                        self._states.apply(record)
            if len(found) == len(batch):
                return found
            if taken.waiting is not None or not taken.results:
                pause = next(pauses, None)
                if pause is None:
                    why = taken.waiting or "it does not say why"
                    raise EdgeError(f"'{self.flow.name}' cannot be run just now: {why}", hint="Try again later.")
                await self._clock.sleep(pause)


class Replay:
    """One dry run of `flow` over the records from `first` to `head`; at most `limit` events go through it.

    With `against`, the same flow in another version, both are run and compared; without it, the journal says what was
    done.
    """

    def __init__(
        self, flow: Flow, epoch: int, journal: Journal, clock: Clock, *, limit: int, against: Flow | None = None
    ) -> None:
        self._flow = flow
        self._against = against
        self._epoch = epoch
        self._journal = journal
        self._clock = clock
        self._limit = limit
        self._waiting: list[tuple[int, Event]] = []
        self._now: dict[_Key, _Effect] = {}
        self._other: dict[_Key, dict[str, Any]] = {}
        """What the other version does."""
        self._gone: dict[_Key, Any] = {}
        self._faults: list[Fault] = []
        self._in_range: set[str] = set()
        self._deferred: set[_Key] = set()
        self._room = MAX_BYTES
        self._last = -1
        self._events = self._failed = 0
        self._full = False

    async def run(self, first: int, head: int) -> Replayed:
        """Take the events and compare. Raises EdgeError if the sandbox stays out of reach."""
        self._last = first - 1
        actor = await self._actor(self._flow, first, head)
        other = None if self._against is None else await self._actor(self._against, first, head)
        async for page in pages(self._journal, first - 1, head):
            for stored in page:
                if type(stored.record) is Event and not self._full:
                    self._look(stored.offset, stored.record)
                if not self._full:
                    self._last = stored.offset
            while len(self._waiting) >= BATCH or (self._waiting and self._full):
                await self._take(actor, other)
            if self._full:
                break
        while self._waiting:
            await self._take(actor, other)
        if other is not None:
            for key, before in self._other.items():
                self._hold_against(key, before, 0)
        else:
            # Effects stand behind what caused them, but for how far behind there is no limit.
            async for page in pages(self._journal, first - 1, head):
                for stored in page:
                    self._compare(stored.record)
        return self._report(first, head)

    async def _actor(self, flow: Flow, first: int, head: int) -> _Actor:
        states = await ScratchStates.at(self._journal, flow.name, first - 1, head)
        actor = _Actor(flow, Turn(self._epoch, quiet=True, dry=True, states=states), states, self._clock)
        reached = await flow.reached(states) if isinstance(flow, Checkpointed) else None
        if reached is not None:
            # Its state is as of a checkpoint: what came behind that has to be taken to be as it was.
            async for page in pages(self._journal, reached, first - 1):
                events = [item.record for item in page if type(item.record) is Event and flow.wants(item.record)]
                if events:
                    await actor.results(events)
        return actor

    def _look(self, offset: int, event: Event) -> None:
        wanted = self._flow.wants(event) or (self._against is not None and self._against.wants(event))
        if len(self._in_range) >= MAX_LOOKED_AT or (wanted and self._events + len(self._waiting) >= self._limit):
            self._full = True
            return
        self._in_range.add(event.id)
        if wanted:
            self._waiting.append((offset, event))

    async def _take(self, actor: _Actor, other: _Actor | None) -> None:
        batch, rest = self._waiting[:BATCH], self._waiting[BATCH:]
        self._events += len(batch)
        for key, record in await self._effects(actor, batch, self._fail):
            self._now[key] = _Effect(self._shown(record))
        if other is not None:
            for key, record in await self._effects(other, batch, lambda _: None):
                self._other[key] = self._shown(record)
        self._waiting = rest
        if self._room < 0:
            self._full = True
            self._waiting = []
            self._last = batch[-1][0]
            self._in_range.difference_update(event.id for _, event in rest)
        await asyncio.sleep(0)

    async def _effects(
        self, actor: _Actor, batch: list[tuple[int, Event]], fail: Callable[[DeadLetter], None]
    ) -> list[tuple[_Key, Record]]:
        events = [event for _, event in batch if actor.flow.wants(event)]
        found: list[tuple[_Key, Record]] = []
        for event, result in zip(events, await actor.results(events) if events else [], strict=True):
            if isinstance(result, Failed):
                fail(result.letter)
                found.append(((event.id, LETTER), result.letter))
                continue
            for index, record in enumerate(result.effects):
                if type(record) in (StateChange, TimerCancelled) or _is_tick(record):
                    continue  # What it keeps shows in what it does later, and so do its ticks.
                if event.quiet and type(record) is Command:
                    continue  # It was emitted by a flow that was catching up: withheld then and now.
                found.append(((event.id, LETTER if type(record) is DeadLetter else index), record))
        return found

    def _fail(self, letter: DeadLetter) -> None:
        self._failed += 1
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(Fault(letter.event.id if letter.event else "", f"{letter.reason}: {letter.detail}"))

    def _shown(self, record: Record) -> dict[str, Any]:
        value = _plain(record)
        self._room -= len(_pack(value)) + 500
        return value

    def _compare(self, record: Record) -> None:
        key, epoch = self._key(record)
        if type(record) is Timer and key is not None:
            self._deferred.add(key)
        elif key in self._deferred:
            return  # Its event, which has come since.
        if key is not None and key[0] in self._in_range:
            self._hold_against(key, _plain(record), epoch)

    def _hold_against(self, key: _Key, before: dict[str, Any], epoch: int) -> None:
        effect = self._now.get(key)
        if effect is None:
            if key in self._gone or len(self._gone) < MAX_LOOKED_AT:
                self._gone[key] = before if len(self._gone) < MAX_DIFFERENCES else None
        elif epoch >= effect.epoch:
            effect.epoch = epoch
            effect.verdict = "same" if before == effect.value else "changed"
            effect.before = before if effect.verdict == "changed" else None

    def _key(self, record: Record) -> tuple[_Key | None, int]:
        if _is_tick(record):
            return None, 0
        if isinstance(record, Event | Command | Timer):
            origin = record.event.origin if isinstance(record, Timer) else record.origin
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
            self._faults,
        )


async def first_of_last(flow: Flow, journal: Journal, count: int, first: int, head: int) -> int:
    """Where the last `count` events begin that the flow wants, as far back as a dry run looks."""
    found = head + 1
    looked_at = 0
    async for stored in backwards(journal, first, head):
        looked_at += 1
        if type(stored.record) is Event and flow.wants(stored.record):
            found = stored.offset
            count -= 1
        if count <= 0 or looked_at >= MAX_LOOKED_AT:
            break
    return found


def _is_tick(record: Record) -> bool:
    event = record.event if isinstance(record, Timer) else record
    return type(event) is Event and event.kind.startswith(TICK)


def _plain(record: Record) -> dict[str, Any]:
    """What makes two effects the same: not when they were made, nor in which epoch."""
    match record:
        case Command() as c:
            found = {"command": c.name, "device": c.device, "args": c.args, "ttl": c.expires - c.created}
            return found | ({"key": c.key} if c.key else {})
        case Event() as e:
            return {"event": e.kind, "device": e.device, "data": e.data}
        case Timer() as t:
            return _plain(t.event) | {"after": t.after, "key": t.key}
        case DeadLetter() as d:
            return {"dead letter": d.reason, "detail": (d.detail.splitlines() or [""])[0][:200]}
        case _:
            return {"record": type(record).__name__}
