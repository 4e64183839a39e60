"""Attached to a real mosquitto: what is lost when either end is killed. Nothing of QoS 1."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from devices.registry import Registry
from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError
from edge_runtime.events import Event
from edge_runtime.ingress import attach
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.attach import Attachment, Broker
from edge_runtime.ingress.controls import Controls
from edge_runtime.ingress.dialects import Dialects
from edge_runtime.ingress.homeassistant import Control, HomeAssistant
from edge_runtime.ingress.mappings import mapper
from edge_runtime.ingress.stamps import Stamps
from edge_runtime.journal.memory import MemoryJournal
from tests.ingress.mqtt_house import BOOT, PATIENCE, event_payload

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


class Mosquitto:
    """The broker as a process, with its sessions on disk."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._settings = folder / "mosquitto.conf"
        self._settings.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1\nuser root\n"
            "max_queued_messages 10000\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._settings)], stderr=subprocess.DEVNULL)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    await writer.wait_closed()
                    return

    def forget(self) -> None:
        """What it has on disk."""
        (self._settings.parent / "mosquitto.db").unlink(missing_ok=True)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Publisher:
    """A program that publishes with QoS 1 and knows what the broker has acknowledged."""

    def __init__(self, port: int) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "board")
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    async def send(self, topic: str, payload: bytes, qos: int = 1) -> None:
        async with asyncio.timeout(PATIENCE):
            while not self._client.is_connected():  # it comes back to a broker that was killed by itself
                await asyncio.sleep(0.01)
        info = self._client.publish(topic, payload, qos)
        await asyncio.to_thread(info.wait_for_publish, PATIENCE)
        assert info.is_published()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Gateway:
    """What of a gateway stands behind an attachment. `records` is what its disk has."""

    def __init__(self, port: int, journal: MemoryJournal, boot: bytes) -> None:
        self.port = port
        self.journal = journal
        self.boot = boot
        self.log: list[str] = []
        self.security: list[str] = []
        self.attachment: Attachment

    async def start(self, client_id: str = "edge-test", controls: Sequence[Control] = (), **more: Any) -> None:
        clock = SystemClock()
        registry = await Registry.open(self.journal, clock)
        if "d" not in registry:
            await registry.add("d")
        admission = await Admission.open(self.journal, registry, clock, self.security.append)
        desk = Dialects(mapper(["tasmota"], {}), admission, Stamps(self.boot), self.log.append)
        broker = Broker("127.0.0.1", self.port, client_id, **more)
        pressed = Controls("north", controls, registry, self.journal, clock)
        self.attachment = Attachment(
            broker,
            admission,
            registry,
            desk,
            clock,
            log=self.log.append,
            security=self.security.append,
            controls=pressed if controls else None,
        )
        assistant = HomeAssistant("ha", "north", registry, self.attachment.publish, controls, pressed.topic)
        self.attachment.on_connected = lambda: assistant.announce(device.id for device in registry.list())
        self.attachment.start()
        await self.until(lambda: bool(self.attachment.counters.connected))

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(3 * PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)

    def events(self, device: str = "d") -> list[Event]:
        return [r for r in self.journal.records() if isinstance(r, Event) and r.device == device]


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
async def gateway(mosquitto: Mosquitto) -> AsyncIterator[Gateway]:
    await mosquitto.start()
    gateway = Gateway(mosquitto.port, MemoryJournal(), b"gateway1")
    await gateway.start()
    yield gateway
    await gateway.attachment.stop()


@pytest.fixture
async def publisher(mosquitto: Mosquitto, gateway: Gateway) -> AsyncIterator[Publisher]:
    publisher = Publisher(mosquitto.port)
    yield publisher
    publisher.close()


async def test_our_envelopes_and_mapped_messages_come_in(gateway: Gateway, publisher: Publisher) -> None:
    await publisher.send("/devices/d/events/climate", event_payload(0))
    await publisher.send("/devices/d/events/climate", event_payload(0))
    await publisher.send("tele/kitchen/SENSOR", b'{"t": 20}')
    await publisher.send("tele/kitchen/SENSOR", b'{"t": 21}', qos=0)
    await publisher.send("/devices/stranger/events/climate", event_payload(0))
    counters = gateway.attachment.counters
    await gateway.until(lambda: counters.messages == 5 and counters.acknowledged == 4)
    assert [event.seq for event in gateway.events()] == [0], "a repeat of our envelope is recognised"
    assert [event.data for event in gateway.events("kitchen")] == [{"t": 20}, {"t": 21}]
    assert gateway.events("stranger") == []
    assert "'stranger'" in gateway.security[0]


async def test_nothing_is_lost_when_the_gateway_is_gone_for_a_while(
    gateway: Gateway, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publisher.send("/devices/d/events/climate", event_payload(0))
    await gateway.until(lambda: gateway.attachment.counters.acknowledged == 1)
    # It dies with messages that it has stored but not acknowledged: those come again, and are recognised.
    monkeypatch.setattr(gateway.attachment._client, "ack", lambda _mid, _qos: MQTTErrorCode.MQTT_ERR_SUCCESS)
    for seq in range(1, 10):
        await publisher.send("/devices/d/events/climate", event_payload(seq))
    await gateway.until(lambda: len(gateway.events()) == 10)
    await gateway.attachment.stop()
    for seq in range(10, 20):
        await publisher.send("/devices/d/events/climate", event_payload(seq))
    again = Gateway(gateway.port, MemoryJournal(gateway.journal.records()), b"gateway2")
    await again.start()
    try:
        await again.until(lambda: again.attachment.counters.acknowledged == 19)
        assert sorted(event.seq for event in again.events()) == list(range(20))
    finally:
        await again.attachment.stop()


async def test_nothing_is_lost_when_the_broker_is_killed(
    mosquitto: Mosquitto, gateway: Gateway, publisher: Publisher
) -> None:
    for seq in range(20):
        await publisher.send("/devices/d/events/climate", event_payload(seq))
    await gateway.until(lambda: len(gateway.events()) == 20)
    mosquitto.kill()
    await gateway.until(lambda: not gateway.attachment.counters.connected)
    await mosquitto.start()
    await gateway.until(lambda: bool(gateway.attachment.counters.connected))
    await gateway.until(lambda: sum("attached to" in line for line in gateway.log) == 2)
    for seq in range(20, 40):
        await publisher.send("/devices/d/events/climate", event_payload(seq))
    await gateway.until(lambda: len(gateway.events()) == 40)
    assert {event.boot for event in gateway.events()} == {BOOT}


async def test_what_could_not_be_stored_comes_again(
    gateway: Gateway, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "LINGER", 0.05)
    gateway.journal.full = True
    for seq in range(5):
        await publisher.send("/devices/d/events/climate", event_payload(seq))
    await gateway.until(lambda: gateway.attachment.counters.refused >= 5)
    assert gateway.attachment.counters.acknowledged == 0
    gateway.journal.full = False
    await gateway.until(lambda: len(gateway.events()) == 5)
    await gateway.until(lambda: gateway.attachment.counters.acknowledged == 5)


async def test_several_gateways_share_the_messages_of_a_group(mosquitto: Mosquitto) -> None:
    await mosquitto.start()
    gateways = [Gateway(mosquitto.port, MemoryJournal(), b"gateway%d" % n) for n in range(2)]
    publisher: Publisher | None = None
    try:
        for n, gateway in enumerate(gateways):
            await gateway.start(f"edge-{n}", group="site")
        publisher = Publisher(mosquitto.port)
        for seq in range(20):
            await publisher.send("/devices/d/events/climate", event_payload(seq))
        await gateways[0].until(lambda: sum(len(gateway.events()) for gateway in gateways) == 20)
        seen = [event.seq for gateway in gateways for event in gateway.events()]
        assert sorted(seen) == list(range(20)), "each message reached one of them"
    finally:
        if publisher is not None:
            publisher.close()
        for gateway in gateways:
            await gateway.attachment.stop()


def test_a_password_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read") as caught:
        attach._password(str(file))
    assert "secret" not in str(caught.value)
    file.chmod(0o600)
    assert attach._password(str(file)) == "secret"
    with pytest.raises(ConfigError, match="cannot be read"):
        attach._password(str(tmp_path / "none"))
