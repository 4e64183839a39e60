"""What makes functions run besides a board's events, in a real gateway: moments, deferred events, requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_runtime.errors import DeployError, EdgeError
from edge_runtime.events import GATEWAY
from edge_runtime.ingress import endpoints, http_exchange
from edge_runtime.planes.control import Rewind
from edge_runtime.planes.moments import Moment
from tests.ingress.mqtt_house import event_packet
from tests.integration.test_gateway import PUBACK, Site

TICKING = """
from edge import App
app = App("clockwork")

@app.schedule(every="1s")
def tick(event, ctx):
    ctx.state["n"] = ctx.state.get("n", 0) + 1
    ctx.emit("ticked", {"n": ctx.state["n"], "due": event.data["due"], "device": event.device})

@app.schedule(cron="0 6 * * *", tz="Europe/Berlin")
def morning(event):
    pass
"""

WATCHING = """
from edge import App
app = App("watch")

@app.on("climate")
def reading(event, ctx):
    ctx.defer("silent", {"since": event.seq}, after="300ms", key="silence")
    if event.data.get("off"):
        ctx.cancel("silence")

@app.on("silent")
def alarm(event, ctx):
    ctx.command(event.device, "alarm", event.data)
"""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path, '[http]\nlisten = "127.0.0.1:0"\ntimeout = "2s"\n')
    await site.start()
    yield site
    await site.stop()


async def test_a_schedule_runs_and_goes_on_after_a_restart(site: Site) -> None:
    await site.deploy(TICKING)
    await site.until("event", lambda lines: sum(line.name == "ticked" for line in lines) >= 2)
    await site.stop()
    await site.start()
    lines = await site.until("event", lambda lines: sum(line.name == "ticked" for line in lines) >= 4)
    ticks = [line for line in lines if line.name == "$schedule.clockwork.tick"]
    answers = [line for line in lines if line.name == "ticked"]
    assert [line.data["n"] for line in answers] == list(range(1, len(answers) + 1))
    assert {line.device for line in lines} == {GATEWAY}
    dues = [line.data["due"] for line in ticks]
    assert all((later - due) % 1_000_000 < 1_000 for due, later in pairwise(dues))
    trace = await site.gateway.lineage.trace(answers[0].id)
    assert (trace.root.id, trace.root.effects[0].id) == (ticks[0].id, answers[0].id)
    rows = {row.name: row.terms for row in site.gateway.apps()[0].triggers}
    assert rows == {"tick": "every 1s", "morning": "cron 0 6 * * * (Europe/Berlin)"}
    assert [row.flow for row in site.gateway.control.rows()] == ["clockwork.morning", "clockwork.tick"]


async def test_a_new_version_changes_schedules_and_a_paused_flow_has_one_tick_waiting(site: Site) -> None:
    await site.deploy(TICKING)
    await site.until("event", lambda lines: any(line.name == "ticked" for line in lines))
    await site.gateway.control.pause("clockwork.tick")
    head = site.gateway.flows.feed.head

    def ticked_off() -> int:
        """When the moment was that the chain of the paused flow has come to."""
        return next(timer.set for timer in site.gateway.timers._pending.timers.values() if not timer.moment)

    begun = ticked_off()
    async with asyncio.timeout(30):
        while ticked_off() < begun + 2_000_000:
            await asyncio.sleep(0.01)
    later = [line for line in await site.lines("event") if line.offset > head and line.name.startswith("$")]
    assert len(later) <= 1
    await site.deploy(TICKING.replace('every="1s"', 'every="1h"').replace("def morning", "def evening"))
    pending = site.gateway.timers._pending.timers.values()
    assert sorted(timer.flow for timer in pending) == ["clockwork.evening", "clockwork.tick"]
    assert {timer.after for timer in pending if not timer.moment} == {3_600_000_000}


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ('cron="61 * * * *"', "the minute"),
        ('cron="* * *"', "3 fields"),
        ('cron="0 0 30 2 *"', "never comes"),
        ('cron="* * * * *", tz="Europe/Berln"', "no time zone"),
        ('cron="* * * * *", every="1h"', "one of"),
        ('every="10ms"', "a second is the least"),
        ('every="soon"', "is not a time"),
        ("", "one of"),
        ('every="1h", missed="all"', "neither"),
    ],
)
async def test_a_schedule_that_cannot_be_is_refused_at_its_deploy(site: Site, schedule: str, why: str) -> None:
    await site.deploy(TICKING)
    with pytest.raises(DeployError, match=why):
        await site.deploy(TICKING.replace('every="1s"', schedule))
    assert "clockwork.tick" in site.gateway.flows.runners, "what ran before goes on"


async def test_silence_raises_an_alarm_and_a_reading_puts_it_off(site: Site) -> None:
    await site.deploy(WATCHING)
    device = await site.device("d")
    for seq in range(4):
        device.send(event_packet(seq, {"n": seq}))
        assert (await device.receive())[:2] == PUBACK
    commands = await site.until("command", lambda lines: len(lines) >= 1)
    assert [command.data for command in commands] == [{"since": 3}]
    lines = await site.lines("event")
    [alarm] = [line for line in lines if line.name == "silent"]
    [deferred] = [line for line in await site.lines("deferred") if line.id == alarm.id]
    assert (deferred.name, alarm.cause, alarm.device) == ("silent", lines[3].id, "d")
    trace = await site.gateway.lineage.trace(commands[0].id)
    assert (trace.root.id, trace.root.effects[0].id) == (lines[3].id, alarm.id)


async def test_a_deferred_event_survives_a_restart_and_a_quiet_rewind_makes_it_quiet(site: Site) -> None:
    await site.deploy(WATCHING)
    device = await site.device("d")
    device.send(event_packet(0, {}))
    assert (await device.receive())[:2] == PUBACK
    await site.until("deferred", lambda lines: len(lines) == 1)
    await site.stop()
    site.clients.clear()
    await site.start()
    await site.until("command", lambda lines: len(lines) == 1)
    await site.gateway.control.rewind("watch.reading", Rewind(Moment(offset=0)))
    lines = await site.until("event", lambda lines: sum(line.name == "silent" for line in lines) == 2)
    await asyncio.wait_for(_dealt_with(site, lines[-1].offset), 10)
    assert len(await site.lines("command")) == 1, "nobody is alarmed twice by one silence"


async def _dealt_with(site: Site, offset: int) -> None:
    while not site.gateway.flows.runners["watch.alarm"].position().done(offset, "d"):
        await asyncio.sleep(0.01)


async def test_no_device_is_called_gateway(site: Site) -> None:
    with pytest.raises(EdgeError, match="the gateway itself"):
        await site.gateway.add_device(GATEWAY)


# Requests

ASKED = """
import base64
from edge import App, Reply
app = App("shop")

@app.http("/orders", methods=["POST", "PUT"], headers=["X-Shop"])
def order(event, ctx):
    ctx.state["n"] = ctx.state.get("n", 0) + 1
    ctx.emit("ordered", {"n": ctx.state["n"]})
    return {"n": ctx.state["n"], "asked": event.data}

@app.http("/", methods=["GET"], public=True)
def front(event):
    return "welcome"

@app.http("/do", public=True)
def do(event, ctx):
    what = event.data["body"]
    if what == "raise":
        raise ValueError("secret detail")
    if what == "loop":
        while True:
            pass
    if what == "bytes":
        return Reply(201, bytes([0, 255]), {"X-Made": "yes", "content-type": "image/x"})
    if what == "header":
        return Reply(200, "x", {"x": "a\\r\\nb"})
    if what == "set":
        return {1, 2}
    if what == "missing":
        return Reply(404, {"error": "no such order"})

@app.http("/binary", public=True)
def binary(event):
    return Reply(200, base64.b64decode(event.data["body"]) if event.data["base64"] else event.data["body"])
"""


class Shop:
    """The gateway's HTTP door, and somebody who has the token."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.url = f"http://127.0.0.1:{site.gateway.front.http_port}"
        self.http = httpx.AsyncClient(base_url=self.url, timeout=20, trust_env=False)

    async def open(self) -> Shop:
        await self.site.deploy(ASKED)
        token = (await self.site.gateway.app_token("shop")).token
        self.headers = {"Authorization": f"Bearer {token}"}
        return self

    async def do(self, what: str) -> httpx.Response:
        return await self.http.post("/apps/shop/do", content=what)

    async def raw(self, text: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.site.gateway.front.http_port)
        writer.write(text)
        return reader, writer


@pytest.fixture
async def shop(site: Site) -> AsyncIterator[Shop]:
    shop = await Shop(site).open()
    yield shop
    await shop.http.aclose()


async def test_a_request_becomes_an_event_and_its_answer_leaves_behind_the_commit(shop: Shop) -> None:
    asked = await shop.http.post(
        "/apps/shop/orders?a=1&b=2&b=3&c=",
        json={"tea": 2},
        headers={**shop.headers, "X-Shop": "north", "Cookie": "c=1", "X-Other": "o", "Idempotency-Key": "k"},
    )
    assert (asked.status_code, asked.headers["content-type"]) == (200, "application/json")
    answer = asked.json()
    data = answer["asked"]
    assert (answer["n"], data["method"], data["path"], data["type"]) == (1, "POST", "/orders", "application/json")
    assert data["query"] == {"a": "1", "b": ["2", "3"], "c": ""}
    assert (json.loads(data["body"]), data["base64"]) == ({"tea": 2}, False)
    assert (data["headers"]["x-shop"], data["headers"]["idempotency-key"]) == ("north", "k")
    assert not {"authorization", "cookie", "x-other"}.intersection(data["headers"])
    events = await shop.site.lines("event")
    assert [(line.name, line.device) for line in events] == [("$http.shop.order", GATEWAY), ("ordered", GATEWAY)]
    assert (events[0].id, events[1].cause) == (asked.headers["x-event"], events[0].id)
    token = shop.headers["Authorization"].split()[1]
    assert not [line for line in events if token in str(line)]


async def test_what_functions_answer(shop: Shop) -> None:
    front = await shop.http.get("/apps/shop/")
    assert (front.status_code, front.text, front.headers["content-type"]) == (
        200,
        "welcome",
        "text/plain; charset=utf-8",
    )
    nothing = await shop.do("nothing")
    assert (nothing.status_code, nothing.content) == (204, b"")
    made = await shop.do("bytes")
    assert (made.status_code, made.content, made.headers["x-made"], made.headers["content-type"]) == (
        201,
        b"\0\xff",
        "yes",
        "image/x",
    )
    missing = await shop.do("missing")
    assert (missing.status_code, missing.json()) == (404, {"error": "no such order"})
    for content in (b"\xff\xfe", "grün".encode(), b""):
        echoed = await shop.http.post("/apps/shop/binary", content=content)
        assert echoed.content == content


@pytest.mark.parametrize(
    ("what", "reason"), [("raise", "error"), ("header", "error"), ("set", "error"), ("loop", "timeout")]
)
async def test_a_function_that_fails_is_a_500_and_a_dead_letter(shop: Shop, what: str, reason: str) -> None:
    failed = await shop.do(what)
    [letter] = await shop.site.lines("dead-letter")
    assert failed.status_code == 500
    assert failed.json() == {"error": f"the function failed ({reason})", "event": letter.id}, "and no more than that"
    assert (letter.name, (await shop.do("nothing")).status_code) == (reason, 204)


async def test_a_function_that_does_not_answer_in_time_is_a_202_and_goes_on(shop: Shop) -> None:
    await shop.site.gateway.control.pause("shop.order")
    accepted = await shop.http.put("/apps/shop/orders", headers=shop.headers)
    assert (accepted.status_code, accepted.json()["state"]) == (202, "accepted")
    await shop.site.gateway.control.resume("shop.order")
    lines = await shop.site.until("event", lambda lines: len(lines) == 2)
    assert lines[1].cause == accepted.json()["event"]


@pytest.mark.parametrize(
    ("method", "path", "kw", "status"),
    [
        ("GET", "/", {}, 404),
        ("GET", "/apps", {}, 404),
        ("GET", "/apps/shop", {}, 200),
        ("GET", "/apps/nobody/", {}, 404),
        ("GET", "/apps/shop/none", {}, 404),
        ("GET", "/apps/shop/../shop/none", {}, 404),
        ("GET", "/apps/shop/%2e%2e/x", {}, 404),
        ("DELETE", "/apps/shop/orders", {}, 405),
        ("OPTIONS", "/apps/shop/orders", {}, 405),
        ("BREW", "/apps/shop/orders", {}, 405),
        ("POST", "/apps/shop/orders", {}, 401),
        ("POST", "/apps/shop/orders", {"headers": {"Authorization": "Basic x"}}, 401),
        ("POST", "/apps/shop/orders", {"headers": {"Authorization": "Bearer wrong"}}, 401),
        ("POST", "/apps/shop/do", {"content": b"x" * (256 << 10)}, 204),
        ("POST", "/apps/shop/do", {"content": b"x" * ((256 << 10) + 1)}, 413),
        ("POST", "/apps/shop/do", {"headers": {f"a{number}": "1" for number in range(70)}}, 431),
        ("POST", "/apps/shop/do", {"headers": {"a": "1" * 40_000}}, 431),
        ("POST", "/apps/shop/do?" + "&".join(f"p{number}=1" for number in range(101)), {}, 414),
    ],
)
async def test_bad_requests(shop: Shop, method: str, path: str, kw: dict[str, Any], status: int) -> None:
    answer = await shop.http.request(method, path, **kw)
    assert answer.status_code == status, answer.text
    if status == 405:
        assert answer.headers["allow"] == "POST, PUT"
    if status >= 400:
        assert not [line for line in await shop.site.lines("event") if line.name.startswith("$http")]


async def test_a_body_without_an_announced_length_is_limited_too(shop: Shop) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b"x" * 1024

    try:
        answer = await shop.http.post("/apps/shop/do", content=chunks())
    except (httpx.WriteError, httpx.ReadError):
        return  # It was cut while it was still sending.
    assert answer.status_code == 413


async def test_wrong_tokens_are_noted_and_slowed_down_and_the_right_one_is_not(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "edge.security")
    found = [
        await shop.http.post("/apps/shop/orders", headers={"Authorization": "Bearer wrong-token"}) for _ in range(40)
    ]
    statuses = [answer.status_code for answer in found]
    assert statuses == [401] * 3 + [429] * 37
    assert int(found[-1].headers["retry-after"]) >= 1
    assert (await shop.http.post("/apps/shop/orders", headers=shop.headers)).status_code == 200
    assert 0 < sum("no valid token" in text for text in caplog.messages) <= 21
    assert "wrong-token" not in caplog.text


async def test_a_new_token_voids_the_old_one_over_a_restart_too(shop: Shop) -> None:
    new = (await shop.site.gateway.app_token("shop")).token
    await shop.site.stop()
    await shop.site.start()
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{shop.site.gateway.front.http_port}", trust_env=False
    ) as http:
        assert (await http.post("/apps/shop/orders", headers=shop.headers)).status_code == 401
        asked = await http.post("/apps/shop/orders", headers={"Authorization": f"bearer {new}"})
        assert asked.status_code == 200
    with pytest.raises(EdgeError, match="no app"):
        await shop.site.gateway.app_token("nobody")


async def test_a_flood_is_told_to_come_back_and_hurts_nobody(shop: Shop) -> None:
    await shop.site.gateway.control.pause("shop.order")
    flood = [asyncio.ensure_future(shop.http.put("/apps/shop/orders", headers=shop.headers)) for _ in range(100)]
    statuses = [answer.status_code for answer in await asyncio.gather(*flood)]
    assert (statuses.count(202), statuses.count(503)) == (64, 36)
    assert (await shop.http.get("/apps/shop/")).status_code == 200


async def test_slow_and_leaving_clients_hold_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "HEAD_TIME", 0.2)
    monkeypatch.setattr(http_exchange, "BODY_TIME", 200_000)
    slow, writer = await shop.raw(b"GET /apps/shop/ HTTP/1.1\r\nHost: x\r\nX: ")
    assert await asyncio.wait_for(slow.read(), 10) == b"", "the head has not come"
    writer.close()
    late, writer = await shop.raw(b"POST /apps/shop/do HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
    assert (await asyncio.wait_for(late.read(), 10)).startswith(b"HTTP/1.1 408")
    writer.close()
    await shop.site.gateway.control.pause("shop.do")
    _, writer = await shop.raw(b"POST /apps/shop/do HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\nmissing")
    await shop.site.until("event", lambda lines: len(lines) == 1)
    writer.close()
    async with asyncio.timeout(10):
        while shop.site.gateway.endpoints._waiting:
            await asyncio.sleep(0.01)
    await shop.site.gateway.control.resume("shop.do")
    assert (await shop.http.get("/apps/shop/")).status_code == 200


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (('"/orders"', '"orders"'), "a path is"),
        (('"/orders"', '"/a/../b"'), "a path is"),
        (('methods=["GET"]', 'methods=["BREW"]'), "are not some of"),
        (('"/binary"', '"/do"'), "answers there already"),
        (("X-Shop", "Authorization"), "not handed on"),
    ],
)
async def test_an_endpoint_that_cannot_be_is_refused_at_its_deploy(
    site: Site, change: tuple[str, str], why: str
) -> None:
    with pytest.raises(DeployError, match=why):
        await site.deploy(ASKED.replace(*change))
