"""Processing time as streams reckon it: by the journal alone, so that it is the same on every replay.

The wall clock may be set, by seconds or by years, and events carry what it said. So it is only believed from one event
to the next, and for a minute at most; what is longer is told by ticks, which the gateway's timers count in running
time. While a computation waits for anything, there is a tick every minute at least.
"""

from __future__ import annotations

import msgspec

from edge_runtime.events import TICK, Event

STEP = 60_000_000
"""Microseconds by which one event moves processing time at most."""
_pack = msgspec.msgpack.Encoder().encode


class RunningTime:
    """Processing time of one stream, microseconds. It begins with the wall clock's and never goes back."""

    def __init__(self, now: int = 0, seen: int = 0) -> None:
        self.now = now
        self.seen = seen

    def at(self, event: Event) -> int:
        """The processing time at which an event comes; `now` from then on."""
        if event.kind.startswith(TICK):
            due = event.data.get("due") if isinstance(event.data, dict) else None
            if isinstance(due, int) and due > self.now:
                self.now = due
        elif not self.seen:
            self.now = max(self.now, event.received)
        else:
            self.now += min(max(event.received - self.seen, 0), STEP)
        self.seen = event.received
        return self.now

    def dump(self) -> bytes:
        """For `load`."""
        return _pack((self.now, self.seen))

    @classmethod
    def load(cls, state: bytes) -> RunningTime:
        """As it was dumped."""
        now, seen = msgspec.msgpack.decode(state, type=tuple[int, int])
        return cls(now, seen)


class WallTime(RunningTime):
    """For windows of processing time, whose edges are the wall clock's: what events carry, but never back."""

    def at(self, event: Event) -> int:
        """As `RunningTime.at`."""
        self.now = max(self.now, event.received)
        return self.now
