"""Windows as one would do them without a thought for speed: all events kept, every microsecond looked at."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_runtime.events import TICK, Event
from edge_runtime.streams.machine import Late, Pane, Result
from edge_runtime.streamspec import Fixed, Session, Sliding, Window

LONG_AGO = -(2**62)


class Kept:
    """A window."""

    def __init__(self, key: str, start: int, end: int) -> None:
        self.key, self.start, self.end = key, start, end
        self.events: list[Event] = []
        self.fresh: list[Event] = []
        self.closed = False
        self.number = 0
        self.timer = 0
        self.said: list[Pane] = []


class Naive:
    """Only for event time, fixed, sliding and session windows, and clocks that are not wild."""

    def __init__(self, spec: Window) -> None:
        self.spec = spec
        self.watermark = LONG_AGO
        self.now = 0
        self.newest: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.windows: list[Kept] = []
        self.results: list[Result] = []
        self.index = 0

    def take(self, event: Event, now: int, index: int) -> list[Result]:
        self.results, self.index = [], index
        while self.now < now:
            self.now += 1
            self._timers()
            self._watermark()
            self._fire()
        if not event.kind.startswith(TICK):
            self.newest[event.device] = max(event.time, self.newest.get(event.device, LONG_AGO))
            self.seen[event.device] = now
            self._add(event)
            self._watermark()
            self._fire()
        return self.results

    def _watermark(self) -> None:
        if not self.seen:
            return
        active = [self.newest[name] for name, seen in self.seen.items() if seen + self.spec.idle > self.now]
        asleep = self.now - max(self.seen.values()) - self.spec.idle
        newest = min(active) if active else max(self.newest.values()) + asleep
        self.watermark = max(self.watermark, newest - self.spec.delay)

    def _timers(self) -> None:
        for window in sorted(self.windows, key=lambda window: (window.key, window.start)):
            if window.timer == self.now:
                self._say(window, "late" if window.closed else "early")

    def _deadline(self, window: Kept) -> int:
        return window.end + self.spec.lateness if window.closed else window.end

    def _fire(self) -> None:
        while due := [window for window in self.windows if self._deadline(window) <= self.watermark]:
            window = min(due, key=lambda window: (self._deadline(window), window.key, window.start))
            if not window.closed:
                self._say(window, "on_time")
                window.closed = True
            if window.end + self.spec.lateness <= self._limit(window):
                if window.fresh:
                    self._say(window, "late")
                self.windows.remove(window)

    def _limit(self, window: Kept) -> int:
        """One that has just ended is forgotten in its turn."""
        return self.watermark if self.spec.lateness == 0 or self._deadline(window) > window.end else LONG_AGO

    def _spans(self, time: int) -> list[tuple[int, int]]:
        shape = self.spec.shape
        if isinstance(shape, Session):
            return [(time, time + shape.gap)]
        assert isinstance(shape, Fixed | Sliding)
        every = shape.size if isinstance(shape, Fixed) else shape.every
        low, high = (time - shape.size - shape.offset) // every - 1, (time - shape.offset) // every + 1
        starts = (number * every + shape.offset for number in range(low, high + 1))
        return [(start, start + shape.size) for start in starts if start <= time < start + shape.size]

    def _add(self, event: Event) -> None:
        spans = self._spans(event.time)
        homes = [home for span in spans if (home := self._home(event.device, *span)) is not None]
        if spans and not homes:
            self.results.append(Late(self.index, self.watermark - spans[-1][1] - self.spec.lateness + 1))
        trigger = self.spec.trigger
        for window in homes:
            window.events.append(event)
            window.fresh.append(event)
            wait = trigger.late_every if window.closed else trigger.early_every
            counted = not window.closed and 0 < trigger.early_count <= len(window.fresh)
            if counted or (window.closed and not wait):
                self._say(window, "late" if window.closed else "early")
            elif wait and not window.timer:
                window.timer = self.now + wait

    def _home(self, key: str, start: int, end: int) -> Kept | None:
        mine = [window for window in self.windows if window.key == key]
        if isinstance(self.spec.shape, Session):
            parts = sorted(
                (item for item in mine if item.start < end and start < item.end), key=lambda item: item.start
            )
            start, end = min([start, *(part.start for part in parts)]), max([end, *(part.end for part in parts)])
        else:
            parts = [item for item in mine if item.start == start]
        if end + self.spec.lateness <= self.watermark:
            return None
        window = Kept(key, start, end)
        for part in parts:
            self.windows.remove(part)
            window.events += part.events
            window.fresh += part.fresh
            window.number = max(window.number, part.number)
            window.timer = min(filter(None, (window.timer, part.timer)), default=0)
            window.said += part.said
        window.closed = end <= self.watermark
        self.windows.append(window)
        return window

    def _say(self, window: Kept, timing: str) -> None:
        for said in window.said:
            self.results.append(msgspec.structs.replace(said, index=self.index, retraction=True))
        events = window.fresh if self.spec.accumulation == "discarding" else window.events
        pane = Pane(self.index, window.key, window.start, window.end, batch(events), timing, window.number)
        self.results.append(pane)
        window.said = [pane] if self.spec.accumulation == "retracting" else []
        window.number += 1
        window.fresh = []
        window.timer = 0


def batch(events: list[Event]) -> dict[str, Any]:
    """What the aggregates of the tests come to over these events, all at once."""
    ordered = sorted(events, key=lambda event: (event.time, event.seq))
    values = [event.data["v"] for event in ordered]
    return {
        "n": len(values),
        "sum": sum(values),
        "max": max(values, default=None),
        "last": values[-1] if values else None,
        "all": {"items": values, "left_out": 0},
    }
