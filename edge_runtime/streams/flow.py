"""A stream as a flow: what it computes becomes events, and what it holds is stored with its progress.

The computing is the worker's. Here, results become records: panes and matches are events of the stream's own kind (or
of one that the user chose), late events are dead letters (or events), and a timer brings the tick that is due next.
State is stored as that of functions is (`StateChange`), in buckets, under the hash of the specification: a changed
specification begins with nothing, and the old state is there for a rollback.
"""

from __future__ import annotations

import base64
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2s
from typing import Any

import msgspec

from edge_runtime import expr
from edge_runtime.clock import Clock
from edge_runtime.events import GATEWAY, MAX_HOPS, TICK, Event, Origin
from edge_runtime.flows.flow import Done, Failed, Policy, StateLost, Taken, Turn
from edge_runtime.flows.ports import Unavailable
from edge_runtime.flows.states import NoStates, States
from edge_runtime.flows.timers import Timers
from edge_runtime.journal.records import DeadLetter, Entry, Record, StateChange, Timer
from edge_runtime.size import rough
from edge_runtime.streams.client import Folder, StreamWorker, WorkerSession
from edge_runtime.streams.machine import LARGEST, MOST_OF_ONE, Excess, Late, Note, Pane, Result
from edge_runtime.streams.messages import Fold, Folded
from edge_runtime.streams.messages import Taken as Computed
from edge_runtime.streams.running import STEP
from edge_runtime.streamspec import Enrich, Stream
from edge_runtime.throttle import ThrottledLog

BUCKETS = 256
"""Of names of state: together with the results of one batch they make one append. Nothing reads a bucket as a whole, so
that millions of names in them cost no more than thousands."""
POLICY = Policy(retries=0, on_error="skip")
"""A stream does not fail on events."""

CAREFUL = 300
"""Events that are taken one by one after a failure: a batch, and some."""
FATAL = 2
"""Failures on an event alone after which it is a dead letter."""

MAX_COMMIT = 32 << 20
"""Bytes of a commit, about: the journal takes 64 MiB, of all who write together. The computation stops long before; if
it comes to more nevertheless, events are taken one by one, and one that alone makes so much of it is a dead letter."""
PIECE = 8 << 20
"""Bytes of state that are handed to the worker at a time, and names that are looked up for it."""
NAMES = 64

_AT = "$at"
_TICK = "$tick"
_NOTHING = Done()


class StreamFlow:
    """Implements `Checkpointed`. Make one for each stream of each version of an app."""

    policy = POLICY

    def __init__(
        self,
        name: str,
        kind: str,
        stream: Stream,
        *,
        worker: StreamWorker,
        clock: Clock,
        timers: Timers | None = None,
        start: str = "latest",
        late: str = "",
        plain: bool = False,
        tags: Callable[[str], Mapping[str, str]] | None = None,
        folder: Folder | None = None,
    ) -> None:
        """`kind` is that of the results, `late` that of events which come too late (empty: they are dead letters).

        With `plain`, the data of a result is the values alone, else all of the pane. `tags` answers a device's tags;
        `folder` has the app fold what its own aggregates gather.
        """
        self.name = name
        self.start = start
        self.stream = stream
        self.counts: Counter[str] = Counter()
        """Of panes, late events and what was noted, since the start."""
        self._kind = kind
        self._late = late
        self._plain = plain
        self._worker = worker
        self._clock = clock
        self._timers = timers
        self._tags = tags if any(isinstance(step, Enrich) and step.tags for step in stream.steps) else None
        self.fold = folder or _nobody
        self._tick_kind = TICK + name
        self._wanted: dict[str, list[Callable[[Any], bool]]] = {}
        for source in stream.sources:
            self._wanted.setdefault(source.kind, []).append(expr.compile(source.where).matches)
        self._hash = blake2s(msgspec.msgpack.encode(stream), digest_size=6).hexdigest()
        self._live = _Session(self)
        self._dry: _Session | None = None
        self._careful = 0
        """Batches that are to be of one event, since the computation has failed: then it is known on which."""
        self._fatal: Counter[str] = Counter()
        """Events on which alone the computation has failed, and how often."""
        self._large: set[str] = set()
        """Those of them of which there came too much."""
        self._say = ThrottledLog(logging.getLogger(f"edge.app.{name}").warning, clock)

    def wants(self, event: Event) -> bool:
        """As `Flow.wants`: events of its sources, and its own ticks."""
        conditions = self._wanted.get(event.kind)
        if conditions is None:
            return event.kind == self._tick_kind
        return any(matches(event.data) for matches in conditions)

    def key(self, event: Event) -> str:
        """As `Flow.key`: one line, for windows need all devices' watermarks; their own keys are within."""
        return ""

    async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
        """As `Flow.take`. Raises `StateLost`."""
        if turn.dry:
            if self._dry is None or self._dry.states is not turn.states:
                self._forget_dry()
                self._dry = _Session(self)
            return await self._dry.take(events, turn)
        return await self._carefully(events, turn) if self._careful else await self._boldly(events, turn)

    async def _boldly(self, events: Sequence[Event], turn: Turn) -> Taken:
        try:
            return await self._live.take(events, turn)
        except StateLost:
            self._careful = CAREFUL
            raise

    async def _carefully(self, events: Sequence[Event], turn: Turn) -> Taken:
        """One event alone; one on which the computation fails again and again is left out."""
        event = events[0]
        if self._fatal[event.id] >= FATAL:
            reason, detail = "crash", "the computation has failed on it, each time; the gateway's log has the error"
            if event.id in self._large:
                reason, detail = (
                    "size",
                    f"with it, what is kept would change by more than {MAX_COMMIT >> 20} MiB at once",
                )
            return self._live.passed(event, Done([self._dead(event, reason, detail)]))
        try:
            # Stored at once: should that fail, it is known why.
            taken = msgspec.structs.replace(await self._live.take([event], turn), commit=True)
        except StateLost as lost:
            # A worker that has died, or cannot begin, says nothing about this event.
            self._fatal[event.id] += bool(str(lost))
            self._careful = CAREFUL
            raise
        self._careful -= 1
        if not self._careful:
            self._fatal.clear()
            self._large.clear()
        return taken

    def settled(self, events: Sequence[Event], turn: Turn) -> None:
        """As `Flow.settled`."""
        if not turn.dry:
            self._live.settled(len(events))

    async def checkpoint(self, settling: Sequence[Event], at: int) -> list[StateChange] | None:
        """As `Checkpointed.checkpoint`."""
        kept = await self._live.checkpoint(len(settling), at)
        if kept is not None and (size := sum(map(_size, kept)) + self._live.waiting) > MAX_COMMIT:
            if self._careful and len(settling) == 1:
                self._fatal[settling[0].id] += 1
                self._large.add(settling[0].id)
            self._careful = CAREFUL
            text = f"{size >> 20} MiB in one commit are too many: its events are taken one by one"
            self._say(f"{self.name}: {text}")
            raise StateLost(text)
        return kept

    def checkpointed(self) -> None:
        """As `Checkpointed.checkpointed`."""
        self._live.checkpointed()

    def let_go(self) -> None:
        """As `Checkpointed.let_go`."""
        self._live.close()
        self._live = _Session(self)
        self._forget_dry()

    async def reached(self, states: States) -> int | None:
        """As `Checkpointed.reached`."""
        kept = await states.entries(self.name, {_bucket(_AT): [self.entry(_AT)]})
        entry = kept.get(_bucket(_AT), {}).get(self.entry(_AT))
        return None if entry is None else int(entry[0])

    def _forget_dry(self) -> None:
        if self._dry is not None:
            self._dry.close()
            self._dry = None

    # For its sessions

    def entry(self, name: str) -> str:
        """Under which an entry of state is kept: apart from those of other specifications."""
        return f"{self._hash}/{name}"

    async def open(self) -> WorkerSession:
        """A session in the worker, with nothing in it."""
        return await self._worker.open(self.stream)

    def tags_of(self, events: Sequence[Event]) -> dict[str, dict[str, str]]:
        """The tags of the devices of these events, where the stream adds some."""
        if self._tags is None:
            return {}
        return {device: dict(self._tags(device)) for device in {event.device for event in events}}

    def effects(self, event: Event, results: Sequence[Result], turn: Turn) -> list[Record]:
        """The records that follow from an event's results."""
        found: list[Record] = []
        for result in results:
            if not turn.dry:
                self.counts[_counted(result)] += 1
            match result:
                case Pane():
                    found.append(self._pane(event, result, turn, len(found)))
                case Late() if self._late:
                    kind, data = self._late, event.data
                    found.append(self._event(event, event.device, kind, event.time, data, turn, len(found)))
                case Late(by=by):
                    detail = f"it came {by / 1e6:.1f} s too late, beyond the lateness"
                    if by <= 0:
                        detail = "nothing takes it: the clock of its device is wrong, or it has not got the key"
                    found.append(self._dead(event, "late", detail))
                case Excess(lost=lost):
                    most = f"{MOST_OF_ONE} results or {LARGEST >> 20} MiB"
                    detail = f"more than {most} followed from it at once: the other {lost} are lost"
                    found.append(self._dead(event, "size", detail))
                case Note(device=device, text=text) if not turn.dry:
                    self._say(f"{self.name}: device '{device}': {text}")
        return found

    def tick(self, event: Event, after: int, due: int, turn: Turn, index: int) -> Timer:
        """A timer for the tick that is needed next, in `after` microseconds, when processing time will be `due`."""
        origin = Origin(self.name, turn.epoch, event.id, index)
        tick = Event(GATEWAY, b"", 0, self._tick_kind, 0, 0, {"due": due}, 0, origin)
        now = self._clock.now() if self._timers is None else self._timers.now()
        return Timer(self.name, tick, now, after, _TICK)

    def ticks(self) -> bool:
        """Whether a tick is on its way."""
        return self._timers is None or self._timers.waits(self.name, GATEWAY, _TICK)

    def _pane(self, event: Event, pane: Pane, turn: Turn, index: int) -> Record:
        if self.stream.computation is None:
            # Steps alone: an event goes in, and the event that it becomes comes out.
            kind = pane.values["kind"] if pane.values["kind"] != event.kind else self._kind
            return self._event(event, pane.key, kind, event.time, pane.values["data"], turn, index)
        by = getattr(self.stream.computation, "by", "device")
        device = pane.key if by == "device" else GATEWAY
        data: dict[str, Any] = {
            "key": pane.key,
            "start": pane.start,
            "end": pane.end,
            "values": pane.values,
            "timing": pane.timing,
            "number": pane.number,
            "retraction": pane.retraction,
        }
        if self._plain:
            window = {name: data[name] for name in ("key", "start", "end", "timing", "number", "retraction")}
            data = {**pane.values, "window": window}
        return self._event(event, device, self._kind, pane.end, data, turn, index)

    def _event(
        self, cause: Event, device: str, kind: str, time: int, data: Any, turn: Turn, index: int
    ) -> Event | DeadLetter:
        if cause.hops >= MAX_HOPS:
            return self._dead(cause, "hops", f"'{kind}' was not emitted: {MAX_HOPS} have answered each other already")
        origin = Origin(self.name, turn.epoch, cause.id, index)
        quiet = turn.quiet or cause.quiet
        return Event(device, b"", 0, kind, time, self._clock.now(), data, cause.hops + 1, origin, quiet)

    def _dead(self, event: Event, reason: str, detail: str) -> DeadLetter:
        return DeadLetter(self.name, reason, detail, self._clock.now(), event.device, event)


class _Session:
    """What a stream holds in memory, from its opening to its end, and what of it is not durable yet."""

    def __init__(self, flow: StreamFlow) -> None:
        self._flow = flow
        self.states: States = NoStates()
        self._session: WorkerSession | None = None
        self._ahead: list[tuple[str, Done]] = []
        """Events that were taken and are not settled, with their results: they are not taken a second time."""
        self._taking = False
        self._lost = False
        """A batch was begun in the worker and given up."""
        self._full = False
        """What was taken is to be committed, effects or not."""
        self._unsaved: dict[str, bytes | None] = {}
        self._due: int | None = None
        """The processing time of the tick that is on its way."""
        self._known_due = False
        self._closed = False

    async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
        if self._lost:
            raise StateLost
        self.states = turn.states
        known = self._ahead[: len(events)]
        if known:
            if [identity for identity, _ in known] != [event.id for event in events[: len(known)]]:
                raise StateLost  # What it has taken is not what comes: whoever settles it has gone.
            return Taken([done for _, done in known], commit=self._full)
        self._taking = True
        begun = False
        try:
            if self._session is None:
                self._session = await self._flow.open()
            if not self._known_due:
                self._due = await self._stored_due()
                self._known_due = True
            begun = True
            taken = await self._session.take(events, self._flow.tags_of(events), self._fetch, self._flow.fold)
        except OSError as error:
            return Taken([], Unavailable(f"the stream worker cannot be started: {error}"))
        except BaseException:
            # Cancelled, say: the worker may have taken what nobody will settle, so its state is of no more use.
            self._lost = begun
            raise
        finally:
            self._taking = False
        results: list[Done | Failed] = []
        by_event: dict[int, list[Result]] = {}
        for result in taken.results:
            by_event.setdefault(result.index, []).append(result)
        for index, event in enumerate(events[: taken.events]):
            if self._due is not None and _is_tick(event) and event.data.get("due", 0) >= self._due:
                self._due = None
            found = by_event.get(index)
            results.append(Done(self._flow.effects(event, found, turn)) if found else _NOTHING)
        if results:
            self._set_tick(events[len(results) - 1], taken, results, turn)
        if not turn.dry:
            self._full = taken.full
            self._ahead = [
                (event.id, done) for event, done in zip(events, results, strict=False) if isinstance(done, Done)
            ]
        return Taken(results, commit=taken.full and not turn.dry)

    @property
    def waiting(self) -> int:
        """Bytes of the results that are not settled, about."""
        return sum(rough(effect) for _, done in self._ahead for effect in done.effects)

    def _set_tick(self, event: Event, taken: Computed, results: list[Done | Failed], turn: Turn) -> None:
        """Have a tick come when it is needed, and within a minute as long as one is."""
        if taken.wakes is None:
            return
        due = max(taken.now, min(taken.wakes, taken.now + STEP))
        if self._due is not None and self._due <= due:
            return
        last = results[-1]
        assert isinstance(last, Done)
        timer = self._flow.tick(event, max(1, due - taken.now), due, turn, len(last.effects))
        results[-1] = Done([*last.effects, timer])
        self._due = due
        self._unsaved[_TICK] = str(due).encode()

    def passed(self, event: Event, done: Done) -> Taken:
        """An event was dealt with, without the computation."""
        if not self._ahead:
            self._ahead = [(event.id, done)]
        return Taken([done])

    def settled(self, number: int) -> None:
        del self._ahead[:number]

    async def checkpoint(self, settling: int, at: int) -> list[StateChange] | None:
        if self._lost:
            raise StateLost
        if self._taking or len(self._ahead) != settling:
            return None
        if self._session is not None:
            self._unsaved |= await self._session.dump()
        if not self._unsaved:
            return []
        buckets: dict[str, dict[str, Entry | None]] = {}
        for name, value in self._unsaved.items():
            text = None if value is None else _as_text(name, value)
            buckets.setdefault(_bucket(name), {})[self._flow.entry(name)] = None if text is None else (text, 0)
        buckets.setdefault(_bucket(_AT), {})[self._flow.entry(_AT)] = (str(at), 0)
        before = await self.states.entries(self._flow.name, buckets)
        return [
            StateChange(self._flow.name, key, entries, {name: before.get(key, {}).get(name) for name in entries})
            for key, entries in buckets.items()
        ]

    def checkpointed(self) -> None:
        self._unsaved = {}
        if self._session is not None:
            self._session.shrink()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    async def _stored_due(self) -> int | None:
        stored = (await self._fetch([_TICK]))[_TICK]
        # One that has come already will be read, and a second one does no harm.
        return None if stored is None or not self._flow.ticks() else int(stored)

    async def _fetch(self, names: Sequence[str]) -> dict[str, bytes | None]:
        """What is stored under these names; at least of one of them, if all is much."""
        found: dict[str, bytes | None] = {}
        size = 0
        for at in range(0, len(names), NAMES):
            if size >= PIECE:
                break
            found |= (part := await self._fetch_all(names[at : at + NAMES]))
            size += sum(len(value) for value in part.values() if value)
        return found

    async def _fetch_all(self, names: Sequence[str]) -> dict[str, bytes | None]:
        wanted: dict[str, list[str]] = {}
        for name in names:
            wanted.setdefault(_bucket(name), []).append(self._flow.entry(name))
        kept = await self.states.entries(self._flow.name, wanted)
        found: dict[str, bytes | None] = {}
        for name in names:
            entry = kept.get(_bucket(name), {}).get(self._flow.entry(name))
            found[name] = None if entry is None else _as_bytes(name, entry[0])
            if name in self._unsaved:
                found[name] = self._unsaved[name]
        return found


async def _nobody(folds: Sequence[Fold]) -> list[Folded]:
    return [Folded(failed="there is no app that could fold it")] * len(folds)


def _counted(result: Result) -> str:
    if isinstance(result, Pane):
        return "late_pane" if result.timing == "late" else result.timing
    if isinstance(result, Note):
        return "forgotten" if result.about == "forgotten" else "note"
    return "late" if isinstance(result, Late) else "excess"


def _bucket(name: str) -> str:
    return f"{zlib.crc32(name.encode()) % BUCKETS:02x}"


def _as_text(name: str, value: bytes) -> str:
    """State as the journal keeps it: text that is JSON."""
    return value.decode() if name == _TICK else f'"{base64.b64encode(value).decode()}"'


def _as_bytes(name: str, text: str) -> bytes:
    return text.encode() if name == _TICK else base64.b64decode(text[1:-1])


def _size(change: StateChange) -> int:
    kept = (*change.entries.items(), *change.before.items())
    return sum(len(name) + (len(entry[0]) if entry else 1) for name, entry in kept)


def _is_tick(event: Event) -> bool:
    return event.kind.startswith(TICK) and isinstance(event.data, dict)
