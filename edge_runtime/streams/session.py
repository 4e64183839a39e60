"""One stream at work: its steps, its computation and its time, as one. Pure; the worker runs it, and tests do."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from edge_runtime.events import GATEWAY, TICK, Event
from edge_runtime.streams.build import machine_of
from edge_runtime.streams.combined import told
from edge_runtime.streams.engine import Windows
from edge_runtime.streams.machine import LARGEST, MANY, MOST, MOST_OF_ONE, Excess, Pane, Result, weight
from edge_runtime.streams.messages import Fold, Folded, Taken
from edge_runtime.streams.running import RunningTime, WallTime
from edge_runtime.streams.steps import Steps, Tags
from edge_runtime.streamspec import Flatten, Stream, Window

CHUNK = 64
"""Events that go through the steps at a time."""
KEPT = 256 << 20
"""Bytes of memory that the state of a computation may take; beyond them what has not changed is read when it is needed.
"""

_TIME = "time"
_BEFORE, _MACHINE, _AFTER = "before/", "machine/", "after/"


Needs = list[str]
"""Names of state that is to be loaded."""
State = Mapping[str, bytes | None]
Answer = State | list[Folded]
Taking = Generator[Needs | list[Fold], Any, Taken]
"""Yields names of state and is sent that state; or what the app has to fold, and is sent what came of it. Returns what
it has taken."""


class Session:
    """`tags` answers a device's tags, for steps that add them."""

    def __init__(self, stream: Stream, tags: Tags) -> None:
        by_wall = isinstance(stream.computation, Window) and stream.computation.time == "processing"
        self._time_type: type[RunningTime] = WallTime if by_wall else RunningTime
        self._time: RunningTime | None = None
        self._saved = b""
        self._before = Steps(stream.steps, tags)
        self._machine = machine_of(stream)
        self._combined = self._machine.combined if isinstance(self._machine, Windows) else []
        self._after = Steps(stream.after, tags)
        # Steps that remember must not run ahead of what is taken, nor those that make many events of one.
        singly = self._before.remembers or any(isinstance(step, Flatten) for step in [*stream.steps, *stream.after])
        self._chunk = 1 if singly else CHUNK
        self._reported = 0
        """Bytes that had changed when it was last said that they are many."""

    def take(self, events: Sequence[Event]) -> Taking:
        """Take events in order; it may stop before the last, where much has come of them."""
        if self._time is None:
            state = (yield [_TIME])[_TIME]
            self._time = self._time_type.load(state) if state else self._time_type()
        taken, results, size, full = 0, list[Result](), 0, False
        while taken < len(events) and len(results) < MOST and size < MANY and not full:
            number, found = yield from self._take(events[taken : taken + self._chunk], self._time)
            if self._combined:
                yield from self._fold()
                found = [self._told(result) for result in found]
            if self._after:
                found = yield from self._shaped(found)
            found, more = _bounded(found)
            size += more
            results += [msgspec.structs.replace(result, index=result.index + taken) for result in found]
            taken += number
            full = self._owed() - self._reported >= MANY
        if full:
            self._reported = self._owed()
        wakes = None if self._machine is None else self._machine.wakes()
        return Taken(taken, results, self._time.now, wakes, full)

    def _owed(self) -> int:
        return sum(part.owed for part in (self._before, self._machine, self._after) if part is not None)

    def _take(self, chunk: Sequence[Event], time: RunningTime) -> Generator[Needs, State, tuple[int, list[Result]]]:
        while needs := self._before.needs(chunk):
            yield from self._load(_BEFORE, needs)
        moments = [(time.at(event), event.received) for event in chunk]
        ready: list[Event] = []
        owners: list[int] = []
        for index, event in enumerate(chunk):
            for one in (event,) if event.kind.startswith(TICK) else self._before.run(event):
                ready.append(one)
                owners.append(index)
        results: list[Result] = []
        if self._machine is None:
            size = 0
            for at, (owner, event) in enumerate(zip(owners, ready, strict=True)):
                if event.kind.startswith(TICK):
                    continue
                if (len(results) >= MOST or size >= MANY) and owner != owners[at - 1]:
                    time.now, time.seen = moments[owners[at - 1]]
                    return owner, results
                values = {"kind": event.kind, "data": event.data}
                results.append(Pane(owner, event.device, event.time, event.time, values))
                size += weight(results[-1:])
            return len(chunk), results
        times = [moments[owner][0] for owner in owners]
        done = 0
        while done < len(ready):
            rest, when = ready[done:], times[done:]
            while needs := self._machine.needs(rest, when):  # what it reads may tell it what else it needs
                yield from self._load(_MACHINE, needs)
            number, found = self._machine.take(rest, when)
            results += [msgspec.structs.replace(result, index=owners[result.index + done]) for result in found]
            done += number
            # It stops by itself where there is much; unless that is in the middle of what one event has become.
            if 0 < done < len(ready) and owners[done] != owners[done - 1]:
                time.now, time.seen = moments[owners[done - 1]]
                return owners[done], results
        return len(chunk), results

    def _fold(self) -> Generator[list[Fold], list[Folded], None]:
        for name, part in self._combined:
            yield from part.fold(name)

    def _told(self, result: Result) -> Result:
        if not isinstance(result, Pane):
            return result
        return msgspec.structs.replace(
            result, values=result.values | {name: told(result.values[name]) for name, _ in self._combined}
        )

    def _shaped(self, results: Sequence[Result]) -> Generator[Needs, State, list[Result]]:
        """The steps behind the computation, over the values of its panes."""
        found: list[Result] = []
        for result in results:
            if not isinstance(result, Pane):
                found.append(result)
                continue
            event = Event(result.key or GATEWAY, b"", 0, "pane", result.end, self._now, result.values)
            while needs := self._after.needs([event]):
                yield from self._load(_AFTER, needs)
            for shaped in self._after.run(event):
                values = shaped.data if isinstance(shaped.data, dict) else {"value": shaped.data}
                found.append(msgspec.structs.replace(result, values=values))
        return found

    @property
    def _now(self) -> int:
        return 0 if self._time is None else self._time.now

    def _load(self, prefix: str, names: Collection[str]) -> Generator[Needs, State, None]:
        if names:
            state = yield [prefix + name for name in names]
            # It may be a part of it, where all is much: the rest is asked for again.
            found = {name: state[prefix + name] for name in names if prefix + name in state}
            part = {_BEFORE: self._before, _MACHINE: self._machine, _AFTER: self._after}[prefix]
            assert part is not None
            part.load(found)

    def dump(self) -> dict[str, bytes | None]:
        """What has changed since the last dump; None for what is gone."""
        found: dict[str, bytes | None] = {}
        for prefix, part in ((_BEFORE, self._before), (_MACHINE, self._machine), (_AFTER, self._after)):
            if part is not None:
                found |= {prefix + name: value for name, value in part.dump().items()}
        if self._machine is not None and self._time is not None and (packed := self._time.dump()) != self._saved:
            found[_TIME] = self._saved = packed
        self._reported = 0
        return found

    def shrink(self, most: int = KEPT) -> None:
        """Let go of state that need not be in memory, where it takes more bytes than that."""
        for part in (self._before, self._machine, self._after):
            if part is not None:
                part.shrink(most)


def _bounded(results: list[Result]) -> tuple[list[Result], int]:
    """What of the results of each event can be stored in one piece, and how many bytes it is."""
    size = weight(results)
    if len(results) <= MOST_OF_ONE and size <= LARGEST:
        return results, size
    kept: list[Result] = []
    size = 0
    for index, group in groupby(results, key=lambda result: result.index):
        number = of_one = lost = 0
        for result in group:
            more = weight([result])
            if lost or number == MOST_OF_ONE or of_one + more > LARGEST:
                lost += 1
                continue
            number += 1
            of_one += more
            kept.append(result)
        if lost:
            kept.append(Excess(index, lost))
        size += of_one
    return kept, size
