"""User-defined aggregates that can be merged. What they are made of is the app's business, and runs in its sandbox.

Here a state is a list of values that were not added yet, and of *parts*: states that the app has made of others. Two
states are merged by putting their lists together, which needs nobody. Where the lists grow long they are to be folded:
the values are added to a new part, and many parts merged into one (`Folding`). So the state of a window is bounded,
whatever the number of its events, and what the last fold has left over is folded when a function takes the pane.

Adding has to be independent of the order, and merging too, as with Beam's CombineFn.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import msgspec

from edge_runtime.events import Event
from edge_runtime.streams.aggregates import Aggregator, register
from edge_runtime.streams.messages import Fold, Folded

VALUES = 256
BYTES = 64 << 10
"""How many values, and bytes of them, are added in one go."""
PARTS = 16
"""How many parts are left alone."""
MERGED = 64
"""How many are merged in one go."""
MAX_PART = 16 << 10
"""Bytes of what an app may make of values: a window has one for each key."""
SAID = 500
"""Characters of why it could not."""

_pack = msgspec.msgpack.Encoder().encode

VALUE, PART, SIZE, FAILED, LEFT_OUT = range(5)
"""What stands where in a state: [values, parts, bytes of the values, why it cannot be folded, values since then]."""
State = list[Any]
Folding = Generator[list[Fold], list[Folded], None]
"""Yields what is to be folded, and is sent what came of it, in the same order."""


class Combined(Aggregator[State]):
    """Values and parts of the app's making."""

    takes = "values"

    def __init__(self) -> None:
        self._long: list[State] = []
        """States whose lists have grown long."""

    def zero(self) -> State:
        """Nothing."""
        return [[], [], 0, "", 0]

    def add(self, state: State, value: Any, event: Event, time: int) -> None:
        """Keep the value."""
        if state[FAILED]:
            state[LEFT_OUT] += 1
            return
        state[VALUE].append(value)
        state[SIZE] += _size(value)
        if _long(state):
            self._long.append(state)

    def merge(self, state: State, other: State) -> None:
        """Put the lists together."""
        state[LEFT_OUT] += other[LEFT_OUT]
        if state[FAILED] or other[FAILED]:
            _fail(state, state[FAILED] or other[FAILED], len(other[VALUE]))
            return
        state[VALUE] += other[VALUE]
        state[PART] += other[PART]
        state[SIZE] += other[SIZE]
        if _long(state):
            self._long.append(state)

    def result(self, state: State, start: int, end: int) -> Any:
        """What is to be folded for the pane: a state of its own, which may grow shorter before the pane leaves."""
        said = [list(state[VALUE]), list(state[PART]), *state[SIZE:]]
        if _long(said):
            self._long.append(said)
        return said

    def fold(self, name: str) -> Folding:
        """Have what has grown long folded, until nothing is."""
        long = list({id(state): state for state in self._long}.values())
        self._long = []
        while long:
            asked = [_taken_out(name, state) for state in long]
            answers = yield [fold for folds in asked for fold in folds]
            at = 0
            for state, folds in zip(long, asked, strict=True):
                _put_back(state, answers[at : at + len(folds)], sum(len(fold.values) for fold in folds))
                at += len(folds)
            long = [state for state in long if _long(state)]


def told(state: State) -> dict[str, Any]:
    """What a pane says of it, for the guest to fold."""
    if state[FAILED]:
        return {"failed": state[FAILED], "left_out": state[LEFT_OUT]}
    return {"parts": state[PART], "values": state[VALUE]}


def _long(state: State) -> bool:
    return len(state[VALUE]) >= VALUES or state[SIZE] >= BYTES or len(state[PART]) > PARTS


def _taken_out(name: str, state: State) -> list[Fold]:
    """What is to be folded of a state: its parts where they are many, and its values but for a rest."""
    folds = []
    if len(state[PART]) > PARTS:
        folds = [Fold(name, state[PART][at : at + MERGED], []) for at in range(0, len(state[PART]), MERGED)]
        state[PART] = []
    rest: list[Any] = []
    size = 0
    for value in state[VALUE]:
        rest.append(value)
        size += _size(value)
        if len(rest) == VALUES or size >= BYTES:
            folds.append(Fold(name, [], rest))
            rest, size = [], 0
    state[VALUE], state[SIZE] = rest, size
    return folds


def _put_back(state: State, answers: Sequence[Folded], values: int) -> None:
    for answer in answers:
        if answer.failed or len(_pack(answer.part)) > MAX_PART:
            why = answer.failed or f"what it keeps takes more than {MAX_PART >> 10} KiB"
            _fail(state, why[:SAID], values)
            return
    state[PART] += [answer.part for answer in answers]


def _fail(state: State, why: str, more: int) -> None:
    """Nothing can come of it any more: it is not to take up room, either."""
    state[LEFT_OUT] += len(state[VALUE]) + more
    state[VALUE], state[PART], state[SIZE], state[FAILED] = [], [], 0, why


def _size(value: Any) -> int:
    kind = type(value)
    return 9 if kind is float or kind is int else len(_pack(value))


register("combine", lambda spec: Combined())
