"""What an app asks for, from its deploy to its effect, on a whole gateway with a real host to ask."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest

from edge_runtime.planes.deployments import Rollback
from edge_runtime.planes.messages import Deploy
from tests.functions.test_http_out import Server
from tests.ingress.mqtt_house import event_packet
from tests.integration.test_gateway import PUBACK, Site

APP = """
from edge import App, NotGranted
app = App("weather", grants=["http:{origin}", "command:pump-*", "secret:key", "files"])

@app.on("climate")
def ask(event, ctx):
    answer = ctx.http.post("{origin}/a", json={{"n": event.data["n"]}}, headers={{"x-key": ctx.secret("key")}})
    ctx.command("pump-1", "on", {{"for": ctx.files.json("data/table.json")[event.data["n"]]}})
    ctx.metric("asked")
    print("the key is", ctx.secret("key"))
    ctx.emit("answer", answer.json())

@app.on("climate")
def greedy(event, ctx):
    for attempt in (lambda: ctx.http.get("https://elsewhere.example"), lambda: ctx.command("valve", "open")):
        try:
            attempt()
        except NotGranted:
            pass
"""
PLAIN = 'from edge import App\napp = App("weather")\n@app.on("climate")\ndef ask(event): pass\n'


def files(origin: str) -> dict[str, bytes]:
    return {"main.py": APP.format(origin=origin).encode(), "data/table.json": json.dumps([10, 20, 30]).encode()}


@pytest.fixture
async def host() -> Server:
    server = Server()
    await server.start()
    return server


async def test_what_was_approved_works_and_nothing_else(
    tmp_path: Path, host: Server, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path)
    await site.start()
    gateway = site.gateway
    try:
        app = files(host.origin)
        asked = await gateway.deploy(Deploy(app))
        wanted = ["command:pump-*", "files", f"http:{host.origin}", "secret:key"]
        assert (asked.live, asked.asks, gateway.apps()) == (False, wanted, [])
        with caplog.at_level(logging.WARNING, logger="edge.security"):
            found = await gateway.deploy(Deploy(app, grants=wanted))
        assert (found.live, found.asks) == (True, [])
        assert sum("approved at its deploy" in line for line in caplog.messages) == 4
        gateway.secrets.set("key", "s3cret")
        pump = await site.device("pump-1", listen=True)
        board = await site.device("d")
        with caplog.at_level(logging.INFO, logger="edge"):
            board.send(event_packet(0, {"n": 1}))
            assert (await board.receive())[:2] == PUBACK
            packet = await pump.receive()
        assert b"/devices/pump-1/commands/on" in packet
        assert b"cfor\x14" in packet  # {"for": 20}, out of the app's own table
        await site.until("event", lambda lines: any(line.name == "answer" for line in lines))
        assert len(host.requests) == 1
        head = host.requests[0].lower()
        assert b"x-key: s3cret" in head
        assert b"idempotency-key: " in head
        text = "\n".join(record.getMessage() for record in caplog.records)
        assert "the key is <secret key>" in text
        assert "s3cret" not in text
        for grant in ("http:https://elsewhere.example", "command:valve"):
            assert f"reached for '{grant}', which it was not granted" in text
        (row,) = gateway.apps()
        async with asyncio.timeout(10):
            while "asked" not in row.metrics:
                await asyncio.sleep(0.01)
                (row,) = gateway.apps()
        assert (row.grants, row.metrics["asked"].count) == (wanted, 1)
        assert await site.lines("dead-letter") == []
        # Another version of it needs no new approval, one that is granted nothing neither; the way back was approved.
        again = {**app, "main.py": app["main.py"] + b"\n# changed\n"}
        assert (await gateway.deploy(Deploy(again))).live
        assert (await gateway.deploy(Deploy({"weather.py": PLAIN.encode()}))).live
        assert not (await gateway.deploy(Deploy(again))).live
        assert (await gateway.deployments.rollback("weather", Rollback())).live
        await site.stop()
        await site.start()
        assert site.gateway.apps()[0].grants == wanted
        assert site.gateway.secrets.get("key") == "s3cret"
    finally:
        await site.stop()
        await host.stop()


async def test_a_host_that_is_away_is_tried_again_and_then_a_dead_letter(tmp_path: Path, host: Server) -> None:
    await host.stop()
    site = Site(tmp_path)
    await site.start()
    try:
        source = f'''
from edge import App
app = App("weather", grants=["http:{host.origin}"])
@app.on("climate", retries=1)
def ask(event, ctx):
    ctx.http.get("{host.origin}/a")
@app.on("climate")
def other(event, ctx):
    ctx.emit("seen", 1)
'''
        await site.gateway.deploy(Deploy({"weather.py": source.encode()}, grants=[f"http:{host.origin}"]))
        board = await site.device("d")
        board.send(event_packet(0, {"n": 1}))
        (letter,) = await site.until("dead-letter", lambda lines: len(lines) == 1)
        assert "HttpError" in letter.data["detail"]
        assert letter.data["attempts"] == 2
        assert await site.lines("event")
    finally:
        await site.stop()
