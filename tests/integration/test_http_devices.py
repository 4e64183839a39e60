"""Devices that speak HTTP, at a real gateway: httpx and curl; what is right, what is wrong, who is not affected."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cbor2
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from devices.authority import Authority
from devices.twin import json_content
from edge_runtime.clock import SystemClock
from edge_runtime.errors import EdgeError
from edge_runtime.ingress.admission import Verdict
from edge_runtime.ingress.http import DeviceHttp
from tests.ingress.mqtt_house import event_payload
from tests.integration.test_gateway import GOOD, Site
from tests.integration.test_kill import Gateway

EXTRA = '[http]\nlisten = "127.0.0.1:0"\ndevices = true\n[iotcore]\nproject = "p"\nregion = "l"\nregistry = "r"\n'
BRIDGE = "/v1/projects/p/locations/l/registries/r/devices/d"


class Board:
    """A device with a token and a private key, and its way to say things."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.secret = ec.generate_private_key(ec.SECP256R1())
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{site.gateway.front.http_port}", timeout=30)

    async def added(self) -> Board:
        registry = self.site.gateway.registry
        self.token = await registry.add("d")
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        public = self.secret.public_key().public_bytes(serialization.Encoding.PEM, form)
        await registry.add_public_key("d", public.decode())
        return self

    def jwt(self, age: int = 0, audience: str = "p") -> str:
        now = int(time.time()) - age
        return jwt.encode({"iat": now, "exp": now + 3600, "aud": audience}, self.secret, algorithm="ES256")

    @property
    def door(self) -> DeviceHttp:
        others = self.site.gateway.endpoints.others
        assert isinstance(others, DeviceHttp)
        return others

    async def post(self, path: str, content: Any = b"", key: str | None = None, **headers: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {key or self.token}", **{k.replace("_", "-"): headers[k] for k in headers}}
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        if not isinstance(content, bytes):
            headers.setdefault("content-type", "application/json")
        return await self.http.post(path, content=body, headers=headers)

    async def get(self, path: str, key: str | None = None, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers={"authorization": f"Bearer {key or self.token}", **headers})

    async def events(self) -> list[tuple[str, Any]]:
        return [(line.name, line.data) for line in await self.site.lines("event")]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path, EXTRA)
    await site.start()
    yield site
    await site.stop()


@pytest.fixture
async def board(site: Site) -> AsyncIterator[Board]:
    board = await Board(site).added()
    yield board
    await board.http.aclose()


async def begun(board: Board, count: int, head: bytes) -> list[asyncio.StreamWriter]:
    """Requests that are never ended."""
    found = []
    for _ in range(count):
        _, writer = await asyncio.open_connection("127.0.0.1", board.site.gateway.front.http_port)
        writer.write(head)
        found.append(writer)
    return found


async def test_heads_that_never_end_lock_nobody_out(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    strangers = await begun(board, 600, b"POST /devices/d/events/climate HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    try:
        assert (await board.post("/devices/d/events/climate", {"t": 1})).status_code == 202
        server = board.site.gateway.endpoints._server
        assert server is not None
        async with asyncio.timeout(30):
            while len(server.server_state.connections) > 300:
                await asyncio.sleep(0.01)
        caplog.clear()
        for writer in await begun(board, 200, b"\x16\x03\x01 no HTTP\r\n\r\n"):
            strangers.append(writer)
        assert (await board.post("/devices/d/events/climate", {"t": 2})).status_code == 202
        assert sum(record.name == "uvicorn.error" for record in caplog.records) < 60, "its lines are bounded too"
    finally:
        for writer in strangers:
            writer.transport.abort()


async def test_bodies_of_one_device_that_never_come_do_not_hold_up_another(board: Board) -> None:
    other = (await board.site.gateway.add_device("other")).key
    head = f"POST /devices/d/events/climate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {board.token}\r\n"
    slow = await begun(board, 100, head.encode() + b"Content-Type: text/plain\r\nContent-Length: 10\r\n\r\n1")
    try:
        async with asyncio.timeout(30):
            while board.door.counters.busy < 100 - 16:
                await asyncio.sleep(0.01)
        assert (await board.post("/devices/other/events/climate", {"t": 1}, other)).status_code == 202
        refused = await board.post("/devices/d/events/climate", {"t": 1})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    finally:
        for writer in slow:
            writer.transport.abort()


async def test_events_in_every_form(board: Board) -> None:
    forms = [
        (event_payload(1, {"t": 1}), "application/vnd.edge.event+cbor"),
        (cbor2.dumps({"t": 2}), "application/cbor"),
        (b'{"t": 3}', "application/json; charset=utf-8"),
        (b'[{"n": "t", "v": 4}]', "application/senml+json"),
        (b"five", "text/plain"),
    ]
    for body, media in forms:
        answer = await board.post("/devices/d/events/climate", body, content_type=media)
        assert (answer.status_code, answer.json()) == (202, {"state": "accepted"})
    batch = [{"kind": "a", "data": 6}, {"kind": "b", "data": 7}]
    assert (await board.post("/devices/d/events", batch)).status_code == 202
    wanted = [("climate", {"t": n}) for n in (1, 2, 3, 4)] + [("climate", "five"), ("a", 6), ("b", 7)]
    assert await board.events() == wanted


async def test_a_repeat_is_recognised_by_what_its_sender_calls_it(board: Board) -> None:
    path = "/devices/d/events/climate?boot=0011223344556677&seq=5"
    states = [(await board.post(path, {"t": 1})).json()["state"] for _ in range(2)]
    keyed = [(await board.post("/devices/d/events/climate", {"t": 2}, idempotency_key="k")) for _ in range(2)]
    assert states == ["accepted", "duplicate"]
    assert [answer.json()["state"] for answer in keyed] == ["accepted", "duplicate"]
    conflict = await board.post(path, {"t": 9})
    assert (conflict.status_code, len(await board.events())) == (400, 2)
    assert "dead letter" in conflict.json()["error"]


async def test_cloud_events_of_each_mode(board: Board) -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/here", "type": "climate", "data": {"t": 1}}
    structured = {"content_type": "application/cloudevents+json"}
    path = "/devices/d/events"
    assert (await board.post(path, event, **structured)).json() == {"state": "accepted"}
    assert (await board.post(path, event, **structured)).json() == {"state": "duplicate"}
    binary = {"ce_specversion": "1.0", "ce_id": "2", "ce_source": "/here", "ce_type": "climate"}
    time = {"ce_time": "2026-11-22T10:00:00.5Z"}
    assert (await board.post(path, {"t": 2}, **binary, **time)).json() == {"state": "accepted"}
    batch = {"content_type": "application/cloudevents-batch+json"}
    assert (await board.post(path, [event, {**event, "id": "3", "data": {"t": 3}}], **batch)).status_code == 202
    assert await board.events() == [("climate", {"t": n}) for n in (1, 2, 3)]
    (dated,) = [line for line in await board.site.lines("event") if line.data == {"t": 2}]
    assert dated.time == 1_795_341_600_500_000
    for wrong in ({**event, "id": ""}, {**event, "type": "no kind"}, {**event, "time": "yesterday"}, [event]):
        assert (await board.post(path, wrong, **structured)).status_code == 400


async def test_state_and_configuration(board: Board) -> None:
    assert (await board.post("/devices/d/state", {"on": True})).status_code == 202
    assert (await board.get("/devices/d/config")).status_code == 404
    waiting = asyncio.create_task(board.get("/devices/d/config?wait=60"))
    twin = board.door._admission.twin
    while "d" not in board.door._watched:
        await asyncio.sleep(0.001)
    await twin.set_config("d", json_content({"every": 5}))
    answer = await waiting
    assert (answer.json(), answer.headers["etag"]) == ({"version": 1, "config": {"every": 5}}, '"1"')
    assert (await board.get("/devices/d/config?version=1")).status_code == 304
    as_cbor = await board.get("/devices/d/config", accept="application/cbor")
    assert cbor2.loads(as_cbor.content) == {0: 1, 1: {"every": 5}}
    assert (await board.post("/devices/d/config/ack", {"version": 1})).status_code == 202
    assert (await twin.index("d")).acknowledged == 1
    (_, state), *_ = await twin.states("d")
    assert state.value() == {"on": True}


async def test_a_command_comes_to_who_waits_and_ends_with_the_reply(board: Board) -> None:
    site = board.site
    await site.deploy(GOOD)
    waiting = asyncio.create_task(board.get("/devices/d/commands?wait=60"))
    while "d" not in site.gateway.front.all.connected():
        await asyncio.sleep(0.001)
    await board.post("/devices/d/events/climate", {"n": 7})
    (command,) = (await waiting).json()
    assert (command["name"], command["args"]) == ("fan", {"n": 7})
    # What was not replied to comes again, to who asks again: an answer may have been lost on its way.
    (again,) = (await board.get("/devices/d/commands?wait=60")).json()
    assert again["id"] == command["id"]
    reply = {"id": command["id"], "status": 0, "result": "on"}
    assert (await board.post("/devices/d/replies", reply)).json() == {"state": "accepted"}
    assert (await board.get("/devices/d/commands")).json() == []


async def test_who_is_not_let_in(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    other = await board.site.gateway.registry.add("other")
    for key in (other, "nonsense", board.jwt(age=3600 + 601), board.jwt(audience="elsewhere")):
        answer = await board.post("/devices/d/events/climate", {"t": 1}, key=key)
        assert answer.status_code in (401, 429), key
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    refusals = [record.message for record in caplog.records if "over HTTP" in record.message]
    assert len(refusals) == 4
    assert any("its JWT has expired" in line for line in refusals)
    assert other not in caplog.text
    assert (await board.post("/devices/d/events/climate", {"t": 1})).status_code == 202, "the right key is not delayed"
    await board.site.gateway.registry.block("d")
    assert (await board.post("/devices/d/events/climate", {"t": 1})).status_code in (401, 429)
    assert len(await board.events()) == 1


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("/devices/d/events/climate", {"content_type": "application/json"}, b"{", 400),
        ("/devices/d/events/climate", {"content_type": "image/png"}, b"x", 415),
        ("/devices/d/events/climate", {"content_type": "application/vnd.edge.event+cbor"}, b"\xff", 400),
        ("/devices/d/events/climate?boot=12", {"content_type": "application/json"}, b"1", 400),
        ("/devices/d/events", {}, b"raw", 400),
        ("/devices/d/events/no%20kind", {}, b"raw", 404),
        ("/devices/d/nothing", {}, b"", 404),
        ("/devices/d/commands", {}, b"", 405),
        ("/devices/d/events/climate", {}, b"x" * (256 * 1024 + 1), 413),
        ("/devices/d/replies", {"content_type": "application/json"}, b'{"id": "zz"}', 400),
        ("/devices/d/state", {"content_type": "application/json"}, b"{", 400),
    ],
)
async def test_bad_input_gets_a_reason(
    board: Board, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = await board.post(path, body, **headers)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert (await board.post("/devices/d/events/climate", {"t": 1})).status_code == 202


async def test_what_cannot_be_stored_is_not_accepted(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    admission = board.door._admission
    monkeypatch.setattr(admission, "submit_decoded", lambda _device, _events, settle: settle(Verdict.REFUSED))
    plain = await board.post("/devices/d/events/climate", {"t": 1})
    bridged = await board.post(f"{BRIDGE}:publishEvent", {"binary_data": "aGk="}, key=board.jwt())
    assert [(a.status_code, a.headers["retry-after"]) for a in (plain, bridged)] == [(503, "10")] * 2
    assert bridged.json()["error"]["status"] == "UNAVAILABLE"


async def test_the_verbs_of_iot_core(board: Board) -> None:
    raw = b'{"temperature": 21.5, "odd": "\xf0\x9f\x98\x80\xc3\xbf\xc3\xbe"}'
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        body = {"binary_data": encode(raw).decode(), "sub_folder": "climate"}
        answer = await board.post(f"{BRIDGE}:publishEvent", body, key=board.jwt())
        assert (answer.status_code, answer.json()) == (200, {})
    (kind, data), _ = await board.events()
    assert kind == "climate"
    assert data["payload"] == json.loads(raw)
    assert {**data["attributes"], "deviceNumId": ""} == {
        "deviceId": "d",
        "deviceNumId": "",
        "deviceRegistryId": "r",
        "deviceRegistryLocation": "l",
        "projectId": "p",
        "subFolder": "climate",
    }
    state = {"state": {"binary_data": base64.b64encode(b"ok").decode()}}
    assert (await board.post(f"{BRIDGE}:setState", state, key=board.jwt())).json() == {}
    too_soon = await board.post(f"{BRIDGE}:setState", state, key=board.jwt())
    assert (too_soon.status_code, too_soon.json()["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
    await board.door._admission.twin.set_config("d", json_content({"a": 1}))
    config = (await board.get(f"{BRIDGE}/config?local_version=0", key=board.jwt())).json()
    assert (config["version"], base64.b64decode(config["binaryData"])) == ("1", b'{"a":1}')
    assert (await board.get(f"{BRIDGE}/config?local_version=1", key=board.jwt())).status_code == 304
    foreign = await board.post(f"{BRIDGE.replace('/p/', '/q/')}:publishEvent", {"binary_data": ""}, key=board.jwt())
    assert foreign.json()["error"] == {
        "code": 403,
        "message": "its name is that of another project, region or registry than those of [iotcore]",
        "status": "PERMISSION_DENIED",
    }
    wrong = await board.post(f"{BRIDGE}:publishEvent", {"binary_data": "§"}, key=board.jwt())
    assert (wrong.status_code, wrong.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    expired = await board.post(f"{BRIDGE}:publishEvent", {"binary_data": ""}, key=board.jwt(age=3600 + 601))
    assert (expired.status_code, expired.json()["error"]["status"]) == (401, "UNAUTHENTICATED")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_publishes_as_the_retired_documentation_said(board: Board, tmp_path: Path) -> None:
    config = tmp_path / "curl"
    config.touch(0o600)
    config.write_text(f'header = "authorization: Bearer {board.jwt()}"\n')
    base = f"http://127.0.0.1:{board.site.gateway.front.http_port}"
    command = ["curl", "-sS", "-K", str(config), "-X", "POST", "-H", "content-type: application/json"]
    body = '{"binary_data": "SGVsbG8=", "sub_folder": "hello"}'
    process = await asyncio.create_subprocess_exec(
        *command, "--data", body, f"{base}{BRIDGE}:publishEvent", stdout=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, out) == (0, b"{}")
    ((kind, data),) = await board.events()
    assert (kind, data["payload"]) == ("hello", "Hello")


class HttpGateway(Gateway):
    """A gateway's process that also listens for HTTP, on the same port over all its lives."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.http_port: int = probe.getsockname()[1]
        with (folder / "edge.toml").open("a") as file:
            file.write(f'\n[http]\nlisten = "127.0.0.1:{self.http_port}"\ndevices = true\n')


async def send_until(client: httpx.AsyncClient, stop: asyncio.Event, accepted: list[int]) -> None:
    """One event after the other, each again until it is accepted."""
    while not stop.is_set():
        seq = len(accepted)
        with contextlib.suppress(httpx.HTTPError):
            answer = await client.post(f"/devices/d/events/climate?boot={'ab' * 8}&seq={seq}", json={"n": seq})
            if answer.status_code == 202:
                accepted.append(seq)
                continue
        await asyncio.sleep(0.02)


@pytest.mark.timeout(200)
async def test_kill_9_takes_nothing_away_that_was_answered_with_202(tmp_path: Path) -> None:
    gateway = HttpGateway(tmp_path)
    await gateway.start()
    try:
        key = (await asyncio.to_thread(gateway.api.add_device, "d")).key
        accepted: list[int] = []
        stop = asyncio.Event()
        headers = {"authorization": f"Bearer {key}"}
        base = f"http://127.0.0.1:{gateway.http_port}"
        async with httpx.AsyncClient(base_url=base, headers=headers, timeout=10) as client:
            sending = asyncio.create_task(send_until(client, stop, accepted))
            for _ in range(3):
                goal = len(accepted) + 50
                async with asyncio.timeout(60):
                    while len(accepted) < goal:
                        await asyncio.sleep(0.003)
                await gateway.kill()
                await gateway.start()
            stop.set()
            await sending
        lines = await asyncio.to_thread(lambda: list(gateway.api.tail(-1, follow=False)))
        numbers = [line.data["n"] for line in lines if line.type == "event"]
        assert set(accepted) <= set(numbers), "what was answered with 202 is lost"
        assert numbers == sorted(set(numbers)), "an event is there twice, or out of order"
    finally:
        await gateway.kill()


async def test_https_with_the_gateways_own_certificate(tmp_path: Path) -> None:
    site = Site(tmp_path, EXTRA.replace("devices = true", "devices = true\ntls = true"))
    with pytest.raises(EdgeError, match="HTTP with TLS needs a certificate"):
        await site.start()
    authority, now = Authority(site.config.authority), SystemClock().now()
    authority.make("gateway", now)
    authority.renew(["127.0.0.1"], now, look=True)
    await site.start()
    try:
        key = await site.gateway.registry.add("d")
        trust = ssl.create_default_context(cafile=authority.certificate)
        where, headers = f"127.0.0.1:{site.gateway.front.http_port}", {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(verify=trust, timeout=30) as client:
            answer = await client.post(f"https://{where}/devices/d/events/climate", json={"t": 1}, headers=headers)
            assert answer.status_code == 202
            with pytest.raises(httpx.TransportError):
                await client.post(f"http://{where}/devices/d/events/climate", json={"t": 2}, headers=headers)
        async with httpx.AsyncClient(timeout=30) as stranger:
            with pytest.raises(httpx.ConnectError, match="certificate"):
                await stranger.get(f"https://{where}/devices/d/config", headers=headers)
        assert [line.data for line in await site.lines("event")] == [{"t": 1}]
        status = site.gateway.status()
        assert (status.http_door["messages"], status.http_door["acknowledged"], status.timers) == (1, 1, 0)
    finally:
        await site.stop()
