"""One stream at work: its steps, its computation and its time, as one. Pure; the worker runs it, and tests do."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence

import msgspec

from edge_runtime.events import GATEWAY, TICK, Event
from edge_runtime.streams.build import machine_of
from edge_runtime.streams.machine import MOST, Pane, Result
from edge_runtime.streams.messages import Taken
from edge_runtime.streams.running import RunningTime, WallTime
from edge_runtime.streams.steps import Steps, Tags
from edge_runtime.streamspec import Stream, Window

CHUNK = 64
"""Events that go through the steps at a time."""
KEPT = 200_000
"""Names of state that a computation holds in memory; beyond them what has not changed is read when it is needed."""

_TIME = "time"
_BEFORE, _MACHINE, _AFTER = "before/", "machine/", "after/"


Needs = list[str]
"""Names of state that is to be loaded."""
State = Mapping[str, bytes | None]
Taking = Generator[Needs, State, Taken]
"""Yields names of state, is sent that state, and returns what it has taken."""


class Session:
    """`tags` answers a device's tags, for steps that add them."""

    def __init__(self, stream: Stream, tags: Tags) -> None:
        by_wall = isinstance(stream.computation, Window) and stream.computation.time == "processing"
        self._time_type: type[RunningTime] = WallTime if by_wall else RunningTime
        self._time: RunningTime | None = None
        self._saved = b""
        self._before = Steps(stream.steps, tags)
        self._machine = machine_of(stream)
        self._after = Steps(stream.after, tags)

    def take(self, events: Sequence[Event]) -> Taking:
        """Take events in order; it may stop before the last, where there are many results."""
        if self._time is None:
            state = (yield [_TIME])[_TIME]
            self._time = self._time_type.load(state) if state else self._time_type()
        taken, results = 0, list[Result]()
        while taken < len(events) and len(results) < MOST:
            # Steps that remember must not run ahead of what is taken.
            chunk = events[taken : taken + (1 if self._before.remembers else CHUNK)]
            number, found = yield from self._take(chunk, self._time)
            results += [msgspec.structs.replace(result, index=result.index + taken) for result in found]
            taken += number
        if self._after:
            results = yield from self._shaped(results)
        wakes = None if self._machine is None else self._machine.wakes()
        return Taken(taken, results, self._time.now, wakes)

    def _take(self, chunk: Sequence[Event], time: RunningTime) -> Generator[Needs, State, tuple[int, list[Result]]]:
        yield from self._load(_BEFORE, self._before.needs(chunk))
        moments = [(time.at(event), event.received) for event in chunk]
        ready: list[Event] = []
        owners: list[int] = []
        for index, event in enumerate(chunk):
            for one in (event,) if event.kind.startswith(TICK) else self._before.run(event):
                ready.append(one)
                owners.append(index)
        if self._machine is None:
            return len(chunk), [
                Pane(owner, event.device, event.time, event.time, {"kind": event.kind, "data": event.data})
                for owner, event in zip(owners, ready, strict=True)
                if not event.kind.startswith(TICK)
            ]
        times = [moments[owner][0] for owner in owners]
        results: list[Result] = []
        done = 0
        while done < len(ready):
            rest, when = ready[done:], times[done:]
            while needs := self._machine.needs(rest, when):  # what it reads may tell it what else it needs
                yield from self._load(_MACHINE, needs)
            number, found = self._machine.take(rest, when)
            results += [msgspec.structs.replace(result, index=owners[result.index + done]) for result in found]
            done += number
            if len(results) >= MOST and done < len(ready) and owners[done] != owners[done - 1]:
                time.now, time.seen = moments[owners[done - 1]]
                return owners[done], results
        return len(chunk), results

    def _shaped(self, results: Sequence[Result]) -> Generator[Needs, State, list[Result]]:
        """The steps behind the computation, over the values of its panes."""
        found: list[Result] = []
        for result in results:
            if not isinstance(result, Pane):
                found.append(result)
                continue
            event = Event(result.key or GATEWAY, b"", 0, "pane", result.end, self._now, result.values)
            yield from self._load(_AFTER, self._after.needs([event]))
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
            found = {name: state.get(prefix + name) for name in names}
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
        return found

    def shrink(self) -> None:
        """Let go of state that need not be in memory."""
        for part in (self._before, self._machine, self._after):
            if part is not None:
                part.shrink(KEPT)
