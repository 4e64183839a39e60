"""Clients written for Google IoT Core, at a real gateway: paho-mqtt as the published samples used it, MicroPython."""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import msgspec
import paho.mqtt.client as paho
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from paho.mqtt.enums import CallbackAPIVersion

from devices.authority import Authority
from devices.twin import BYTES, Content
from edge_runtime.clock import SystemClock
from hil.unix_board import find_micropython
from tests.integration.test_gateway import Site

EXTRA = """
[http]
listen = "127.0.0.1:0"
devices = true
[iotcore]
project = "orchard"
region = "us-east1"
registry = "greenhouses"
"""
PATIENCE = 20

APP = """
from edge import App
app = App("sorter")

@app.on("climate", where="payload.temperature > 30")
def hot(event, ctx):
    ctx.command(event.device, "fan", {"on": True, "registry": event.data["attributes"]["deviceRegistryId"]})
"""


class Sample:
    """A board in the manner of the retired service's samples: what a person would have had, to the call."""

    def __init__(
        self, port: int, device: str, private_key: Any, algorithm: str, ca: str = "", transport: Any = "tcp"
    ) -> None:
        self.device = device
        self.messages: list[tuple[str, bytes, int]] = []
        self.connected, self.heard = threading.Event(), threading.Event()
        self.disconnected = threading.Event()
        client_id = f"projects/orchard/locations/us-east1/registries/greenhouses/devices/{device}"
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, transport=transport)
        self.client.username_pw_set(username="unused", password=create_jwt("orchard", private_key, algorithm))
        if ca:
            self.client.tls_set(ca_certs=ca, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        self.client.on_connect = self._on_connect
        self.client.on_message = self._on_message
        self.client.on_disconnect = lambda *_: self.disconnected.set()
        self.codes: list[str] = []
        self.client.connect("127.0.0.1", port)
        self.client.subscribe(f"/devices/{device}/config", qos=1)  # before the CONNACK, as the samples did
        self.client.subscribe(f"/devices/{device}/commands/#", qos=0)
        self.client.loop_start()

    def _on_connect(self, _client: paho.Client, _userdata: object, _flags: object, code: Any, *_: object) -> None:
        self.codes.append(str(code))
        self.connected.set()

    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        self.messages.append((message.topic, bytes(message.payload), message.qos))
        self.heard.set()

    async def publish(self, topic: str, payload: str | bytes) -> None:
        await asyncio.to_thread(self.client.publish(topic, payload, qos=1).wait_for_publish, PATIENCE)

    async def until(self, topic: str) -> bytes:
        """The payload of the first message on a topic."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for name, payload, _ in self.messages:
                    if name == topic:
                        return payload
                await asyncio.sleep(0.005)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def create_jwt(project: str, private_key: Any, algorithm: str) -> str:
    now = datetime.datetime.now(tz=datetime.UTC)
    claims = {"iat": now, "exp": now + datetime.timedelta(minutes=20), "aud": project}
    return jwt.encode(claims, private_key, algorithm=algorithm)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path, EXTRA)
    await site.start()
    yield site
    await site.stop()


async def add(site: Site, device: str, key: Any, **tags: str) -> None:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()
    await site.gateway.registry.add(device, profile="iotcore", tags=tags, token=False)
    await site.gateway.registry.add_public_key(device, public)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_a_sample_client_works_unmodified(site: Site, algorithm: str) -> None:
    key = rsa.generate_private_key(65_537, 2048) if algorithm == "RS256" else ec.generate_private_key(ec.SECP256R1())
    await add(site, "bench-1", key)
    await site.deploy(APP)
    twin = site.gateway.admission.twin
    await twin.set_config("bench-1", Content(BYTES, b"every=5"))
    board = await asyncio.to_thread(Sample, site.gateway.front.mqtt_port, "bench-1", key, algorithm)
    try:
        assert await board.until("/devices/bench-1/config") == b"every=5"
        for number in range(5):
            await board.publish("/devices/bench-1/events", f"greenhouses/bench-1-payload-{number}")
        await board.publish("/devices/bench-1/events/climate", json.dumps({"temperature": 31.5}))
        await board.publish("/devices/bench-1/state", "fine")
        command = await board.until("/devices/bench-1/commands/fan")
        assert json.loads(command) == {"on": True, "registry": "greenhouses"}
    finally:
        await asyncio.to_thread(board.close)
    lines = await site.lines("event")
    assert [line.data["payload"] for line in lines[:5]] == [f"greenhouses/bench-1-payload-{n}" for n in range(5)]
    assert lines[5].data["attributes"]["projectId"] == "orchard"
    ((_, state),) = await twin.states("bench-1")
    assert state.data == b"fine"
    async with asyncio.timeout(PATIENCE):
        while (await twin.index("bench-1")).acknowledged != 1:
            await asyncio.sleep(0.005)
    await site.until("command-end", lambda ends: len(ends) == 1)


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
async def test_a_sample_client_over_tls(tmp_path: Path, transport: str) -> None:
    authority = Authority(tmp_path / "data/ca")
    now = SystemClock().now()
    authority.make("test", now)
    authority.renew(["127.0.0.1"], now, look=True)
    site = Site(tmp_path, EXTRA)
    listen = {"tls_listen": "127.0.0.1:0", "websocket_tls_listen": "127.0.0.1:0"}
    site.config = msgspec.structs.replace(site.config, mqtt=msgspec.structs.replace(site.config.mqtt, **listen))
    await site.start()
    try:
        key = ec.generate_private_key(ec.SECP256R1())
        await add(site, "bench-1", key)
        await site.gateway.admission.twin.set_config("bench-1", Content(BYTES, b"every=5"))
        scheme = "mqtts" if transport == "tcp" else "wss"
        (address,) = [text for text in site.gateway.front.mqtt_more if text.startswith(f"{scheme}:")]
        port, ca = int(address.rpartition(":")[2]), str(authority.certificate)
        board = await asyncio.to_thread(Sample, port, "bench-1", key, "ES256", ca, transport)
        try:
            assert await board.until("/devices/bench-1/config") == b"every=5"
            await board.publish("/devices/bench-1/events", "over TLS")
        finally:
            await asyncio.to_thread(board.close)
        assert [line.data["payload"] for line in await site.lines("event")] == ["over TLS"]
    finally:
        await site.stop()


async def test_a_gateway_sample_attaches_boards_behind_it(site: Site) -> None:
    key, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    await add(site, "hub", key)
    await add(site, "leaf", leaf)
    await add(site, "bound", ec.generate_private_key(ec.SECP256R1()), gateway="hub")
    await site.gateway.admission.twin.set_config("leaf", Content(BYTES, b"for the leaf"))
    hub = await asyncio.to_thread(Sample, site.gateway.front.mqtt_port, "hub", key, "ES256")
    try:
        hub.client.subscribe("/devices/hub/errors", qos=0)
        authorization = json.dumps({"authorization": create_jwt("orchard", leaf, "ES256")})
        await hub.publish("/devices/leaf/attach", authorization)
        await hub.publish("/devices/bound/attach", "")
        hub.client.subscribe("/devices/leaf/config", qos=1)
        assert await hub.until("/devices/leaf/config") == b"for the leaf"
        await hub.publish("/devices/leaf/events", "from the leaf")
        await hub.publish("/devices/bound/state", "ok")
        await hub.publish("/devices/stranger/attach", "")
        complaint = json.loads(await hub.until("/devices/hub/errors"))
        await hub.publish("/devices/leaf/detach", "")
    finally:
        await asyncio.to_thread(hub.close)
    assert (complaint["error_type"], complaint["device_id"]) == ("GATEWAY_ATTACHMENT_ERROR", "stranger")
    ((device, payload),) = [(line.device, line.data["payload"]) for line in await site.lines("event")]
    assert (device, payload) == ("leaf", "from the leaf")


async def test_a_sample_with_a_wrong_key_stays_out(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    await add(site, "bench-1", ec.generate_private_key(ec.SECP256R1()))
    thief = ec.generate_private_key(ec.SECP256R1())
    board = await asyncio.to_thread(Sample, site.gateway.front.mqtt_port, "bench-1", thief, "ES256")
    try:
        assert await asyncio.to_thread(board.connected.wait, PATIENCE)
        assert "Not authorized" in board.codes[0]
    finally:
        await asyncio.to_thread(board.close)
    assert "a JWT that no key of the device has signed" in caplog.text
    assert not await site.lines("event")


SIMPLE = """
import socket, struct, sys, binascii, json
port, token = int(sys.argv[1]), sys.argv[2]

class Simple:  # as small as such clients are
    def __init__(self, client_id, user, password):
        self.s = socket.socket()
        self.s.connect(socket.getaddrinfo("127.0.0.1", port)[0][-1])
        body = b"\\0\\4MQTT\\4\\xc2" + struct.pack("!H", 60)
        for text in (client_id, user, password):
            body += struct.pack("!H", len(text)) + text.encode()
        self.send(0x10, body)
        assert self.read()[1] == b"\\0\\0"

    def send(self, head, body):
        size, prefix = len(body), bytearray([head])
        while size > 127:
            prefix.append(size & 127 | 128)
            size >>= 7
        prefix.append(size)
        self.s.write(bytes(prefix) + body)

    def read(self):
        head, size = self.s.read(1)[0], self.s.read(1)[0]
        assert size < 128
        return head, self.s.read(size)

    def publish(self, topic, payload):
        self.send(0x32, struct.pack("!H", len(topic)) + topic.encode() + b"\\0\\1" + payload)
        while True:
            head, body = self.read()
            if head == 0x40:
                return

    def subscribe(self, topic):
        self.send(0x82, b"\\0\\2" + struct.pack("!H", len(topic)) + topic.encode() + b"\\1")

c = Simple("projects/orchard/locations/us-east1/registries/greenhouses/devices/esp", "ignored", token)
c.publish("/devices/esp/events/climate", json.dumps({"temperature": 20}).encode())
c.subscribe("/devices/esp/config")
while True:
    head, body = c.read()
    if head >> 4 == 3:
        print(body[2 + body[1] + 2:].decode())
        break
"""


@pytest.mark.skipif(find_micropython() is None, reason="MicroPython's unix port is not installed")
async def test_a_micropython_client_with_a_padded_jwt(site: Site, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    await add(site, "esp", key)
    await site.gateway.admission.twin.set_config("esp", Content(BYTES, b"hello esp"))
    script = tmp_path / "main.py"
    script.write_text(SIMPLE)
    token = padded(create_jwt("orchard", key, "ES256"))
    assert token.endswith("=")
    # The token is one of a test and good for 20 minutes at a gateway that ends sooner: argv may hold it.
    process = await asyncio.create_subprocess_exec(
        str(find_micropython()),
        str(script),
        str(site.gateway.front.mqtt_port),
        token,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (out.decode().strip(), process.returncode) == ("hello esp", 0)
    ((name, data),) = [(line.name, line.data["payload"]) for line in await site.lines("event")]
    assert (name, data) == ("climate", {"temperature": 20})


def padded(token: str) -> str:
    """As boards make it whose base64 leaves the padding in place."""
    head, _, signature = token.rpartition(".")
    return f"{head}.{signature}{'=' * (-len(signature) % 4)}"
