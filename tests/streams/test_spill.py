"""State that is not in memory: with room for next to nothing, all is as if all of it were there."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import HealthCheck, example, given, settings

from edge_runtime.flows import states
from edge_runtime.journal.records import State
from edge_runtime.streams import due, engine, flow, session, watermarks
from edge_runtime.streams.remembered import Remembered
from edge_runtime.streams.worker import Worker
from tests.flows.conftest import House, turns
from tests.streams.local import LocalWorker
from tests.streams.test_flow import STEPS, _history, event, made, panes, saved


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """No state stays in the worker, hardly any in the daemon, and all is in small pieces, of two buckets."""
    monkeypatch.setattr(session.Session.shrink, "__defaults__", (0,))
    monkeypatch.setattr(Worker.__init__, "__defaults__", (0,))
    monkeypatch.setattr(states, "MAX_CACHED", 3)
    monkeypatch.setattr(flow, "BUCKETS", 2)
    monkeypatch.setattr(flow, "NAMES", 1)
    monkeypatch.setattr(flow, "PIECE", 1)
    monkeypatch.setattr(due, "SEGMENT", 2)
    monkeypatch.setattr(watermarks, "SEGMENT", 2)
    monkeypatch.setattr(engine, "MANY", 200)
    monkeypatch.setattr(session, "MANY", 200)


@pytest.mark.usefixtures("tight")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
@example([[(1, 0), (2, 0), (1, 7), (2, 6)], "crash", [(0, 0)]])
def test_any_history_with_hardly_any_memory(steps: list[list[tuple[int, int]] | str]) -> None:
    asyncio.run(_history(steps))


async def test_hundreds_of_keys_are_read_when_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "MAX_CACHED", 3)
    house = await House().open()
    worker = LocalWorker()
    worker.worker = Worker(20_000)  # about twenty of them
    await house.flows.install(made(house, worker))
    reads: Counter[str] = Counter()
    read = house.journal.entries

    async def entries(name: str, names: dict[str, list[str]]) -> dict[str, State]:
        found = await read(name, names)
        reads.update(one.rpartition("/")[2] for some in names.values() for one in some)
        return found

    house.journal.entries = entries  # type: ignore[method-assign, assignment]
    count = 300
    for turn in range(3):
        await house.journal.append([event(turn * count + n, turn, f"d{n:03}") for n in range(count)])
        await turns(400)
        await saved(house)
    assert reads["=d007"] >= 2, "it was let go of, and read again"
    await house.journal.append([event(10_000 + n, 30, f"d{n:03}") for n in range(count)])
    for at in range(31, 50):
        await house.journal.append([event(20_000 + at, at)])
        await turns(400)
    found = [pane for pane in panes(house) if pane[1] == 0]
    assert sorted(found) == [(f"d{n:03}", 0, 3, n + (count + n) + (2 * count + n)) for n in range(count)]


def test_what_is_remembered_may_come_in_parts() -> None:
    whole = Remembered("r")
    for number in range(500):
        whole.put(f"k{number}", [number])
    stored = whole.dump()
    again = Remembered("r")
    while missing := again.missing():
        again.load({name: stored.get(name) for name in [*missing][:7]})
    assert list(again.values.items()) == list(whole.values.items())
