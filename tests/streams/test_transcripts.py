"""Every transcript, in every way; and whether they cover what they are to cover."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest

from edge_runtime.streams.engine import Windows
from edge_runtime.streams.machine import Machine
from edge_runtime.streamspec import Source, Window
from tests.streams.transcripts import FOLDER, WAYS, Computation, Transcript, Wrong, read

TRANSCRIPTS = {path.stem: read(path) for path in sorted(FOLDER.glob("*.txt"))}
WINDOWS = {name: item for name, item in TRANSCRIPTS.items() if isinstance(item.computation, Window)}


def make(computation: Computation, sources: list[Source]) -> Machine:
    assert isinstance(computation, Window)
    return Windows(computation)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name: str, way: Any) -> None:
    transcript = WINDOWS[name]
    if not transcript.fails:
        way(transcript, make)
    elif way is WAYS[0]:
        with pytest.raises(Wrong) as wrong:
            way(transcript, make)
        assert transcript.fails in str(wrong.value)


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
