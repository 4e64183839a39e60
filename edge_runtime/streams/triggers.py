"""When a window speaks, and what it says of what it has said before.

A pane leaves when the watermark has come to the end of the window (`on_time`: exactly one, of each window that had an
event by then, even if there is nothing new in it), before that (`early`) by the count of events or by processing time,
and after that (`late`) until the watermark is `lateness` beyond the end; then the window is forgotten. By accumulation:

- `discarding`: what has come since the last pane;
- `accumulating`: all that has come;
- `retracting`: likewise, after a retraction of what was said before: the same pane once more, marked as one. When
  sessions have grown together, all that the parts had last said is taken back.
"""

from __future__ import annotations

from typing import Any

from edge_runtime.errors import ConfigError, nearest
from edge_runtime.streams.compute import Compute, States
from edge_runtime.streams.due import Due
from edge_runtime.streams.machine import Pane, Result
from edge_runtime.streams.watermarks import NEVER
from edge_runtime.streamspec import SECOND, Trigger

Said = tuple[int, int, dict[str, Any], str, int]
"""Start, end, values, timing and number of a pane."""

ACCUMULATIONS = ("discarding", "accumulating", "retracting")


class Open:
    """A window of a key that is still of interest."""

    __slots__ = (
        *("closed", "due", "end", "fresh", "newest", "number", "oldest", "plain", "said", "start", "states", "timer"),
    )

    def __init__(self, start: int, end: int, states: States | None) -> None:
        self.start = start
        self.end = end
        self.states = states
        """None where it is put together from slices."""
        self.fresh = 0
        """Events since the last pane."""
        self.closed = False
        """The watermark has come to its end."""
        self.plain = False
        """An event in it has only to be added."""
        self.number = 0
        self.timer = 0
        """Processing time at which it is to speak; 0 for none."""
        self.due = end
        """Of a session: the deadline under which it stands in the index."""
        self.said: tuple[Said, ...] = ()
        """What would have to be taken back."""
        self.oldest = NEVER
        """Of the global window: the times of its events."""
        self.newest = -NEVER

    def dump(self, compute: Compute) -> list[Any]:
        """Plain values."""
        states = None if self.states is None else compute.dump(self.states)
        rest = [self.fresh, self.closed, self.number, self.timer, self.due, self.said, self.oldest, self.newest]
        return [self.start, self.end, states, *rest]

    @classmethod
    def load(cls, plain: list[Any], compute: Compute) -> Open:
        """What was dumped."""
        start, end, states, *rest = plain
        window = cls(start, end, None if states is None else compute.load(states))
        window.fresh, window.closed, window.number, window.timer, window.due, *rest = rest
        window.said = tuple(tuple(item) for item in rest[0])
        window.oldest, window.newest = rest[1:]
        return window


class Triggers:
    """The triggers and the accumulation of a specification; `results` collects what is said."""

    def __init__(self, trigger: Trigger, accumulation: str, compute: Compute) -> None:
        if accumulation not in ACCUMULATIONS:
            raise ConfigError(f"There is no accumulation '{accumulation}'", hint=nearest(accumulation, ACCUMULATIONS))
        if min(trigger.early_count, trigger.early_every, trigger.late_every) < 0:
            raise ConfigError("A trigger counts or waits for less than nothing", hint="0 for none.")
        self._trigger = trigger
        self._compute = compute
        self.discarding = accumulation == "discarding"
        self._retracting = accumulation == "retracting"
        self.early = bool(trigger.early_count or trigger.early_every)
        """Whether there can be panes before the end."""
        self.results: list[Result] = []
        self.timers = Due("~timer.", max(trigger.early_every, trigger.late_every, SECOND))

    def added(self, key: str, window: Open, now: int) -> bool:
        """An event was added to the window: whether it has to speak now. Otherwise a timer may have been set."""
        trigger = self._trigger
        if window.closed:
            wait = trigger.late_every
            if not wait:
                return True
        elif trigger.early_count and window.fresh >= trigger.early_count:
            return True
        else:
            wait = trigger.early_every
        if wait and not window.timer:
            window.timer = now + wait
            self.timers.add(window.timer, key)
        return False

    def say(self, key: str, window: Open, states: States, timing: str, index: int, again: bool = True) -> None:
        """A pane of these states; the retractions before it. `again`: there may be more of the window."""
        whole = window.end < NEVER
        start = window.start if whole else window.oldest
        end = window.end if whole else window.newest
        values = self._compute.values(states, start, end)
        if self._retracting:
            for said in window.said:
                self.results.append(Pane(index, key, *said, retraction=True))
            window.said = ((start, end, values, timing, window.number),)
        self.results.append(Pane(index, key, start, end, values, timing, window.number))
        window.number += 1
        window.fresh = 0
        window.timer = 0
        if self.discarding and again:
            if window.states is not None:
                window.states = self._compute.zero()
            if not whole:
                window.oldest, window.newest = NEVER, -NEVER
