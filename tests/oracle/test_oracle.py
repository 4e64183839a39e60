"""Our windows held against Apache Beam's DirectRunner over random streams, pane by pane.

Beam lives in an environment of its own (`make oracle`), since it pins half of what we use. Its watermark is advanced
by hand, to half seconds: exactly at the end of the lateness its Python runner keeps what Beam's own model drops. Ours
follows a device that is a clock: the others are far ahead of it, so it alone is the minimum.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.events import Event
from edge_runtime.streams.engine import machine
from edge_runtime.streams.machine import Pane
from edge_runtime.streamspec import SECOND, Aggregate, Fixed, Session, Shape, Sliding, Window

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("ORACLE_PYTHON", ROOT / ".oracle" / "bin" / "python"))
CASES = int(os.environ.get("ORACLE_CASES", "42"))
LIFE = 12_000 * SECOND
"""Second 0 of the streams: a multiple of every length of window here."""
FAR = 10_000_000
FOREVER = 1_000_000

Shown = list[Any]


def case_of(seed: int) -> dict[str, Any]:
    """A stream and what is to be made of it: events in and out of order, some beyond the lateness."""
    rng = random.Random(seed)
    shape = ("fixed", "sliding", "session")[seed % 3]
    every = rng.choice((2, 5, 10))
    case = {
        "shape": shape,
        "size": every * rng.choice((1, 2, 3)) if shape == "sliding" else rng.choice((3, 5, 10)),
        "every": every,
        "gap": rng.choice((2, 5)),
        # Sessions are never too late here: Beam's Python runner goes on merging with sessions that it has let go of,
        # and drops by an event's own window where ours (as Flink) looks at the session that it becomes a part of.
        "lateness": rng.choice((0, 3, 10, 40)) if shape != "session" else 1000,
        "accumulation": ("discarding", "accumulating")[seed // 3 % 2],
    }
    mark, newest = 0, 0
    steps: list[list[Any]] = []
    for value in range(rng.randint(5, 40)):
        if rng.random() < 0.3 and newest > mark:
            mark = rng.randint(mark + 1, newest)
            steps.append(["watermark", mark + 0.5])
        time = max(0, newest + rng.randint(-25, 6)) if rng.random() < 0.5 else newest + rng.randint(0, 6)
        newest = max(newest, time)
        steps.append(["event", time, rng.choice("ab"), value])
    return {**case, "steps": steps}


def ours(case: dict[str, Any]) -> list[Shown]:
    """What our engine makes of it."""
    shapes: dict[str, Shape] = {
        "fixed": Fixed(case["size"] * SECOND),
        "sliding": Sliding(case["size"] * SECOND, case["every"] * SECOND),
        "session": Session(case["gap"] * SECOND),
    }
    spec = Window(
        shapes[case["shape"]],
        {"values": Aggregate("collect", "v", {"limit": 10_000})},
        "data.k",
        lateness=case["lateness"] * SECOND,
        accumulation=case["accumulation"],
        ahead=10**18,
        behind=10**18,
        idle=10**18,
    )
    windows = machine(spec)
    found: list[Shown] = []
    steps = [["watermark", 0], ["event", FAR, "far", 0], *case["steps"], ["watermark", FOREVER]]
    for seq, (what, time, *rest) in enumerate(steps):
        key, value = ("clock", 0) if what == "watermark" else rest
        device = "clock" if what == "watermark" else "board"
        at = LIFE + round(time * SECOND)
        event = Event(device, b"8 bytes.", seq, "climate", at, LIFE, {"k": key, "v": value})
        while names := windows.needs([event], [0]):
            windows.load(dict.fromkeys(names))
        _, results = windows.take([event], [0])
        for pane in results:
            if isinstance(pane, Pane) and pane.key not in ("clock", "far"):
                start, end = ((edge - LIFE) / SECOND for edge in (pane.start, pane.end))
                items = sorted(pane.values["values"]["items"])
                found.append([pane.key, start, end, items, pane.timing == "late"])
    return found


def by_window(panes: list[Shown]) -> dict[str, list[Shown]]:
    """Each key's panes, those of a moment in no order: Beam has none between windows that end together."""
    found: dict[str, list[Shown]] = {}
    for key, start, end, values, late in panes:
        found.setdefault(f"{key} {start} {end}", []).append([values, late])
    return found


@pytest.fixture(scope="module")
def oracle() -> list[tuple[dict[str, Any], list[Shown]]]:
    if not PYTHON.exists():
        if os.environ.get("CI"):
            pytest.fail(f"Apache Beam is not installed at {PYTHON}: 'make oracle' does it")
        pytest.skip("Apache Beam is not installed ('make oracle')")
    cases = [case_of(seed) for seed in range(CASES)]
    done = subprocess.run(
        [PYTHON, "-c", "import beam_windows; beam_windows.main()"],
        cwd=Path(__file__).parent,
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=60 + 3 * CASES,
        check=False,
        env={"PATH": os.defpath},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [pair for pair in zip(cases, json.loads(done.stdout), strict=True) if pair[1] is not None]
    assert len(found) > 0.8 * CASES, "Beam's runner has failed on too many"
    return found


@pytest.mark.timeout(300)
def test_panes_are_those_of_beam(oracle: list[tuple[dict[str, Any], list[Shown]]]) -> None:
    assert sum(len(panes) for _, panes in oracle) > 3 * CASES, "the streams are not of much use"
    assert sum(late for _, panes in oracle for *_, late in panes) > CASES // 2, "hardly anything is late"
    for number, (case, panes) in enumerate(oracle):
        assert by_window(ours(case)) == by_window(panes), f"case {number}: {json.dumps(case)}"
