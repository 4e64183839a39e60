"""The API's manners: messages are checked, mistakes have a sentence and the right status."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from edge_runtime.planes.api import application
from edge_runtime.planes.exposition import _Page
from edge_runtime.planes.house import House as Seam
from edge_runtime.planes.http import MAX_BODY
from tests.planes.house import Answers, House, reading, turns


@pytest.fixture
async def api(house: House) -> AsyncIterator[httpx.AsyncClient]:
    flow = Answers()
    flow.broken = lambda event: event.seq == 1
    await house.flows.install(flow)
    await house.journal.append([reading(0, 1), reading(1, 2)])
    await turns()
    seam = SimpleNamespace(
        deployments=None,
        secrets=None,
        mqtt_users=None,
        inventory=SimpleNamespace(registry=None),
        fleet=None,
        control=house.control,
        letters=house.letters,
        lineage=house.lineage,
    )
    transport = httpx.ASGITransport(application(cast(Seam, seam)))
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
        yield client


async def test_flows_and_their_verbs(api: httpx.AsyncClient) -> None:
    (row,) = (await api.get("/flows")).json()
    assert (row["flow"], row["state"]) == ("app.f", "running")
    assert (await api.post("/flows/app.f/pause")).json()["state"] == "paused"
    assert (await api.post("/flows/app.f/resume")).json()["state"] == "running"
    assert (await api.post("/flows/app.f/scale", json={"lanes": 3})).json()["lanes"] == 3
    assert (await api.post("/flows/app.f/rate", json={"rate": 5})).json()["rate_limit"] == 5
    assert (await api.post("/flows/app.f/rewind", json={"start": {"offset": 1}})).json()["first"] == 1
    assert (await api.post("/flows/app.f/bootstrap")).json()["epoch"] == 2
    assert (await api.post("/flows/app.f/replay", json={"start": {}})).json()["events"] == 2


async def test_dead_letters_and_lineage(api: httpx.AsyncClient) -> None:
    (letter,) = (await api.get("/dead", params={"flow": "app.f", "limit": 5})).json()["letters"]
    offset = letter["offset"]
    assert (await api.get(f"/dead/{offset}")).json()["state"] == "open"
    lines = (await api.get("/dead/export")).text.splitlines()
    assert len(lines) == 1
    trace = (await api.post("/trace", json={"id": letter["event"]})).json()
    assert trace["root"]["effects"][0]["type"] == "dead-letter"
    assert (await api.post("/dead/drop", json={"offsets": [offset]})).json()["letters"] == [offset]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/flows/ap.f/pause", None, 404, "there is no flow 'ap.f'"),
        ("POST", "/flows/app.f/release", {"key": "gh-9"}, 404, "does not hold 'gh-9' back"),
        ("GET", "/dead/0", None, 404, "no dead letter at 0"),
        ("GET", "/dead?flow=nobody", None, 404, "there is no flow 'nobody'"),
        ("GET", "/dead/export?flow=nobody", None, 404, "there is no flow 'nobody'"),
        ("GET", "/dead?limit=many", None, 400, "not a valid Which"),
        ("GET", "/dead?colour=red", None, 400, "colour"),
        ("POST", "/trace", {"id": "gh-1/f00d000102030405/1"}, 404, "there is no event or command"),
        ("POST", "/trace", {"id": 7}, 400, "not a valid TraceRequest"),
        ("POST", "/flows/app.f/rewind", {"start": {"moment": 1}}, 400, "not a valid Rewind"),
        ("POST", "/flows/app.f/scale", {"lanes": "many"}, 400, "not a valid Scale"),
        ("POST", "/dead/retry", {"offsets": []}, 400, "say which dead letters"),
    ],
)
async def test_mistakes(api: httpx.AsyncClient, method: str, path: str, body: Any, status: int, says: str) -> None:
    answer = await api.request(method, path, json=body)
    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_names_of_others_cannot_break_the_page_of_figures() -> None:
    page = _Page()
    page.gauge("edge_app_metric", "What it is.", 1.5, app="a", metric='b"} 7\nedge_devices 9\\')
    assert page.text().splitlines()[2:] == [r'edge_app_metric{app="a",metric="b\"} 7\nedge_devices 9\\"} 1.5']


async def test_a_request_that_is_too_large_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.post("/trace", content=b" " * (MAX_BODY + 1))
    assert answer.status_code == 400
    assert "larger than" in answer.json()["error"]
