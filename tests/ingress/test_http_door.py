"""The HTTP door of devices over a journal in memory, without a network: what is durable when, and in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from devices.registry import Registry
from devices.twin import json_content
from edge_runtime.clock import ManualClock
from edge_runtime.errors import StorageFull
from edge_runtime.events import Origin
from edge_runtime.ingress import http
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.http import DeviceHttp
from edge_runtime.ingress.http_exchange import Refused
from edge_runtime.ingress.pace import Allowance, Pace
from edge_runtime.ingress.stamps import Stamps
from edge_runtime.journal.records import Command, CommandEnd, DeadLetter
from tests.ingress.mqtt_house import SlowJournal, eventually

SECOND = 1_000_000
HERE = "/devices/d/events/climate"


class Desk:
    """A door with what belongs to it, and a client."""

    def __init__(self) -> None:
        self.journal = SlowJournal()
        self.clock = ManualClock()
        self.security: list[str] = []
        self.listening: list[str] = []

    async def build(self, max_requests: int = 4) -> Desk:
        registry = self.registry = await Registry.open(self.journal, self.clock)
        self.pace = Pace(self.clock, lambda _: Allowance(100, 0, SECOND))
        self.admission = await Admission.open(self.journal, registry, self.clock, self.security.append, pace=self.pace)
        self.door = DeviceHttp(
            self.admission,
            registry,
            self.clock,
            Stamps(b"8 bytes."),
            security=self.security.append,
            max_requests=max_requests,
        )
        self.door.on_listening = self.listening.append
        self.key = await registry.add("d")
        await registry.add("other")
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        transport = httpx.ASGITransport(app=self._serve)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://edge", headers=headers)
        return self

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response
        try:
            response = await self.door.respond(Request(scope, receive))
        except Refused as refused:
            response = refused.response
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    def post(self, path: str, data: str, **headers: str) -> asyncio.Task[httpx.Response]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return asyncio.create_task(self.client.post(path, content=data, headers=named))

    def get(self, path: str) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.client.get(path))

    def order(self, index: int = 0, device: str = "d", args: Any = None) -> Command:
        now = self.clock.now()
        return Command(device, "fan", args, now, now + 60 * SECOND, Origin("app.f", 0, "cause", index))


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = await Desk().build()
    yield desk
    await desk.client.aclose()


async def test_a_202_leaves_when_the_event_is_durable_and_not_before(desk: Desk) -> None:
    desk.journal.slow = True
    answer = desk.post(HERE, "1")
    await eventually(lambda: len(desk.journal.under_way) == 1)
    await asyncio.sleep(0)
    assert not answer.done()
    await desk.journal.let_through(1)
    assert (await answer).status_code == 202
    assert [event.data for event in desk.journal.events] == [1]


async def test_a_full_journal_is_503_and_the_repeat_is_the_same_event(desk: Desk) -> None:
    desk.journal.slow = True
    answers = []
    for _ in range(2):
        answers.append(desk.post(HERE, "1", idempotency_key="once"))
        await eventually(lambda: len(desk.journal.under_way) == len(answers))
    _, first = desk.journal.under_way.popleft()
    first.set_exception(StorageFull("full"))
    await desk.journal.let_through(1)
    refused, stored = [await answer for answer in answers]
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    assert (stored.status_code, stored.json()["state"]) == (202, "accepted")
    desk.journal.slow = False
    assert (await desk.post(HERE, "1", idempotency_key="once")).json()["state"] == "duplicate"
    assert len(desk.journal.events) == 1


async def test_names_are_remembered_within_bounds(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REMEMBERED", 2)
    states = []
    for key in ("a", "b", "a", "c", "b"):  # "b" was the one named longest ago when "c" came
        states.append((await desk.post(HERE, "1", idempotency_key=key)).json()["state"])
    assert states == ["accepted", "accepted", "duplicate", "accepted", "accepted"]


async def test_who_waits_for_commands_waits_no_longer_than_it_said(desk: Desk) -> None:
    answer = desk.get("/devices/d/commands?wait=5")
    await eventually(lambda: desk.door.connected() == {"d"})
    assert desk.listening == ["d"]
    assert not desk.door.deliver(desk.order(device="other"))
    desk.clock.advance(5 * SECOND)
    assert (await answer).json() == []
    assert not desk.door.connected()
    assert not desk.door.deliver(desk.order())


async def test_a_command_ends_the_waiting(desk: Desk) -> None:
    order = desk.order(args={"raw": b"\xff"})
    await desk.journal.append([order])
    answer = desk.get("/devices/d/commands?wait=60")
    await eventually(lambda: desk.door.connected() == {"d"})
    assert desk.door.deliver(order)
    assert desk.door.deliver(order), "once more is still one"
    expires = desk.clock.now() + 60 * SECOND
    assert (await answer).json() == [{"id": order.id.hex(), "expires": expires, "name": "fan", "args": {"raw": "/w=="}}]
    reply = f'{{"id": "{order.id.hex()}", "status": 1, "result": "stuck"}}'
    assert (await desk.post("/devices/d/replies", reply)).status_code == 202
    (end,) = [record for record in desk.journal.inner.records() if isinstance(record, CommandEnd)]
    assert (end.command, end.status, end.result) == (order.id, 1, "stuck")


async def test_the_newest_request_for_commands_is_the_one_that_waits(desk: Desk) -> None:
    first = desk.get("/devices/d/commands?wait=60")
    await eventually(lambda: len(desk.listening) == 1)
    second = desk.get("/devices/d/commands?wait=60")
    assert (await first).json() == []
    assert desk.door.deliver(desk.order())
    assert len((await second).json()) == 1


async def test_an_answer_holds_so_many_commands_and_leaves_the_rest(desk: Desk) -> None:
    answer = desk.get("/devices/d/commands?wait=60")
    await eventually(lambda: desk.door.connected() == {"d"})
    taken = [desk.door.deliver(desk.order(index)) for index in range(40)]
    assert taken == [True] * http.MAX_COMMANDS + [False] * 8
    assert len((await answer).json()) == http.MAX_COMMANDS


async def test_so_many_wait_and_others_are_still_served(desk: Desk) -> None:
    waiting = [desk.get("/devices/d/config?wait=60") for _ in range(4)]
    await eventually(lambda: desk.door._waiting == 4)
    turned_away = await desk.get("/devices/d/config?wait=60")
    assert (turned_away.status_code, turned_away.headers["retry-after"]) == (503, "10")
    assert (await desk.post(HERE, "1")).status_code == 202
    await desk.admission.twin.set_config("d", json_content(1))
    assert [(await answer).json() for answer in waiting] == [{"version": 1, "config": 1}] * 4


async def test_so_many_requests_at_a_time(desk: Desk) -> None:
    desk.journal.slow = True
    under_way = [desk.post(HERE, "1") for _ in range(4)]
    await eventually(lambda: len(desk.journal.under_way) == 4)
    assert (await desk.post(HERE, "1")).status_code == 503
    await desk.journal.let_through(4)
    assert [(await answer).status_code for answer in under_way] == [202] * 4


async def test_a_stop_ends_all_waiting(desk: Desk) -> None:
    waiting = [desk.get("/devices/d/config?wait=60"), desk.get("/devices/d/commands?wait=60")]
    await eventually(lambda: desk.door._waiting == 2)
    desk.door.stop()
    assert [(await answer).status_code for answer in waiting] == [404, 200]


async def test_what_a_blocked_device_waits_for_ends_at_once(desk: Desk) -> None:
    waiting = [desk.get("/devices/d/config?wait=60"), desk.get("/devices/d/commands?wait=60")]
    await eventually(lambda: desk.door._waiting == 2)
    await desk.registry.block("d")
    assert [(await answer).status_code for answer in waiting] == [401, 401]
    assert not desk.door.connected()
    assert len([line for line in desk.security if "was ended" in line]) == 2


async def test_a_device_that_is_too_fast_is_told_so(desk: Desk) -> None:
    codes = [(await desk.post(HERE, "1")).status_code for _ in range(110)]
    assert codes[:100] == [202] * 100
    assert codes[-1] == 429
    desk.clock.advance(2 * SECOND)
    assert (await desk.post(HERE, "1")).status_code == 202


async def test_what_can_never_be_taken_is_a_durable_dead_letter(desk: Desk) -> None:
    assert (await desk.post(HERE, "{")).status_code == 400
    (letter,) = [record for record in desk.journal.inner.records() if isinstance(record, DeadLetter)]
    assert (letter.device, letter.topic, letter.payload) == ("d", HERE, b"{")


async def test_what_happened_is_counted(desk: Desk) -> None:
    await desk.post(HERE, "1", idempotency_key="once")
    await desk.post(HERE, "1", idempotency_key="once")
    await desk.post(HERE, "{")
    await desk.post("/devices/d/state", "{}")
    await desk.client.post(HERE, content="1", headers={"authorization": "Bearer wrong"})
    desk.journal.inner.full = True
    assert (await desk.post(HERE, "2")).status_code == 503
    assert (await desk.post("/devices/d/state", '{"on": true}')).status_code == 503
    counters = desk.door.counters
    assert (counters.messages, counters.acknowledged, counters.refused) == (6, 4, 2)
    assert (counters.duplicates, counters.dead, counters.failed_logins) == (1, 1, 1)
    desk.journal.inner.full = False
    codes = [(await desk.post(HERE, "1")).status_code for _ in range(110)]
    assert (counters.busy, counters.messages) == (codes.count(429), 6 + codes.count(202))
    assert desk.door.latency.count == 3 + codes.count(202)
