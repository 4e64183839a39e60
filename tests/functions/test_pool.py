"""Executors of several engines: started with the first app that needs them, ended with the last."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from edge_runtime.clock import ManualClock, SystemClock
from edge_runtime.errors import EdgeError
from edge_runtime.flows.ports import NOTHING, Failure, Outcome, Success, Unavailable
from edge_runtime.functions.engines import Engine, python_engine
from edge_runtime.functions.jobs import LoadFailed
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.pool import LINGER, Pool
from edge_runtime.functions.stats import Recorder, Stops
from edge_runtime.manifest import FunctionRef

from .conftest import app, event, ok

COUNT = '@app.route("climate", to="x")\ndef f(e): return e.seq\n'
LIMITS = Limits()


def request(body: str = COUNT, name: str = "greenhouse") -> str:
    files = {file: source.decode() for file, source in app(body, name).items()}
    return json.dumps({"files": files, "entry": f"{name}.py", "limits": {}})


@pytest.fixture
def first(guest: tuple[Path, Path]) -> Engine:
    return python_engine(guest[1], 1)


@pytest.fixture
def second(first: Engine) -> Engine:
    return msgspec.structs.replace(first, name="other")


@pytest_asyncio.fixture
async def pool(first: Engine) -> AsyncIterator[Pool]:
    made = Pool(first, 2, ManualClock(), Recorder())
    await made.start()
    yield made
    await made.stop()


async def results(pool: Pool, name: str) -> list[object]:
    return [ok(o).value for o in await pool.run(FunctionRef(name, "v", "f"), [event(seq=7)], NOTHING)]


def engines(pool: Pool) -> list[str]:
    return [lane.engine.name for lane in pool.lanes]


async def linger(pool: Pool) -> None:
    """Let the time pass that executors outlive their last use by."""
    clock, tasks = pool._clock, list(pool._lingering)
    assert isinstance(clock, ManualClock)
    await asyncio.sleep(0)
    clock.advance(LINGER)
    await asyncio.gather(*tasks)


async def test_a_shared_engine_starts_with_its_first_app_and_ends_with_its_last(pool: Pool, second: Engine) -> None:
    assert engines(pool) == ["python", "python"]
    await asyncio.gather(*(pool.load((name, "v"), second, request(name=name), LIMITS) for name in ("a", "b")))
    assert engines(pool) == ["python", "python", "other"]
    assert await results(pool, "a") == await results(pool, "b") == [7]
    await pool.unload(("a", "v"))
    await linger(pool)
    assert engines(pool) == ["python", "python", "other"]
    process = pool.lanes[2].remote
    await pool.unload(("b", "v"))
    await linger(pool)
    assert engines(pool) == ["python", "python"]
    assert process.ready is None


async def test_a_shared_engine_keeps_an_executor_for_apps_that_rest(pool: Pool, second: Engine) -> None:
    await pool.load(("a", "v"), second, request(), LIMITS)
    await pool.scale(("a", "v"), 2)
    await pool.scale(("a", "v"), 0)
    await linger(pool)
    assert engines(pool) == ["python", "python", "other"]
    first_pid = pool.lanes[2].remote.pid
    assert await results(pool, "a") == [7]
    assert pool.lanes[2].remote.pid == first_pid
    await pool.scale(("a", "v"), 0)
    await pool.unload(("a", "v"))
    await linger(pool)
    assert engines(pool) == ["python", "python"]


async def test_an_app_is_loaded_where_it_was_checked(pool: Pool, second: Engine) -> None:
    await pool.try_load(second, request(), LIMITS)
    checked_in = pool.lanes[2].remote.pid
    await pool.load(("a", "v"), second, request(), LIMITS)
    await linger(pool)
    assert [lane.remote.pid for lane in pool.lanes[2:]] == [checked_in]


async def test_an_engine_that_is_not_shared_has_an_executor_for_each_app(pool: Pool, second: Engine) -> None:
    alone = msgspec.structs.replace(second, shared=False)
    for name in ("a", "b"):
        await pool.load((name, "v"), alone, request(name=name), LIMITS)
    assert engines(pool) == ["python", "python", "other", "other"]
    assert await results(pool, "a") == await results(pool, "b") == [7]
    await pool.unload(("a", "v"))
    assert engines(pool) == ["python", "python", "other"]
    assert await results(pool, "b") == [7]


async def test_a_check_leaves_no_executor_behind(pool: Pool, second: Engine) -> None:
    await pool.try_load(second, request(), LIMITS)
    with pytest.raises(LoadFailed):
        await pool.try_load(second, request("1 / 0\n"), LIMITS)
    with pytest.raises(LoadFailed):
        await pool.load(("a", "v"), second, request("1 / 0\n"), LIMITS)
    await linger(pool)
    assert engines(pool) == ["python", "python"]


async def test_an_engine_that_does_not_start_is_named_and_forgotten(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="the sandbox did not start"):
        await pool.load(("a", "v"), python_engine(tmp_path / "missing", 1), request(), LIMITS)
    assert engines(pool) == ["python", "python"]
    await pool.load(("a", "v"), pool.lanes[0].engine, request(), LIMITS)
    assert await results(pool, "a") == [7]


async def test_executors_of_all_engines_end_with_the_pool(first: Engine, second: Engine) -> None:
    pool = Pool(first, 1, SystemClock(), Recorder())
    await pool.start()
    await pool.load(("a", "v"), second, request(), LIMITS)
    remotes = [lane.remote for lane in pool.lanes]
    await pool.stop()
    assert [remote.ready for remote in remotes] == [None, None]


BUSY = """
import time
calls = 0
@app.route("climate", to="x")
def f(event):
    global calls
    calls += 1
    end = time.monotonic() + {seconds}
    while time.monotonic() < end: pass
    return calls
"""


def call(pool: Pool, name: str, events: int = 1) -> asyncio.Task[list[Outcome]]:
    batch = [event(seq=number) for number in range(events)]
    return asyncio.ensure_future(pool.run(FunctionRef(name, "v", "f"), batch, NOTHING))


async def test_an_app_has_at_most_one_instance_in_each_executor(pool: Pool, first: Engine) -> None:
    key = ("a", "v")
    await pool.load(key, first, request(BUSY.format(seconds=0.05)), LIMITS)
    assert await pool.scale(key, 5) == 2
    assert [lane.apps for lane in pool.lanes] == [1, 1]
    [one], [two] = await asyncio.gather(call(pool, "a"), call(pool, "a"))
    assert (ok(one).value, ok(two).value) == (1, 1), "each instance has been called once"
    assert await pool.scale(key, 1) == 1
    assert [lane.apps for lane in pool.lanes] == [1, 0]
    assert await pool.scale(("other", "v"), 3) == 0


async def test_an_instance_that_is_called_is_not_taken_away(pool: Pool, first: Engine) -> None:
    key = ("a", "v")
    await pool.load(key, first, request(BUSY.format(seconds=0.1)), LIMITS)
    running = call(pool, "a")
    await asyncio.sleep(0)
    assert await pool.scale(key, 0) == 1
    assert [ok(o).value for o in await running] == [1]
    assert await pool.scale(key, 0) == 0


async def test_an_app_without_instances_is_loaded_once_by_its_next_calls(pool: Pool, first: Engine) -> None:
    key = ("a", "v")
    await pool.load(key, first, request(), LIMITS)
    await pool.scale(key, 0)
    assert [lane.apps for lane in pool.lanes] == [0, 0]
    calls = [call(pool, "a") for _ in range(10)]
    assert [ok(o).value for found in await asyncio.gather(*calls) for o in found] == [0] * 10
    assert sum(lane.apps for lane in pool.lanes) == 1
    load = pool.load_of(key)
    assert load is not None
    assert (load.instances, load.waiting) == (1, 0)


async def test_a_version_that_is_unloaded_while_it_wakes_leaves_nothing(pool: Pool, first: Engine) -> None:
    key = ("a", "v")
    await pool.load(key, first, request(), LIMITS)
    await pool.scale(key, 0)
    waking = call(pool, "a")
    await asyncio.sleep(0)
    await pool.unload(key)
    with pytest.raises(Unavailable, match="unloaded"):
        await waking
    assert [lane.apps for lane in pool.lanes] == [0, 0]
    assert [lane.tenants for lane in pool.lanes] == [0, 0]


async def test_a_version_that_two_load_at_once_is_there_once(pool: Pool, first: Engine) -> None:
    key = ("a", "v")
    found = await asyncio.gather(*(pool.load(key, first, request(), LIMITS) for _ in range(3)))
    assert [loaded is None for loaded in found].count(False) == 1
    assert sum(lane.apps for lane in pool.lanes) == sum(lane.tenants for lane in pool.lanes) == 1
    await pool.unload(key)
    assert sum(lane.apps for lane in pool.lanes) == 0


async def test_a_shared_engine_gets_another_executor_with_a_second_instance(pool: Pool, second: Engine) -> None:
    key = ("a", "v")
    await pool.load(key, second, request(), LIMITS)
    assert await pool.scale(key, 2) == 2
    assert engines(pool) == ["python", "python", "other", "other"]
    await pool.load(("b", "v"), second, request(name="b"), LIMITS)
    assert engines(pool) == ["python", "python", "other", "other"], "there is room for it"
    assert await pool.scale(key, 0) == 0
    await linger(pool)
    assert engines(pool) == ["python", "python", "other"]


async def test_stops_are_told_apart(pool: Pool, first: Engine) -> None:
    recorder = pool._recorder
    for name in ("a", "b"):
        await pool.load((name, "v"), first, request(name=name), LIMITS)
    await pool.scale(("a", "v"), 2)
    await pool.scale(("a", "v"), 0)
    await pool.unload(("b", "v"))
    recorder.invoked("b", [Failure("timeout", ""), Failure("memory", ""), Failure("error", ""), Success()], 5)
    stats = recorder.snapshot(0)
    assert stats.apps["a"].stops == Stops(implicit=2)
    assert stats.apps["b"].stops == Stops(timeout=1, on_demand=1, error=2)
    assert stats.stops == Stops(timeout=1, on_demand=1, implicit=2, error=2)
    assert stats.apps["b"].failures == stats.failures == {"timeout": 1, "memory": 1, "error": 1}


async def test_an_app_with_a_small_share_is_held_back_and_its_neighbour_is_not(first: Engine) -> None:
    pool = Pool(first, 1, SystemClock(), Recorder())
    await pool.start()
    try:
        source = request(BUSY.format(seconds=0.02))
        await pool.load(("greedy", "v"), first, source, Limits(cpu=0.01))
        await pool.load(("modest", "v"), first, source, LIMITS)
        greedy = call(pool, "greedy", 100)
        for _ in range(5):
            await call(pool, "modest")
        load = pool.load_of(("greedy", "v"))
        while load is None or not load.held:
            await call(pool, "modest")
            load = pool.load_of(("greedy", "v"))
        assert not greedy.done()
        greedy.cancel()
        modest = pool.load_of(("modest", "v"))
        assert modest is not None
        assert modest.held == 0
    finally:
        await pool.stop()
