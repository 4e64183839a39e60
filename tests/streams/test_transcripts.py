"""Every transcript, in every way; and whether they cover what they are to cover."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any, get_args

import pytest

from edge_runtime.streams.build import machine_of
from edge_runtime.streams.check import check
from edge_runtime.streams.engine import Windows
from edge_runtime.streams.machine import Machine
from edge_runtime.streamspec import Source, Stream, Window
from tests.streams.transcripts import FOLDER, WAYS, Computation, Make, Transcript, Wrong, read

TRANSCRIPTS = {path.stem: read(path) for path in sorted(FOLDER.glob("*.txt"))}
WINDOWS = {name: item for name, item in TRANSCRIPTS.items() if isinstance(item.computation, Window)}
OTHERS = {name: item for name, item in TRANSCRIPTS.items() if name not in WINDOWS}


def make(computation: Computation, sources: list[Source]) -> Machine:
    assert isinstance(computation, Window)
    return Windows(computation)


def make_other(computation: Computation, sources: list[Source]) -> Machine:
    stream = Stream(sources, computation)
    check(stream)
    machine = machine_of(stream)
    assert machine is not None
    return machine


def held_to(transcript: Transcript, way: Any, make: Make) -> None:
    if not transcript.fails:
        way(transcript, make)
    elif way is WAYS[0]:
        with pytest.raises(Wrong) as wrong:
            way(transcript, make)
        assert transcript.fails in str(wrong.value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name: str, way: Any) -> None:
    held_to(WINDOWS[name], way, make)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OTHERS)
def test_joins_absences_and_sequences(name: str, way: Any) -> None:
    held_to(OTHERS[name], way, make_other)


def test_each_computation_has_one_that_must_fail() -> None:
    assert {type(item.computation) for item in TRANSCRIPTS.values() if item.fails} == set(get_args(Computation))


def test_some_must_fail() -> None:
    assert sum(bool(item.fails) for item in TRANSCRIPTS.values()) >= 4


def test_pairs() -> None:
    """Each pair of shape, trigger, accumulation and lateness is in one transcript at least."""
    features = [_features(item) for item in WINDOWS.values() if not item.fails]
    names = ("fixed", "sliding", "session", "global"), ("none", "early_count", "early_every", "late_every")
    values = (*names, ("discarding", "accumulating", "retracting"), (False, True))
    for one, other in combinations(range(4), 2):
        missing = {
            pair
            for pair in product(values[one], values[other])
            if not any((has[one], has[other]) == pair for has in features) and pair != ("global", "none")
        }
        assert not missing, missing


def _features(transcript: Transcript) -> tuple[str, str, str, bool]:
    spec = transcript.computation
    assert isinstance(spec, Window)
    trigger = next(
        (name for name in ("early_count", "early_every", "late_every") if getattr(spec.trigger, name)), "none"
    )
    if spec.trigger.late_every:
        trigger = "late_every"
    return type(spec.shape).__name__.lower(), trigger, spec.accumulation, bool(spec.lateness)
