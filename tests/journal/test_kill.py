"""SIGKILL at 200 random moments, to the writer or to the whole gateway: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec

from edge_runtime.events import Event
from edge_runtime.journal.records import Command, Progress
from edge_runtime.journal.sqlite.rows import decode_records
from edge_runtime.journal.sqlite.store import Store
from tests.journal.killed import FLOW, event

KILLS = 200
ROOT = Path(__file__).parents[2]


class Promised(msgspec.Struct):
    """What has been acknowledged so far."""

    events: int = 0
    progress: int = -1
    kills: int = 0


def one_life(path: Path, promised: Promised, rng: random.Random) -> None:
    """Let the program run until a random line has been acknowledged, and a random moment longer; then kill it."""
    command = [sys.executable, "-m", "tests.journal.killed", str(path), str(promised.events)]
    said = path.with_suffix(".stderr")
    with (
        said.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, stderr=errors) as program,
    ):
        assert program.stdout is not None
        line = program.stdout.readline()
        assert line.startswith("writer "), f"it did not start: {said.read_text()}"
        writer = int(line.split()[1])
        try:
            for _ in range(rng.randint(1, 30)):
                note(program.stdout.readline(), promised)
            # From here the writer is somewhere in its next transactions: a moment is a number of spins, not a sleep.
            for _ in range(rng.randint(0, 20_000)):
                pass
        finally:
            if rng.random() < 0.5:
                os.kill(writer, signal.SIGKILL)
            program.kill()
        for line in program.stdout:
            note(line, promised)
    promised.kills += 1


def note(line: str, promised: Promised) -> None:
    what, _, value = line.partition(" ")
    if not value.endswith("\n"):
        return  # cut off by the kill
    if what == "stored":
        promised.events = int(value)
    elif what == "done":
        promised.progress = int(value)


def check(path: Path, promised: Promised) -> None:
    """Everything acknowledged is there, once; effects stand with their progress."""
    store = Store(path)
    found = []
    after = -1
    while rows := store.read(after, 1000):
        for _, blob in rows:
            found += decode_records(blob)
        after = len(found) - 1
    assert store.head == len(found) - 1
    sequences = Counter(record.seq for record in found if isinstance(record, Event))
    assert max(sequences.values()) == 1, "an event was stored twice"
    assert set(range(promised.events)) <= set(sequences), "an acknowledged event is gone"
    assert all(record == event(record.seq) for record in found if isinstance(record, Event))
    effects = Counter(record.id for record in found if isinstance(record, Command))
    assert max(effects.values(), default=1) == 1, "an effect was stored twice"
    for index, record in enumerate(found):
        if isinstance(record, Command) and record.args == 0:
            assert isinstance(found[index + 1], Command)
            assert isinstance(found[index + 2], Progress)
    tables = store.tables()
    assert tables.flows[FLOW].cursor >= promised.progress, "acknowledged progress is gone"
    assert len(tables.outbox) == len(effects)
    store.close()


def test_killed_at_random_moments(tmp_path: Path) -> None:
    rng = random.Random(20_261_122)
    promised = Promised()
    path = tmp_path / "journal.db"
    while promised.kills < KILLS:
        one_life(path, promised, rng)
        if promised.kills % 10 == 0:
            check(path, promised)
        if promised.kills % 40 == 0:
            promised = Promised(kills=promised.kills)
            path = tmp_path / f"journal-{promised.kills}.db"
