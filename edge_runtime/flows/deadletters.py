"""Dead letters: what no flow could deal with, until a person retries or drops it.

A letter is open until a record `Retry` or `Dropped` names it, or a rewind has its flow take the event again. Nothing
is stored for this beyond the records: the open letters are found by reading the journal, the first time somebody asks,
and followed from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, NotFound, nearest
from edge_runtime.flows.flows import Flows
from edge_runtime.flows.timeline import backwards
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import DeadLetter, Dropped, FlowState, Record, Retry, Stored, Trimmed

MAX_OPEN = 20_000
"""Open letters that are known at a time, some 10 MB: of more, the newest. The older ones stay in the journal and are
looked for again once half of these are settled."""
MAX_APPEND = 1000
INGRESS = "ingress"


class Letter(msgspec.Struct, frozen=True):
    """An open dead letter, as in a list."""

    offset: int
    """Where it stands in the journal: its name for the other verbs."""
    time: int
    flow: str
    reason: str
    device: str
    event: str
    """The id of its event; empty where a board sent something that is none."""
    kind: str
    version: str
    attempts: int
    summary: str
    """The first line of the detail, cut."""
    at: int = -1
    """The offset of its event."""

    def overtaken(self, state: FlowState) -> bool:
        """Whether a rewind came after the letter and has its flow take the event again."""
        return state.flow == self.flow and self.offset <= state.again_until and self.at > state.again_after


class Letters(msgspec.Struct):
    """Open letters, the oldest first."""

    letters: list[Letter]
    open: int
    """How many are open in all."""
    older: int = 0
    """How many open letters, older than these, are beyond what is known at a time."""


class LetterDetail(msgspec.Struct):
    """A dead letter with everything that is known of it."""

    letter: Letter
    detail: str
    """What went wrong, with the lines of the function's file."""
    topic: str
    payload: bytes
    """What the board sent, where it could not be read; cut."""
    data: object = None
    """The event's data."""
    time: int = 0
    """When the event happened."""
    state: str = "open"
    """`open`, or `settled`: retried, dropped, or its event taken again by a rewind."""


class Selection(msgspec.Struct, forbid_unknown_fields=True):
    """Which letters a verb is for: the `offsets`, or with `all` every open one that the others let through."""

    offsets: list[int] = []
    all: bool = False
    flow: str = ""
    device: str = ""
    reason: str = ""

    def picks(self, letter: Letter) -> bool:
        """Whether a letter is of the wanted flow, device and reason."""
        return (
            self.flow in ("", letter.flow) and self.device in ("", letter.device) and self.reason in ("", letter.reason)
        )


class Settled(msgspec.Struct):
    """What a verb did."""

    letters: list[int]
    skipped: dict[str, int] = {}
    """Of `all`: how many letters cannot be retried, by reason."""


class DeadLetters:
    """The open dead letters of a journal."""

    def __init__(self, journal: Journal, flows: Flows, clock: Clock, limit: int = MAX_OPEN) -> None:
        self._journal = journal
        self._flows = flows
        self._clock = clock
        self._limit = limit
        self._open: dict[int, Letter] = {}
        self._older = 0
        self._ready = False
        self._early: list[Stored] = []
        self._scanning = False
        self._finding = asyncio.Lock()
        self._changing = asyncio.Lock()
        journal.listen(self._hear, events=False)

    async def newest(self, selection: Selection, limit: int = 100) -> Letters:
        """The newest `limit` open letters that are selected. Raises NotFound for a flow that nobody knows."""
        await self._find_open()
        self._check(selection)
        found = [letter for letter in self._open.values() if selection.picks(letter)]
        return Letters(found[-limit:] if limit > 0 else [], len(self._open) + self._older, self._older)

    async def show(self, offset: int) -> LetterDetail:
        """One letter, settled or not."""
        await self._find_open()
        record = await self._letter(offset)
        event = record.event
        return LetterDetail(
            _row(offset, record),
            record.detail,
            record.topic,
            record.payload,
            None if event is None else event.data,
            0 if event is None else event.time,
            "open" if offset in self._open else "settled" if not self._beyond(offset) else "beyond what is listed",
        )

    async def retry(self, selection: Selection) -> Settled:
        """Hand the letters' events to their flows once more, marked late; the letters are settled by it.

        Of letters that are named, all are retried or none. Raises EdgeError for those that no flow can take.
        """
        async with self._changing:
            found = await self._selected(selection)
            skipped: dict[str, int] = {}
            now = self._clock.now()
            records: list[Record] = []
            for offset, letter in found:
                why = self._refusal(letter)
                if why is not None and not selection.all:
                    raise EdgeError(f"dead letter {offset} cannot be retried: {why}", hint=self._hint(letter))
                if why is not None:
                    skipped[why] = skipped.get(why, 0) + 1
                elif letter.event is not None:
                    late = msgspec.structs.replace(letter.event, late=True)
                    records.append(Retry(letter.flow, offset, late, now, letter.at))
            await self._append(records)
            return Settled([record.letter for record in records if isinstance(record, Retry)], skipped)

    async def drop(self, selection: Selection) -> Settled:
        """Settle the letters without doing anything about them."""
        async with self._changing:
            found = await self._selected(selection)
            now = self._clock.now()
            await self._append([Dropped(offset, now) for offset, _ in found])
            return Settled([offset for offset, _ in found])

    async def export(self, selection: Selection) -> AsyncIterator[LetterDetail]:
        """Every selected open letter in full, the oldest first."""
        await self._find_open()
        self._check(selection)
        for offset, letter in list(self._open.items()):
            if selection.picks(letter) and offset in self._open:
                yield await self.show(offset)

    # Selecting

    def _check(self, selection: Selection) -> None:
        known = {INGRESS, *(letter.flow for letter in self._open.values()), *self._flows.runners}
        if selection.flow and selection.flow not in known:
            raise NotFound(f"there is no flow '{selection.flow}'", hint=nearest(selection.flow, known))

    async def _selected(self, selection: Selection) -> list[tuple[int, DeadLetter]]:
        await self._find_open()
        self._check(selection)
        if selection.all == bool(selection.offsets):
            raise EdgeError("say which dead letters", hint="Name their offsets, or say --all. See: edge dead list")
        offsets = list(dict.fromkeys(selection.offsets))
        if selection.all:
            offsets = [offset for offset, letter in self._open.items() if selection.picks(letter)]
        found = []
        for offset in offsets:
            record = await self._letter(offset)
            if offset in self._open:
                found.append((offset, record))
            elif self._beyond(offset):
                raise EdgeError(
                    f"dead letter {offset} is older than the {self._limit} that are known at a time",
                    hint="Settle newer ones first.",
                )
            elif not selection.all:
                raise EdgeError(
                    f"dead letter {offset} is settled already: retried, dropped, or taken again by a rewind",
                    hint="See what is open: edge dead list",
                )
        return found

    async def _letter(self, offset: int) -> DeadLetter:
        stored = await self._journal.read(offset - 1, 1) if offset >= 0 else []
        for item in stored:
            if item.offset == offset and type(item.record) is DeadLetter:
                return item.record
        known = [str(number) for number in self._open]
        raise NotFound(
            f"there is no dead letter at {offset}", hint=nearest(str(offset), known[-20:]) or "None is open."
        )

    def _beyond(self, offset: int) -> bool:
        return self._older > 0 and offset < next(iter(self._open), 0)

    def _refusal(self, letter: DeadLetter) -> str | None:
        if letter.flow == INGRESS:
            return "it came from a board and never reached a flow"
        if letter.event is None:
            return "it holds no event"
        if letter.reason == "hops":
            return "its event was dealt with; only what would never have ended was cut"
        runner = self._flows.runners.get(letter.flow)
        if runner is None:
            return f"there is no flow '{letter.flow}' any more"
        if runner.held.get(runner.flow.key(letter.event)) and runner.flow.policy.on_error != "skip":
            return f"its flow waits at this event with '{runner.flow.key(letter.event)}' held back"
        return None

    def _hint(self, letter: DeadLetter) -> str:
        if letter.flow == INGRESS:
            return "If it needs no attention: edge dead drop"
        runner = self._flows.runners.get(letter.flow)
        if runner is None:
            return nearest(letter.flow, self._flows.runners)
        key = "" if letter.event is None else runner.flow.key(letter.event)
        if key not in runner.held:
            return "If it needs no attention: edge dead drop"
        return f"Try it again with: edge flow release {letter.flow} {key}"

    async def _append(self, records: Sequence[Record]) -> None:
        for start in range(0, len(records), MAX_APPEND):
            await self._journal.append(records[start : start + MAX_APPEND])

    # Following the journal

    async def _find_open(self) -> None:
        async with self._finding:
            if not self._ready or (self._older and len(self._open) <= self._limit // 2):
                await self._scan()

    async def _scan(self) -> None:
        """Read the journal; what is stored meanwhile is heard, and applied after it."""
        self._scanning, self._ready = True, False
        self._open, self._older, self._early = {}, 0, []
        try:
            upto = self._flows.feed.head
            self._open, self._older = await self._look_back(upto)
            for item in self._early:
                if item.offset > upto:
                    self._apply(item)
            self._ready = True
        finally:
            self._scanning = False
            self._early = []

    async def _look_back(self, upto: int) -> tuple[dict[int, Letter], int]:
        """The newest open letters, oldest first, and how many are older. Whatever settles a letter stands behind it."""
        found: list[Letter] = []
        settled: set[int] = set()
        rewinds: dict[tuple[str, int, int], FlowState] = {}
        older = 0
        async for item in backwards(self._journal, self._flows.first, upto):
            record = item.record
            if type(record) is Retry or type(record) is Dropped:
                settled.add(record.letter)
            elif type(record) is FlowState and record.again_until >= 0:
                rewinds.setdefault((record.flow, record.again_after, record.again_until), record)
            elif type(record) is DeadLetter:
                letter = _row(item.offset, record)
                if item.offset in settled:
                    settled.remove(item.offset)
                elif any(letter.overtaken(state) for state in rewinds.values()):
                    continue
                elif len(found) < self._limit:
                    found.append(letter)
                else:
                    older += 1
        return {letter.offset: letter for letter in reversed(found)}, older

    def _hear(self, stored: Sequence[Stored]) -> None:
        for item in stored:
            if type(item.record) in (DeadLetter, Retry, Dropped, Trimmed, FlowState):
                if self._ready:
                    self._apply(item)
                elif self._scanning:
                    self._early.append(item)

    def _apply(self, item: Stored) -> None:
        record = item.record
        if type(record) is DeadLetter:
            self._open[item.offset] = _row(item.offset, record)
            if len(self._open) > self._limit:
                del self._open[next(iter(self._open))]
                self._older += 1
        elif type(record) is Retry or type(record) is Dropped:
            if self._open.pop(record.letter, None) is None and self._older:
                self._older -= 1
        elif type(record) is FlowState:
            for offset in [offset for offset, letter in self._open.items() if letter.overtaken(record)]:
                del self._open[offset]
        elif type(record) is Trimmed:
            for offset in [offset for offset in self._open if offset <= record.upto]:
                del self._open[offset]
            if self._older and record.upto + 1 >= next(iter(self._open), record.upto + 1):
                self._older = 0


def _row(offset: int, letter: DeadLetter) -> Letter:
    event = letter.event
    line = letter.detail.strip().splitlines()
    return Letter(
        offset,
        letter.time,
        letter.flow,
        letter.reason,
        letter.device,
        "" if event is None else event.id,
        "" if event is None else event.kind,
        letter.version,
        letter.attempts,
        line[0][:120] if line else "",
        letter.at,
    )
