"""How far event time has come: a watermark for each device, and their minimum.

**A device's watermark** is the newest event time it has sent, less `delay`. **The flow's** is the minimum over the
active devices, and never goes back. A device is active until it has sent nothing for `idle` of processing time. When
none is, the watermark goes on from the newest of theirs as processing time does: what is open ends, though nobody is
left to say so.

**A device that comes back** counts again with what it then sends. With events of an hour ago it holds the watermark
where it is, until it has caught up, but does not take it back: while it was away, the others have moved it on.

**A wild clock** neither moves the watermark nor holds it. An event is set aside when its time is

- more than `ahead` of the gateway's clock when it came; or
- more than `behind` it, and not what its device would have in its spool: older than the newest one the
  device has sent by more than the disorder that is allowed for (`delay` and `lateness`), or the first that it ever
  sends.

So a board that was away for longer than `behind` and goes on where it had stopped is believed; one that begins in 1970
is not, nor one whose clock has fallen back by more than `behind`. What is older than the board's own newest events but
within `behind` may well be from its spool: it moves nothing, and is late or is not. Each event is judged by itself, so
the first one that has a right time counts again. Going wild and coming back are noted, once in `idle`.

**Devices without end** (ids that change) are forgotten: beyond `MAX_DEVICES`, those that are idle and were quiet for
longest. It changes nothing but that one of them which comes back after more than `behind` is not believed what it has
in its spool. Which are forgotten follows from the events alone.

**How it is stored.** Devices that have changed are written behind all others, in segments; a segment of which nothing
is the latest any more is removed, and many that hold little are written together again. So what is stored is about what
has changed, however many devices there are.

**How it is done.** Only one device matters at a time: the witness, whose watermark is below the time that is waited
for. Nothing has to be looked at until it has passed that time, or is idle; then the next witness comes from a heap
whose entries are brought up to date when they come to its top. An event costs a few comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any

from edge_runtime.events import Event
from edge_runtime.streamspec import SECOND

NEVER = 2**62
"""A time that does not come."""
BEGINNING = -NEVER
"""The watermark before the first event."""
MAX_DEVICES = 100_000
"""Devices that are remembered; more only where more are active. Each takes about 300 bytes."""
FORGOTTEN = MAX_DEVICES // 8
"""Devices that are forgotten together, about."""
SEGMENT = 256
"""Devices that are dumped together."""
FIRST_SEGMENT = 64
"""As it was in the first version."""

COUNTS, CROSSES, WILD, LOOKED = 0, 1, 2, 3
"""What `see` says: the event counts; it does and the watermark may have come to what is waited for; it is set aside; it
counts, and there may be notes or another time to `check`, as there may with all but the first."""


class Device:
    """What is known of a device. `seen` is of processing time."""

    __slots__ = ("changed", "name", "newest", "noted", "queued", "seen", "segment", "told", "wild")

    def __init__(self, name: str, segment: int = -1) -> None:
        self.name = name
        self.segment = segment
        """In which it is stored; -1 if it never was."""
        self.newest = BEGINNING
        self.seen = BEGINNING
        self.wild = False
        self.told = False
        """The operator knows that it is wild."""
        self.noted = BEGINNING
        self.queued = False
        self.changed = False


class Watermarks:
    """The watermarks of a flow; times in microseconds, `now` is processing time and never goes back."""

    def __init__(self, *, delay: int, idle: int, ahead: int, behind: int, lateness: int) -> None:
        self._delay = delay
        self._idle = idle
        self._ahead = ahead
        self._behind = behind
        self._disorder = delay + lateness
        self._devices: dict[str, Device] = {}
        self._changed: list[Device] = []
        self._segments: dict[int, int] = {}
        """Those that are stored, and of how many devices they hold the latest."""
        self._stored = 0
        """How many segments there ever were."""
        self._dropped: set[int] = set()
        """Segments that hold devices which were forgotten since the last dump."""
        self._queue: list[tuple[int, str, Device]] = []
        self._witness: Device | None = None
        self._wanted = NEVER
        self._top = BEGINNING
        self._last = BEGINNING
        self.value = BEGINNING
        """The watermark when it was last asked for."""
        self.check = NEVER
        """Processing time at which `at` is to be asked even if no event comes."""
        self.notes: list[tuple[str, str, str]] = []
        """Device, about, text: for whoever calls `see` to take away."""

    def see(self, name: str, time: int, wall: int, now: int) -> int:
        """Take notice of an event, which came when the gateway's clock said `wall`."""
        device = self._devices.get(name)
        if device is None or now - device.seen >= self._idle or not wall - self._behind <= time <= wall + self._ahead:
            return self._look(name, time, wall, now)
        device.seen = self._last = now
        if not device.changed:
            device.changed = True
            self._changed.append(device)
        if time > device.newest:
            device.newest = time
            if time > self._top:
                self._top = time
            if device is self._witness and time - self._delay >= self._wanted:
                return CROSSES
        return COUNTS

    def _look(self, name: str, time: int, wall: int, now: int) -> int:
        """An event that is not the common one."""
        device = self._devices.get(name)
        if device is None:
            self._forget(name, now)
            device = self._devices[name] = Device(name)
        if not device.changed:
            device.changed = True
            self._changed.append(device)
        about = self._wrong(device, time, wall)
        if about:
            return self._set_aside(device, about, abs(time - wall), now)
        # The minimum goes up by itself, but this device may now bring it down: what it has been until now has to stay.
        self.at(now)
        if device.wild:
            device.wild = False
            if device.told:
                self.notes.append((name, "right", "Its clock is right again: its events count."))
        device.seen = self._last = now
        device.newest = max(device.newest, time)
        self._top = max(self._top, time)
        if not device.queued:
            device.queued = True
            heappush(self._queue, (device.newest, name, device))
        self._watch(now)
        return CROSSES if self.at(now) >= self._wanted else LOOKED

    def _forget(self, name: str, now: int) -> None:
        """Make room for one more, now and then."""
        number = len(self._devices)
        if number < MAX_DEVICES or number % FORGOTTEN:
            return
        idle = [device for device in self._devices.values() if now - device.seen >= self._idle]
        idle.sort(key=_quiet)
        gone = idle[: number - MAX_DEVICES + FORGOTTEN]
        if not gone:
            return
        for device in gone:
            del self._devices[device.name]
            if device.segment >= 0:
                self._segments[device.segment] -= 1
                self._dropped.add(device.segment)
        left = self._devices
        self._changed = [device for device in self._changed if left.get(device.name) is device]
        self._queue = [item for item in self._queue if left.get(item[1]) is item[2]]
        heapify(self._queue)
        self._watch(now)
        text = f"It is one of more than {MAX_DEVICES:,}: {len(gone):,} that were quiet for longest are forgotten."
        self.notes.append((name, "forgotten", text))

    def _wrong(self, device: Device, time: int, wall: int) -> str:
        if time > wall + self._ahead:
            return "ahead"
        goes_on = device.newest != BEGINNING and time >= device.newest - self._disorder
        return "behind" if time < wall - self._behind and not goes_on else ""

    def _set_aside(self, device: Device, about: str, by: int, now: int) -> int:
        if not device.wild:
            device.wild = True
            device.seen = BEGINNING
            device.told = now - device.noted >= self._idle
            if device.told:
                device.noted = now
                text = f"Its clock is {by // SECOND} s {about}: its events are set aside until it is right."
                self.notes.append((device.name, about, text))
            if device is self._witness:
                self.at(now)
                self._watch(now)
        return WILD

    def at(self, now: int) -> int:
        """The watermark."""
        if self._last == BEGINNING:
            return self.value
        first = self._first(now)
        newest = self._top + max(0, now - self._last - self._idle) if first is None else first.newest
        mark = newest - self._delay
        if mark > self.value:
            self.value = mark
        return self.value

    def _first(self, now: int) -> Device | None:
        """The active device that is least far."""
        queue = self._queue
        while queue:
            newest, name, device = queue[0]
            if now - device.seen >= self._idle:
                heappop(queue)
                device.queued = False
            elif newest != device.newest:
                heapreplace(queue, (device.newest, name, device))
            else:
                return device
        return None

    def want(self, time: int, now: int) -> None:
        """The time that is waited for, `NEVER` for none: `see` tells when the watermark may have come to it."""
        self._wanted = time
        self._watch(now)

    def _watch(self, now: int) -> None:
        first = self._first(now)
        self._witness = first
        if self._wanted == NEVER or self._last == BEGINNING:
            self.check = NEVER
        elif first is not None:
            self.check = first.seen + self._idle
        else:
            self.check = self._last + self._idle + max(0, self._wanted - (self._top - self._delay))

    def bound(self, events: Sequence[tuple[Event, int]], until: int) -> int:
        """What the watermark is at most after these, and at `until`: no less, perhaps more. Nothing changes."""
        newest: dict[str, int] = {}
        doubtful = set()
        for event, _ in events:
            name, time = event.device, event.time
            if not event.received - self._behind <= time <= event.received + self._ahead:
                doubtful.add(name)
                time = min(time, event.received + self._ahead)
            newest[name] = max(time, newest.get(name, time))
        last = self._last if self._last != BEGINNING or not events else events[0][1]
        asleep = max(0, until - last - self._idle) if last != BEGINNING else 0
        bound = max([self._top, *newest.values()]) - self._delay + asleep
        # Each device that stays active all the time holds it back; a few of those that are least far will do.
        for _, name, device in self._queue[:8]:
            if name not in doubtful and not device.wild and until - device.seen < self._idle:
                bound = min(bound, max(device.newest, newest.get(name, BEGINNING)) - self._delay)
        return max(bound, self.value)

    def wakes(self) -> int:
        """Like `check`, and up to date."""
        return max(self.check, self._witness.seen + self._idle) if self._witness and self.check != NEVER else self.check

    def dump(self) -> Iterator[tuple[int, list[Any] | None]]:
        """The segments that have changed since the last dump: number and content, None of one that is gone."""
        segments = self._segments
        # Where many hold little, or hold what was forgotten, their devices are written once more.
        again = {number for number in self._dropped if segments[number]}
        if len(segments) > 8 + 2 * len(self._devices) // SEGMENT:
            again.update(number for number, held in segments.items() if held < SEGMENT // 2)
        if again:
            self._changed += [one for one in self._devices.values() if one.segment in again and not one.changed]
        changed, self._changed = self._changed, []
        self._dropped.clear()
        for device in changed:
            device.changed = False
            if device.segment >= 0:
                segments[device.segment] -= 1
        for number in [number for number, held in segments.items() if not held]:
            del segments[number]
            yield number, None
        for at in range(0, len(changed), SEGMENT):
            part = changed[at : at + SEGMENT]
            number = self._stored
            self._stored += 1
            segments[number] = len(part)
            for device in part:
                device.segment = number
            yield number, [_plain(device) for device in part]

    def head(self) -> list[Any]:
        """What is not of a single device."""
        return [list(self._segments), self._stored, self.value, self._top, self._last]

    def load(self, head: list[Any], chunks: Sequence[list[Any]]) -> None:
        """Take up what was dumped: all segments, in the order of `segments`."""
        numbers = segments(head)
        self._stored = head[1] if len(head) == 5 else len(numbers)
        self.value, self._top, self._last = head[-3:]
        for number, chunk in zip(numbers, chunks, strict=True):
            for name, newest, seen, noted, flags in chunk:
                device = self._devices[name] = Device(name, number)  # A later segment knows better.
                device.newest, device.seen, device.noted = newest, seen, noted
                device.wild, device.told = bool(flags & 1), bool(flags & 2)
        self._segments = dict.fromkeys(numbers, 0)
        for name, device in self._devices.items():
            self._segments[device.segment] += 1
            if not device.wild and device.newest != BEGINNING:
                device.queued = True
                self._queue.append((device.newest, name, device))
        heapify(self._queue)


def segments(head: list[Any]) -> list[int]:
    """The numbers of the segments that belong to a head, from the oldest on."""
    if len(head) == 4:
        return list(range(-(-head[0] // FIRST_SEGMENT)))
    return sorted(head[0])


def _quiet(device: Device) -> tuple[int, int, str]:
    return device.seen, device.newest, device.name


def _plain(device: Device) -> list[Any]:
    return [device.name, device.newest, device.seen, device.noted, device.wild + 2 * device.told]


class Clock:
    """Processing time as the watermark: nothing is late, and no device matters."""

    def __init__(self) -> None:
        self.value = BEGINNING
        self.check = NEVER
        self.notes: list[tuple[str, str, str]] = []

    def see(self, name: str, time: int, wall: int, now: int) -> int:
        """Nothing to take notice of: the engine asks `at` before it deals with an event that comes after `check`."""
        return COUNTS

    def at(self, now: int) -> int:
        """It is now."""
        self.value = max(self.value, now)
        return self.value

    def want(self, time: int, now: int) -> None:
        """The time that is waited for."""
        self.check = time

    def bound(self, events: Sequence[tuple[Event, int]], until: int) -> int:
        """It is `until`."""
        return max(self.value, until)

    def wakes(self) -> int:
        """Like `check`."""
        return self.check

    def dump(self) -> Iterator[tuple[int, list[Any] | None]]:
        """Nothing by device."""
        return iter(())

    def head(self) -> list[Any]:
        """As the watermarks have it."""
        return [[], 0, self.value, 0, 0]

    def load(self, head: list[Any], chunks: Sequence[list[Any]]) -> None:
        """Take up what was dumped."""
        self.value = head[-3]
