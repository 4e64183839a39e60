"""kill -9 of the gateway while boards fetch a release, and a canary that fails: the roll-out goes on where it was."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from devices.release_store import new_package
from devices.releases import manifest_of
from edge_runtime.planes.client import NotRunning
from edge_runtime.planes.fleet import RollOut, RolloutRow
from hil.script import installed
from tests.hil.updatable import PROGRAM, UpdatableBoard, release_files
from tests.integration.test_kill import Gateway

BOARDS = 2
LARGE = PROGRAM + "# " + "x" * 20_000


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    gateway = Gateway(tmp_path)
    await gateway.start()
    yield gateway
    await gateway.kill()


async def rollout(gateway: Gateway, is_so: Callable[[RolloutRow], bool]) -> RolloutRow:
    """The newest roll-out, once it is so."""
    async with asyncio.timeout(90):
        while True:
            try:
                row = await asyncio.to_thread(gateway.api.rollout)
            except NotRunning:
                continue
            if is_so(row):
                return row
            await asyncio.sleep(0.05)


async def release(gateway: Gateway, version: str, text: str) -> None:
    files = release_files(version, text)
    package = new_package(files, manifest_of("greenhouse", version, files, health=60))
    await asyncio.to_thread(gateway.api.add_release, package)


@pytest.mark.timeout(200)
async def test_kills_while_boards_fetch(gateway: Gateway, tmp_path: Path) -> None:
    boards = []
    for n in range(BOARDS):
        key = (await asyncio.to_thread(gateway.api.add_device, f"b{n}")).key
        (tmp_path / f"b{n}").mkdir()
        settings = {"host": "127.0.0.1", "port": gateway.port, "backoff": 1, "patience": 3, "packet": 128}
        boards.append(UpdatableBoard(tmp_path / f"b{n}", {"device": f"b{n}", "key": key, **settings}))
    try:
        await asyncio.gather(*(board.start() for board in boards))
        await release(gateway, "2.0", LARGE)
        request = RollOut("greenhouse", first=["b0"], devices=["b1"])
        begun = await asyncio.to_thread(gateway.api.roll_out, request)
        assert (begun.steps, begun.state) == ([1, 2], "running")
        for _ in range(2):
            await rollout(gateway, lambda row: row.members[0].stand == "fetching")
            await gateway.kill()
            await gateway.start()
        assert (await rollout(gateway, lambda row: True)).members[1].stand in ("waits", "due")
        done = await rollout(gateway, lambda row: row.state == "done")
        assert done.number == begun.number
        assert done.counts == {"runs it": 2}
        assert [board.starts for board in boards] == [2, 2]
        assert all(board.slot("b") == release_files("2.0", LARGE) for board in boards)

        await release(gateway, "3.0", "import nothing_like_it\n")
        await asyncio.to_thread(gateway.api.roll_out, request)
        paused = await rollout(gateway, lambda row: row.state == "paused")
        assert paused.why == "1 of 1 devices have failed"
        assert [member.stand for member in paused.members] == ["rolled back", "waits"]
        assert "nothing_like_it" in paused.members[0].detail
        await gateway.kill()
        await gateway.start()
        assert (await rollout(gateway, lambda row: True)).state == "paused"
        fleet = await asyncio.to_thread(gateway.api.fleet)
        assert [row.runs for row in fleet] == ["greenhouse 2.0"] * 2
        assert [board.starts for board in boards] == [2 + 4, 2]
    finally:
        await asyncio.gather(*(board.cut() for board in boards))
