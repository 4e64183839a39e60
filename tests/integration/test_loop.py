"""The whole loop, each part real: boards in MicroPython, the gateway's process, the sandbox, the cloud's runtime."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cloud_bridge.local_cloud import received
from edge_runtime.demo.account import Account, account
from edge_runtime.demo.site import Site
from edge_runtime.planes.messages import Line

PERIOD_MS = 50
PATIENCE = 60.0


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so; the time-out is the test's failure, not its pace."""
    async with asyncio.timeout(PATIENCE):
        while not await true():
            await asyncio.sleep(0.05)


class Run:
    """A site under test."""

    def __init__(self, site: Site) -> None:
        self.site = site

    async def start(self, readings: int) -> None:
        self.readings = readings
        await self.site.start(lambda _: None, lambda *_: None)
        await self.site.start_boards(period_ms=PERIOD_MS, readings=readings)

    def acknowledged(self) -> int:
        return sum(len(journal.acknowledged) for journal in self.site.journals().values())

    def arrived(self) -> int:
        return len(received(self.site.cloud_journal))

    async def settled(self) -> bool:
        status = await self.site.status()
        quiet = status.outbox == 0 and all(row.lag == 0 and not row.waiting for row in status.flows)
        return quiet and self.acknowledged() >= 2 * self.readings

    async def account(self) -> tuple[Account, list[Line]]:
        await until(self.settled)
        lines = await asyncio.to_thread(lambda: list(self.site.client.tail(-1, follow=False)))
        boards = list(self.site.journals().values())
        return account(boards, lines, received(self.site.cloud_journal), [], 0), lines


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    run = Run(Site(tmp_path / "site"))
    yield run
    await run.site.stop()


def check_effects(lines: list[Line]) -> None:
    """Each reading that is too warm or cool enough has caused exactly one command, and nothing else has."""
    causes = Counter(line.cause for line in lines if line.type == "command")
    wanted = {line.id for line in lines if line.type == "event" and not 24 <= line.data["temperature"] <= 30}
    assert set(causes) == wanted
    assert set(causes.values()) <= {1}


@pytest.mark.timeout(300)
async def test_the_cloud_function_dies_and_comes_back(run: Run) -> None:
    await run.start(readings=80)
    site = run.site

    async def some_arrived() -> bool:
        return run.arrived() >= 20

    await until(some_arrived)
    await site.cloud.kill()
    at_death = run.acknowledged()

    async def more_acknowledged() -> bool:
        return run.acknowledged() >= at_death + 40

    await until(more_acknowledged)
    status = await site.status()
    assert any(row.waiting for row in status.flows if row.type == "route"), "the route says what it waits for"
    assert not any(row.waiting for row in status.flows if row.type == "function"), "the others go on"
    await site.cloud.start()
    found, lines = await run.account()
    assert found.good, found
    assert found.acknowledged == found.published == found.logged == found.cloud_received == 160
    check_effects(lines)


@pytest.mark.timeout(300)
async def test_the_gateway_is_killed_and_starts_again(run: Run) -> None:
    await run.start(readings=100)
    for goal in (40, 90, 140):

        async def reached(goal: int = goal) -> bool:
            return run.acknowledged() >= goal

        await until(reached)
        await run.site.kill_gateway()
        await run.site.start_gateway()
    found, lines = await run.account()
    assert found.good, found
    assert found.acknowledged == found.logged == found.cloud_received == 200
    assert found.commands_issued == found.commands_received_by_boards > 0
    check_effects(lines)


@pytest.mark.timeout(300)
def test_the_demo_counts_and_goes_on_from_its_data(tmp_path: Path) -> None:
    for _ in range(2):
        ended = subprocess.run(
            [sys.executable, "-m", "edge_runtime.cli", "demo", "--events", "30", "--json", "--folder", "site"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        found = json.loads(ended.stdout)
        counts = [found[name] for name in ("published", "acknowledged", "logged", "cloud_received")]
        assert counts == [30] * 4
        assert found["commands_received_by_boards"] == found["commands_issued"]
        assert found["function_calls"] >= 30
        assert found["cold_start_ms"]["samples"] == 20
        assert (found["missing"], found["doubled"]) == ({}, [])
