"""Instances follow what is asked of an app, in a real gateway; and each step can be asked for its reason."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from httpx import ASGITransport, AsyncClient

from edge_runtime import config
from edge_runtime.clock import SystemClock
from edge_runtime.errors import NotFound
from edge_runtime.events import Event
from edge_runtime.flows.ports import Success
from edge_runtime.functions.scaling import ALERT
from edge_runtime.gateway import Gateway
from edge_runtime.manifest import FunctionRef
from edge_runtime.planes.api import application
from edge_runtime.planes.messages import Deploy
from edge_runtime.planes.scaling import Instances

APP = b"""
from edge import App
app = App("good")
calls = 0

@app.on("climate")
def answer(event, ctx):
    global calls
    calls += 1
    ctx.emit("calls", calls)
"""

TOML = """
[mqtt]
listen = "127.0.0.1:0"
[functions]
executors = 2
"""


class Ahead(SystemClock):
    """The machine's clock, set forward by hand."""

    def __init__(self) -> None:
        self.ahead = 0

    def monotonic(self) -> int:
        return super().monotonic() + self.ahead


class Site:
    """A gateway with one app, and its API."""

    def __init__(self, gateway: Gateway, clock: Ahead, version: str) -> None:
        self.gateway = gateway
        self.clock = clock
        self.version = version
        self.api = AsyncClient(transport=ASGITransport(application(gateway)), base_url="http://edge")

    async def call(self) -> int:
        """Call the function; how often this instance has been called."""
        event = Event("b1", b"bootboot", 1, "climate", 1, 2, {})
        [outcome] = await self.gateway.platform.invoke(FunctionRef("good", self.version, "answer"), [event])
        assert isinstance(outcome, Success)
        return int(outcome.effects[0].data)  # type: ignore[union-attr]

    def live(self) -> tuple[str, str]:
        """The app and its live version."""
        return "good", self.gateway.apps()[0].version

    async def instances(self) -> Instances:
        """Look once, do what is decided, and ask the API."""
        await self.gateway.scaling.step()
        reply = await self.api.get("/apps/good/decisions")
        return msgspec.json.decode(reply.content, type=Instances)

    async def alert(self, status: str, **alert: object) -> int:
        """As Alertmanager posts it."""
        message = {
            "version": "4",
            "groupKey": '{}:{alertname="Slow"}',
            "status": status,
            "receiver": "edge",
            "externalURL": "http://alerts:9093",
            "alerts": [
                {
                    "status": status,
                    "labels": {"alertname": "Slow", "app": "good"},
                    "annotations": {"summary": "fans answer slowly"},
                    "startsAt": "2026-11-22T10:00:00Z",
                    "endsAt": "0001-01-01T00:00:00Z",
                    "fingerprint": "f1",
                    **alert,
                }
            ],
        }
        return (await self.api.post("/apps/good/alert", json=message)).status_code


async def started(tmp_path: Path, extra: str = "") -> Site:
    clock = Ahead()
    settings = config.parse(TOML + extra, tmp_path / "edge.toml")
    gateway = await Gateway.start(settings, clock=clock, rng=random.Random(1))
    deployed = await gateway.deploy(Deploy({"good.py": APP}))
    return Site(gateway, clock, deployed.version)


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = await started(tmp_path)
    yield made
    await made.api.aclose()
    await made.gateway.stop()


async def test_an_app_that_nobody_calls_rests_and_wakes_with_its_next_call(site: Site) -> None:
    assert [await site.call() for _ in range(3)] == [1, 2, 3]
    assert (await site.instances()).instances == 1
    site.clock.ahead += 601_000_000
    found = await site.instances()
    assert (found.instances, [d.reason for d in found.decisions]) == (0, ["not called for 10 min"])
    assert site.gateway.apps()[0].instances == 0
    assert await site.call() == 1, "another instance, which has not been called before"
    found = await site.instances()
    assert (found.instances, found.decisions[-1].reason) == (1, "it was called")
    assert site.gateway.status().stops.implicit == 1


async def test_min_keeps_an_instance_and_max_holds(tmp_path: Path) -> None:
    site = await started(tmp_path, "[apps.good]\nmin = 1\nmax = 1\nidle = '5s'\n")
    try:
        site.clock.ahead += 601_000_000
        await site.alert("firing")
        assert (await site.instances()).instances == 1
        assert await site.call() == 1
    finally:
        await site.api.aclose()
        await site.gateway.stop()


async def test_an_alert_adds_an_instance_and_lanes_for_it(site: Site) -> None:
    assert site.gateway.flows.find("good.answer").state.lanes == 1
    assert await site.alert("firing") == 200
    found = await site.instances()
    assert (found.instances, found.min, found.max) == (2, 0, 2)
    assert found.decisions[-1].reason == "alert: fans answer slowly"
    runner = site.gateway.flows.find("good.answer")
    assert runner.state.lanes == 2
    assert [executor.apps for executor in site.gateway.platform.report().executors] == [1, 1]
    await site.gateway.deploy(Deploy({"good.py": APP + b"# another version\n"}))
    found = await site.instances()
    assert (found.instances, found.decisions[-1].reason) == (2, "as many as the version before it")
    runner = site.gateway.flows.find("good.answer")
    assert await site.alert("resolved", endsAt="2026-11-22T11:00:00Z") == 200
    found = await site.instances()
    assert (found.instances, found.decisions[-1].reason) == (1, "an alert is over")
    assert site.gateway.flows.find("good.answer") is runner, "lanes cost a generation only once"


SLOW = b"""
import time
from edge import App
app = App("good")

@app.on("climate")
def answer(event):
    end = time.monotonic() + 0.02
    while time.monotonic() < end: pass
"""


async def test_an_app_that_is_behind_gets_another_instance(site: Site) -> None:
    """Real events, a real flow, real executors: 20 ms for each event, and more of them than that leaves time for."""
    gateway = site.gateway
    await gateway.deploy(Deploy({"good.py": SLOW}))
    now = gateway._clock.now()
    for start in range(0, 500, 100):
        await gateway.journal.append(
            [Event(f"b{seq % 40}", b"bootboot", seq, "climate", now, now, {}) for seq in range(start, start + 100)]
        )
    async with asyncio.timeout(30):
        while (found := gateway.scaling.of("good")).instances < 2:
            await asyncio.sleep(0.05)
    assert re.fullmatch(
        r"\d+ events, \d\.\d s, behind at \d+ events/s while its instance worked \d+% of the time",
        found.decisions[-1].reason,
    )
    async with asyncio.timeout(30):  # the flow comes back with as many lanes, and each has an instance at work
        while not all(one.running for one in gateway.platform._running._placed[site.live()].instances):
            await asyncio.sleep(0.01)
    assert gateway.flows.find("good.answer").state.lanes == 2


async def test_an_alert_that_is_not_repeated_ends(site: Site) -> None:
    await site.alert("firing")
    assert (await site.instances()).instances == 2
    site.clock.ahead += ALERT
    assert (await site.instances()).instances == 0


@pytest.mark.parametrize("lanes", [[3], [1]])
async def test_the_lanes_that_an_operator_chose_stand(site: Site, lanes: list[int]) -> None:
    if lanes == [1]:
        await site.alert("firing")
        await site.instances()
    await site.gateway.flows.scale("good.answer", lanes[0])
    await site.alert("resolved")
    await site.instances()
    await site.alert("firing")
    assert (await site.instances()).instances == 2
    assert site.gateway.flows.find("good.answer").state.lanes == lanes[0]


async def test_what_is_no_alert_and_no_app_is_refused(site: Site) -> None:
    assert await site.alert("burning") == 400
    assert (await site.api.get("/apps/god/decisions")).status_code == 404
    assert (await site.api.post("/apps/god/alert", json={"status": "firing", "alerts": []})).status_code == 404
    with pytest.raises(NotFound, match="there is no live app 'god'"):
        site.gateway.scaling.of("god")
