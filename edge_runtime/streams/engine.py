"""Windows as a machine: events in, panes out, state by name.

The order of things, on which the results depend and nothing else: first whatever processing time has come to by then,
step by step (devices that go idle, timers); then the event, in its windows; then what the watermark has come to by it,
by deadline and key. Where that is much, it goes on with the events and ticks after it; until a window has been told of
its end, it takes events as before.

State is held under these names: `=<key>` for a partition key, `~head`, `~marks.<segment>` for the devices' watermarks,
`~due.<bucket>.<segment>` and `~timer.<bucket>.<segment>` for the indices of what is due when. `needs` has to be asked
until it asks for nothing more: the head tells which parts of the indices are needed, and these which keys.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.events import TICK, Event
from edge_runtime.size import rough
from edge_runtime.streams.cells import Cell, Shaped
from edge_runtime.streams.compute import Compute
from edge_runtime.streams.due import Due
from edge_runtime.streams.grid import Grid, Sliced
from edge_runtime.streams.machine import CELL, FRESH, GROWN, MANY, MOST, Late, Machine, Note, Result, weight
from edge_runtime.streams.paths import key_of
from edge_runtime.streams.sessions import Sessions
from edge_runtime.streams.triggers import Triggers
from edge_runtime.streams.watermarks import BEGINNING, COUNTS, LOOKED, NEVER, WILD, Clock, Watermarks, segments
from edge_runtime.streams.windows import SessionWindows, SlidingWindows, function
from edge_runtime.streamspec import SECOND, Fixed, Global, Session, Sliding, Window

VERSION = 2
"""Of what is dumped. The first one, which is read as well, had the devices in other pieces."""
OVERLAP = MOST
"""Sliding windows of an event that may all have to speak because of it."""
COMMON = 100
"""Bytes by which an event of numbers lets the state grow, about."""
AHEAD = 4 * MOST
"""Keys that have something due soon and are asked for together."""

HEAD = "~head"
_MARKS = "~marks."
_DUE = "~due."
_TIMER = "~timer."
_KEY = "="

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def machine(spec: Window) -> Machine:
    """The machine of a window specification. Raises `ConfigError` for one that cannot be."""
    return Windows(spec)


class Windows:
    """The machine of a window specification. Raises `ConfigError` for one that cannot be."""

    def __init__(self, spec: Window) -> None:
        self._key_of = key_of(spec.by)
        self._by_device = spec.by == "device"
        if spec.time not in ("event", "processing"):
            raise ConfigError(f"There is no time '{spec.time}'", hint="'event' or 'processing'.")
        if min(spec.lateness, spec.delay, spec.ahead, spec.behind) < 0 or spec.idle <= 0:
            raise ConfigError("A length of time is less than it can be", hint="'idle' is more than 0, others not less.")
        self._by_event = spec.time == "event"
        self._compute = Compute(spec.compute)
        self.combined = self._compute.combined
        """Aggregates whose states are to be folded by the app, after each `take`."""
        self._triggers = Triggers(spec.trigger, spec.accumulation, self._compute)
        self._timers = self._triggers.timers
        self._results = self._triggers.results
        self._holds = self._compute.holds
        self.owed = 0
        """See `Machine`."""
        lateness = spec.lateness if self._by_event else 0
        self._shaped = _shaped(spec, self._compute, self._triggers, lateness)
        self._copies = 1
        """Of an event's values, where each window holds its own."""
        if isinstance(spec.shape, Sliding) and type(self._shaped) is Grid:
            self._copies = -(-spec.shape.size // spec.shape.every)
        self._due = Due(_DUE, _width(spec, lateness))
        self._marks: Watermarks | Clock = Clock()
        if self._by_event:
            self._marks = Watermarks(
                delay=spec.delay, idle=spec.idle, ahead=spec.ahead, behind=spec.behind, lateness=lateness
            )
        self._cells: dict[str, Cell] = {}
        self._changed: list[Cell] = []
        self._gone: set[str] = set()
        """Keys that are no more, but may still be stored."""
        self._recent: set[str] = set()
        """Keys that have changed since the last `shrink`."""
        self._absent: set[str] = set()
        """Keys of which nothing is stored, as far as it was asked for."""
        self._stored = 0
        """Bytes that those in memory take where they are stored."""
        self._keys = 0
        """How many there are, in memory and stored."""
        self._now = 0
        self.before = NEVER
        """What is due next, which the watermark has not come to; `NEVER` if nothing is, or if it has."""
        self._head: list[Any] | None = None
        """The head, as long as what it names is not yet in memory."""
        self._parts: dict[str, Any] = {}
        """What of that was loaded so far; None for what is missing."""
        self._ready = False
        self._lacking = True
        """Whether something may be needed that was not asked for."""
        self._enough = NEVER
        """Keys that `take` may look at because something of them is due."""
        self._looked = 0
        """How many it has."""
        self._over = 0
        """How many for the present event, and how many more results they gave."""
        self._behind = False
        """Something is due and has not been dealt with."""
        self._written = b""
        """The head as it was dumped last."""

    # --- Events -----------------------------------------------------------------------------------------------------

    def take(self, events: Sequence[Event], times: Sequence[int]) -> tuple[int, list[Result]]:
        """Deal with events in order; see `Machine`. It takes none while there is still something that it needs."""
        if self._lacking and self.needs(events, times):
            return 0, []
        marks, timed, registered, results = self._marks, self._timers.times, self._shaped.registered, self._results
        see, add, feed, cells, key_of = marks.see, self._shaped.add, self._compute.feed, self._cells, self._key_of
        by_event, by_device, gap = self._by_event, self._by_device, self._shaped.gap
        self._looked = 0
        holds, limit, size, weighed = self._holds, self.owed + MANY, 0, 0
        index, common, check = -1, "", BEGINNING if self._behind or holds else marks.check
        for index, event in enumerate(events):
            now = times[index]
            slow = now >= check or (timed and now >= timed[0])
            if slow:
                self._over = 0
                self._pass(now, index)
            # A kind that is no tick's mostly is that of the event before, too.
            if event.kind == common or not event.kind.startswith(TICK):
                common, device, time = event.kind, event.device, event.time if by_event else now
                verdict = see(device, time, event.received, now)
                if verdict != COUNTS:
                    self._over = self._over if slow else 0
                    slow = True
                    if marks.notes:
                        self._told(index)
                key = device if by_device else key_of(event)
                if verdict == WILD or key is None:
                    results.append(Late(index, 0))
                else:
                    cell = cells.get(key)
                    if cell is None:
                        cell = Cell(key)
                        add(cell, event, time, index, now, self)
                        if cell.windows:
                            self._begun(cell)
                    else:
                        if not cell.changed:
                            cell.changed = True
                            self._changed.append(cell)
                            self.owed += cell.size
                            slow = slow or self.owed >= limit
                        window = cell.last
                        if window is not None and window.plain and window.start <= time < window.end:
                            feed(window.states, event, time)
                            window.fresh += 1
                            if time + gap > window.end:
                                window.end = time + gap
                        else:
                            add(cell, event, time, index, now, self)
                    if registered:
                        slow = True
                        self._register(now)
                if verdict != COUNTS and verdict != LOOKED:
                    self._advance(now, index)
            if slow or results:
                if holds:
                    self.owed += rough(event) * self._copies
                    if len(results) > weighed:
                        size += weight(results[weighed:])
                        weighed = len(results)
                check = BEGINNING if self._behind or holds else marks.check
                much = len(results) >= MOST or size >= MANY or self.owed >= limit
                if much or self._looked > self._enough:
                    break
        if index >= 0:
            self._now = times[index]
            self.owed += COMMON * (index + 1)
        taken = list(results)
        results.clear()
        self._absent.clear()
        self._lacking = not self._whole
        return index + 1, taken

    @property
    def watermark(self) -> int:
        """The flow's watermark after the last event."""
        return self._marks.at(self._now)

    def at(self, now: int) -> int:
        """How far the windows have been told of: the watermark, but for what is due and has not been dealt with."""
        watermark, due = self._marks.at(now), self._due
        return watermark if due.first > watermark else due.dealt

    def _begun(self, cell: Cell) -> None:
        self._cells[cell.key] = cell
        self._keys += 1
        self.owed += FRESH
        self._gone.discard(cell.key)
        self._change(cell)

    def _told(self, index: int) -> None:
        self._results.extend(Note(index, *note) for note in self._marks.notes)
        self._marks.notes.clear()

    def _register(self, now: int) -> None:
        for deadline, key in self._shaped.registered:
            self._due.add(deadline, key)
        self._shaped.registered.clear()
        if self._due.earliest < self.before and not self._behind:
            self.before = self._due.earliest
            self._marks.want(self.before, now)

    def _pass(self, now: int, index: int) -> None:
        """Go through what processing time has come to, in its order, however large the step from the last event."""
        if self._behind:
            self._advance(now, index)
        timers = self._timers
        while self._over < MOST and (step := min(self._marks.check, timers.first)) <= now:
            if step == timers.first:
                deadline, key = timers.pop()
                cell = self._looked_at(key)
                if cell is not None:
                    before = len(self._results)
                    self._shaped.expired(cell, deadline, index)
                    if self._holds:
                        self._over += self._heavy(before)
            else:
                self._advance(step, index)
        timers.settle(now)

    def _advance(self, now: int, index: int) -> None:
        """Deal with what the watermark has come to; with a part of it, where it is much."""
        due, shaped = self._due, self._shaped
        watermark, times = self._marks.at(now), due.times
        while times and times[0] <= watermark and self._over < MOST:
            deadline, key = due.pop()
            cell = self._looked_at(key)
            if cell is None:
                continue
            before = len(self._results)
            shaped.due(cell, deadline, index)
            self._over += max(0, len(self._results) - before - 1)
            if self._holds:
                self._over += self._heavy(before)
            if not cell.windows:
                del self._cells[key]
                self._stored -= cell.size
                self._keys -= 1
                self._gone.add(key)
            if shaped.registered:
                for again, key in shaped.registered:
                    due.add(again, key)
                shaped.registered.clear()
        self._behind = due.first <= watermark
        due.settle(watermark)
        self.before = NEVER if self._behind else due.earliest
        self._marks.want(due.earliest, now)

    def _heavy(self, before: int) -> int:
        """For how many more the results from there on count, since they may be large."""
        return weight(self._results[before:]) * MOST // MANY

    def _looked_at(self, key: str) -> Cell | None:
        self._over += 1
        self._looked += 1
        cell = self._cells.get(key)
        if cell is not None:
            self._change(cell)
        return cell

    def wakes(self) -> int | None:
        """When a device goes idle that holds something back, or a timer is due; see `Machine`."""
        if self._behind:
            return self._now
        at = max(min(self._marks.wakes(), self._timers.earliest), self._now)
        return None if at >= NEVER else at

    def _change(self, cell: Cell) -> None:
        if not cell.changed:
            cell.changed = True
            self._changed.append(cell)
            self.owed += cell.size

    # --- State ------------------------------------------------------------------------------------------------------

    def needs(self, events: Sequence[Event], times: Sequence[int]) -> Collection[str]:
        """See `Machine`; to be asked until it is empty, or `take` takes nothing."""
        names = self._needed(events, times)
        self._lacking = bool(names)
        return names

    def _needed(self, events: Sequence[Event], times: Sequence[int]) -> Collection[str]:
        if not self._ready:
            return self._missing()
        self._enough = NEVER
        if not events or self._whole:
            return ()
        happened = [(event, now) for event, now in zip(events, times, strict=True) if not event.kind.startswith(TICK)]
        until = times[-1]
        bound = self._marks.bound(happened, until)
        names = {*self._due.needs(bound), *self._timers.needs(until)}
        if names or len(self._cells) == self._keys:
            return names
        # Of what is due only so much is looked at here; `take` stops before it could come to more.
        self._enough = AHEAD - 2 * MOST
        keys = {self._key_of(event) for event, _ in happened}
        keys.update(self._due.soon(bound, AHEAD), self._timers.soon(until, AHEAD))
        known = (self._cells, self._absent, self._gone)
        return {_KEY + key for key in keys if key is not None and not any(key in names for names in known)}

    def load(self, state: Mapping[str, bytes | None]) -> None:
        """See `Machine`. Raises `StorageError` for what this version cannot read."""
        if not self._ready:
            self._begin(state)
            return
        for name, dumped in state.items():
            if name.startswith(_KEY):
                key = name[len(_KEY) :]
                if dumped is None:
                    self._absent.add(key)
                elif key not in self._cells:
                    cell = self._cells[key] = self._shaped.load(key, _decode(dumped))
                    cell.size = len(dumped)
                    self._stored += cell.size
            else:
                index = self._due if name.startswith(_DUE) else self._timers
                index.load(name, _required(name, dumped))
        if self.before <= self._marks.value:
            self.before = NEVER  # It was of what was not in memory, and has been dealt with.
        self._register(self._passed)

    def _missing(self) -> list[str]:
        return [HEAD] if self._head is None else [name for name, part in self._parts.items() if part is None]

    def _begin(self, state: Mapping[str, bytes | None]) -> None:
        if self._head is None and HEAD in state:
            dumped = state[HEAD]
            if dumped is None:
                self._ready = True
                return
            self._head = _decode(dumped)
            if self._head[0] not in (1, VERSION):
                raise StorageError(
                    f"The windows' state is of version {self._head[0]}", hint="A newer gateway wrote it."
                )
            _, marks, due, timers, self._keys, self._now, self._behind, *_ = self._head
            chunks = [f"{_MARKS}{number}" for number in segments(marks)]
            self._parts = dict.fromkeys([*chunks, *self._due.take_up(due), *self._timers.take_up(timers)])
        for name in self._parts:
            if name in state:
                self._parts[name] = _required(name, state[name])
        if self._head is not None and not self._missing():
            self._marks.load(self._head[1], [part for name, part in self._parts.items() if name.startswith(_MARKS)])
            for index, prefix in ((self._due, _DUE), (self._timers, _TIMER)):
                for name, part in self._parts.items():
                    if name.startswith(prefix):
                        index.load(name, part)
            if self._head[7:]:
                self._marks.check = self._head[7] + 1
            self._register(self._passed)
            self._parts.clear()
            self._ready = True

    def dump(self) -> dict[str, bytes | None]:
        """See `Machine`."""
        state: dict[str, bytes | None] = {_KEY + key: None for key in self._gone}
        self._gone.clear()
        for cell in self._changed:
            cell.changed = False
            if self._cells.get(cell.key) is cell:
                dumped = state[_KEY + cell.key] = _encode(self._shaped.dump(cell))
                self._stored += len(dumped) - cell.size
                cell.size = len(dumped)
                self._recent.add(cell.key)
        self._changed.clear()
        self.owed = 0
        for number, devices in self._marks.dump():
            state[f"{_MARKS}{number}"] = None if devices is None else _encode(devices)
        for index in (self._due, self._timers):
            for name, entries in index.dump():
                state[name] = None if entries is None else _encode(entries)
        if self._ready:
            parts = [self._marks.head(), self._due.head(), self._timers.head(), self._keys, self._now, self._behind]
            parts.append(self._passed)
            head = _encode([VERSION, *parts])
            if head != self._written:
                state[HEAD] = self._written = head
        return state

    def shrink(self, most: int) -> None:
        """See `Machine`: the keys that have not changed for longest go first, and what is due only later on."""
        if self._held() > most:
            less = most * 7 // 8  # Not a few each time: all are looked at for it.
            for spared in (self._recent, ()):
                for key in [key for key, cell in self._cells.items() if not cell.changed and key not in spared]:
                    if self._held() <= less:
                        break
                    self._stored -= self._cells.pop(key).size
        self._recent.clear()
        self._due.shrink(self._marks.value, most // CELL)
        self._timers.shrink(self._now, most // CELL)
        self._lacking = self._lacking or not self._whole

    def _held(self) -> int:
        return len(self._cells) * CELL + self._stored * GROWN

    @property
    def _passed(self) -> int:
        """Processing time up to which all has been done: it is before now where that was too much for one event."""
        return min(self._now, self._marks.check - 1)

    @property
    def _whole(self) -> bool:
        """Whether all state is in memory."""
        return len(self._cells) == self._keys and self._due.whole and self._timers.whole


def _required(name: str, dumped: bytes | None) -> Any:
    if dumped is None:
        raise StorageError(f"The windows' state lacks '{name}'", hint="Its store is damaged: deploy the app anew.")
    return _decode(dumped)


def _shaped(spec: Window, compute: Compute, triggers: Triggers, lateness: int) -> Shaped:
    shape, made = spec.shape, function(spec.shape)
    if isinstance(made, SessionWindows) and isinstance(shape, Session):
        return Sessions(made, shape.gap, compute, triggers, lateness)
    if isinstance(shape, Global) and not triggers.early:
        raise ConfigError("A global window without an early trigger never says anything", hint="Such as early_count.")
    if isinstance(made, SlidingWindows) and isinstance(shape, Sliding):
        if shape.size > OVERLAP * shape.every and (triggers.early or lateness):
            hint = f"Beyond {OVERLAP} of them windows can have neither lateness nor early triggers."
            raise ConfigError(f"Each event would belong to {shape.size // shape.every} windows", hint=hint)
        if not (triggers.discarding and triggers.early):
            return Sliced(made, shape.size, shape.every, compute, triggers, lateness)
        return Grid(made, False, shape.size, compute, triggers, lateness)
    return Grid(made, True, shape.size if isinstance(shape, Fixed) else 0, compute, triggers, lateness)


def _width(spec: Window, lateness: int) -> int:
    """Of the buckets of what is due: few of them are open at a time."""
    shape = spec.shape
    if isinstance(shape, Fixed):
        step = shape.size
    elif isinstance(shape, Sliding):
        step = shape.every
    else:
        step = shape.gap if isinstance(shape, Session) else SECOND
    return max(step, lateness // 64, SECOND)
