"""Executors of several engines: started with the first app that needs them, ended with the last."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from edge_runtime.clock import SystemClock
from edge_runtime.errors import EdgeError
from edge_runtime.flows.ports import NOTHING
from edge_runtime.functions.engines import Engine, python_engine
from edge_runtime.functions.jobs import LoadFailed
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.pool import Pool
from edge_runtime.functions.stats import Recorder
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
    made = Pool(first, 2, SystemClock(), Recorder())
    await made.start()
    yield made
    await made.stop()


async def results(pool: Pool, name: str) -> list[object]:
    return [ok(o).value for o in await pool.run(FunctionRef(name, "v", "f"), [event(seq=7)], NOTHING)]


def engines(pool: Pool) -> list[str]:
    return [lane.engine.name for lane in pool.lanes]


async def test_a_shared_engine_starts_with_its_first_app_and_ends_with_its_last(pool: Pool, second: Engine) -> None:
    assert engines(pool) == ["python", "python"]
    await asyncio.gather(*(pool.load((name, "v"), second, request(name=name), LIMITS) for name in ("a", "b")))
    assert engines(pool) == ["python", "python", "other"]
    assert await results(pool, "a") == await results(pool, "b") == [7]
    await pool.unload(("a", "v"))
    assert engines(pool) == ["python", "python", "other"]
    process = pool.lanes[2].remote
    await pool.unload(("b", "v"))
    assert engines(pool) == ["python", "python"]
    assert process.ready is None


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
