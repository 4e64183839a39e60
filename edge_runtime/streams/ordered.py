"""Aggregates that go by the order of events in time: first, last, change, collections, the time-weighted mean.

Events of the same time are put in order by their identities, so that what comes out does not depend on the order in
which they came.
"""

from __future__ import annotations

from bisect import insort
from itertools import pairwise
from math import fsum
from typing import Any

import msgspec

from edge_runtime.events import Event
from edge_runtime.streams.aggregates import Aggregator, argument, register
from edge_runtime.streams.basics import finite
from edge_runtime.streamspec import Aggregate

MAX_ITEMS = 10_000
MAX_BYTES = 1 << 20
"""Of what is collected in a window: it comes to the function as one event."""

_pack = msgspec.msgpack.Encoder().encode

Identity = tuple[str, bytes, int]
Point = tuple[int, Identity, Any]
"""Time, identity, value."""


def identity(event: Event) -> Identity:
    """What puts events of the same time in order; of one device and boot it is the order in which they were sent."""
    origin = event.origin
    return (event.device, event.boot, event.seq) if origin is None else (event.device, origin.id(), origin.index)


def _bytes(point: Point) -> int:
    return len(_pack(point[2]))


def _place(point: Any) -> tuple[int, Identity]:
    return point[0], point[1]


def _point(plain: Any) -> Point:
    time, (device, boot, seq), value = plain
    return time, (device, boot, seq), value


class First(Aggregator[list[Point]]):
    """The value of the earliest event that has it; None of none."""

    takes = "values"

    def zero(self) -> list[Point]:
        """[] or [the earliest]."""
        return []

    def add(self, state: list[Point], value: Any, event: Event, time: int) -> None:
        """Compare."""
        if not state:
            state.append((time, identity(event), value))
        elif time <= state[0][0]:
            point = (time, identity(event), value)
            if _place(point) < _place(state[0]):
                state[0] = point

    def merge(self, state: list[Point], other: list[Point]) -> None:
        """Compare."""
        if other and (not state or _place(other[0]) < _place(state[0])):
            state[:] = other

    def result(self, state: list[Point], start: int, end: int) -> Any:
        """Its value."""
        return state[0][2] if state else None

    def load(self, plain: Any) -> list[Point]:
        """Points."""
        return [_point(item) for item in plain]


class Last(First):
    """The value of the latest event that has it; None of none."""

    def add(self, state: list[Point], value: Any, event: Event, time: int) -> None:
        """Compare."""
        if not state:
            state.append((time, identity(event), value))
        elif time >= state[0][0]:
            point = (time, identity(event), value)
            if _place(point) >= _place(state[0]):
                state[0] = point

    def merge(self, state: list[Point], other: list[Point]) -> None:
        """Compare."""
        if other and (not state or _place(other[0]) >= _place(state[0])):
            state[:] = other


class Delta(Aggregator[list[Point]]):
    """The latest number less the earliest one; None of fewer than one, 0 of one."""

    def zero(self) -> list[Point]:
        """[] or [the earliest, the latest]."""
        return []

    def add(self, state: list[Point], value: Any, event: Event, time: int) -> None:
        """Compare with both ends."""
        if not state:
            state.extend([(time, identity(event), value)] * 2)
        elif time >= state[1][0] or time <= state[0][0]:
            self._widen(state, (time, identity(event), value))

    def merge(self, state: list[Point], other: list[Point]) -> None:
        """Compare both ends."""
        if not state:
            state[:] = other
        else:
            for point in other:
                self._widen(state, point)

    def _widen(self, state: list[Point], point: Point) -> None:
        if _place(point) < _place(state[0]):
            state[0] = point
        if _place(point) >= _place(state[1]):
            state[1] = point

    def result(self, state: list[Point], start: int, end: int) -> Any:
        """The change."""
        return finite(state[1][2] - state[0][2]) if state else None

    def load(self, plain: Any) -> list[Point]:
        """Points."""
        return [_point(item) for item in plain]


class Collect(Aggregator[list[Any]]):
    """The values of the earliest `limit` events that have them, in order, and how many more there were.

    Values of `MAX_BYTES` at most: the first event beyond them, and all that are later, are left out as well. Where that
    is only goes back in time as more events come, so it does not depend on their order either.
    """

    takes = "values"

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def zero(self) -> list[Any]:
        """[left out, [points], bytes of these, place from which on nothing is held]."""
        return [0, [], 0, None]

    def add(self, state: list[Any], value: Any, event: Event, time: int) -> None:
        """Put it in its place."""
        self._put(state, (time, identity(event), value))

    def _put(self, state: list[Any], point: Point) -> None:
        points, cut, place = state[1], state[3], _place(point)
        if cut is not None and place >= cut:
            state[0] += 1
            return
        if not points or place >= _place(points[-1]):
            points.append(point)
        else:
            insort(points, point, key=_place)
        state[2] += _bytes(point)
        while len(points) > self._limit or state[2] > MAX_BYTES:
            self._leave_out_last(state)

    def _leave_out_last(self, state: list[Any]) -> None:
        point = state[1].pop()
        state[0] += 1
        state[2] -= _bytes(point)
        state[3] = _place(point)

    def merge(self, state: list[Any], other: list[Any]) -> None:
        """Put all in their places."""
        cut = other[3]
        if cut is not None and (state[3] is None or cut < state[3]):
            while state[1] and _place(state[1][-1]) >= cut:
                self._leave_out_last(state)
            state[3] = cut
        state[0] += other[0]
        for point in other[1]:
            self._put(state, point)

    def result(self, state: list[Any], start: int, end: int) -> Any:
        """`items` and `left_out`."""
        return {"items": [point[2] for point in state[1]], "left_out": state[0]}

    def load(self, plain: Any) -> list[Any]:
        """Points; the first version had no bytes, and no place."""
        points = [_point(item) for item in plain[1]]
        if len(plain) == 2:
            return [plain[0], points, sum(map(_bytes, points)), None]
        cut = None if plain[3] is None else (plain[3][0], tuple(plain[3][1]))
        return [plain[0], points, plain[2], cut]


class TimeMean(Aggregator[list[Any]]):
    """The mean of a field over time: each value holds until the next one, the last one to the end of the window.

    What was before the first event of the window is not known and does not count. Of more than `limit` events the
    older half is summed up; an event that comes later than that and belongs before it counts as if it were apart.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def zero(self) -> list[Any]:
        """[microseconds summed up, value by microseconds, [points after these]]."""
        return [0, 0.0, []]

    def add(self, state: list[Any], value: Any, event: Event, time: int) -> None:
        """Put it in its place."""
        self._put(state, (time, identity(event), value))

    def _put(self, state: list[Any], point: Point) -> None:
        points = state[2]
        if not points or _place(point) >= _place(points[-1]):
            points.append(point)
        else:
            insort(points, point, key=_place)
        if len(points) > self._limit:
            half = len(points) // 2
            state[0] += points[half][0] - points[0][0]
            state[1] += _area(points[: half + 1])
            del points[:half]

    def merge(self, state: list[Any], other: list[Any]) -> None:
        """Put all in their places."""
        state[0] += other[0]
        state[1] += other[1]
        for point in other[2]:
            self._put(state, point)

    def result(self, state: list[Any], start: int, end: int) -> Any:
        """The mean; of the time after the last event alone where it is all there is. None of none."""
        weight, area, points = state
        if not points:
            return None
        last = points[-1]
        rest = max(0, end - last[0])
        weight += last[0] - points[0][0] + rest
        if weight == 0:
            return last[2]
        return finite((area + _area(points) + float(last[2]) * rest) / weight)

    def load(self, plain: Any) -> list[Any]:
        """Points."""
        return [plain[0], plain[1], [_point(item) for item in plain[2]]]


def _area(points: list[Point]) -> float:
    """Value by microseconds, from the first point to the last."""
    return fsum(float(here[2]) * (there[0] - here[0]) for here, there in pairwise(points))


def _collect(default: int) -> Any:
    return lambda spec: Collect(argument(spec, "limit", default, 1, MAX_ITEMS))


def _time_mean(spec: Aggregate) -> TimeMean:
    return TimeMean(argument(spec, "limit", 1000, 2, MAX_ITEMS))


register("first", lambda spec: First())
register("last", lambda spec: Last())
register("delta", lambda spec: Delta())
register("collect", _collect(100))
register("custom", _collect(1000))
register("time_mean", _time_mean)
