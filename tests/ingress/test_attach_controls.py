"""Home Assistant's controls at a foreign broker, a real mosquitto: what is pressed there, and what that may do."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge_runtime.ingress.homeassistant import Control
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Command
from tests.ingress.mqtt_house import PATIENCE
from tests.ingress.test_attach import MOSQUITTO, Gateway, Mosquitto, Publisher

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")

CONTROLS = [Control("fan", "fan", ["d"], '{"on":true}', '{"on":false}'), Control("pump", "pump", ["other"])]
FAN = "edge/north/d/controls/fan"


def commands(gateway: Gateway) -> list[tuple[str, str, Any]]:
    records = gateway.journal.records()
    return [(record.device, record.name, record.args) for record in records if isinstance(record, Command)]


class HomeAssistant:
    """What Home Assistant sees at the broker."""

    def __init__(self, port: int) -> None:
        self._found: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "assistant")
        self._client.on_connect = lambda client, *_: client.subscribe("ha/#", 1)
        put = self._found.put  # no reference to this object: paho closes its sockets when the last one to it goes
        self._client.on_message = lambda _client, _data, message: put((message.topic, bytes(message.payload)))
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    async def entity(self) -> dict[str, Any]:
        """The next one that is announced."""
        topic, payload = await asyncio.to_thread(self._found.get, True, 3 * PATIENCE)
        assert topic == "ha/switch/edge_d/control_fan/config"
        entity: dict[str, Any] = json.loads(payload)
        return entity

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
async def gateway(mosquitto: Mosquitto) -> AsyncIterator[Gateway]:
    await mosquitto.start()
    gateway = Gateway(mosquitto.port, MemoryJournal(), b"gateway1")
    await gateway.start(controls=CONTROLS)
    yield gateway
    await gateway.attachment.stop()


@pytest.fixture
async def publisher(mosquitto: Mosquitto, gateway: Gateway) -> AsyncIterator[Publisher]:
    publisher = Publisher(mosquitto.port)
    yield publisher
    publisher.close()


async def pressed(gateway: Gateway, publisher: Publisher, payload: bytes, topic: str = FAN, qos: int = 1) -> None:
    """Press until the gateway has heard it: it hears nothing before its first connection is whole."""
    heard = gateway.attachment.counters.messages
    await publisher.send(topic, payload, qos)
    await gateway.until(lambda: gateway.attachment.counters.messages > heard)


async def live(gateway: Gateway) -> None:
    await gateway.until(lambda: gateway.attachment.counters.messages >= 1)  # the fence is back


async def test_a_switch_is_announced_and_pressed(mosquitto: Mosquitto, gateway: Gateway, publisher: Publisher) -> None:
    assistant = HomeAssistant(mosquitto.port)
    try:
        entity = await assistant.entity()
        await live(gateway)
        await pressed(gateway, publisher, entity["payload_on"].encode(), entity["command_topic"])
        await pressed(gateway, publisher, entity["payload_off"].encode(), entity["command_topic"], qos=0)
        await gateway.until(lambda: commands(gateway) == [("d", "fan", {"on": True}), ("d", "fan", {"on": False})])
        records = [record for record in gateway.journal.records() if isinstance(record, Command)]
        assert records[0].key == records[1].key, "the newest counts"
        await gateway.until(lambda: gateway.attachment.counters.acknowledged == 2)  # the fence and the press
        mosquitto.kill()
        mosquitto.forget()
        await mosquitto.start()
        assert await assistant.entity() == entity, "a broker that has forgotten is told again"
    finally:
        assistant.close()


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (FAN, b'{"on": true, "speed": 9}'),
        (FAN, b""),
        (FAN, b"\xff"),
        ("edge/north/d/controls/reboot", b"null"),
        ("edge/north/d/controls/pump", b"null"),
        ("edge/north/stranger/controls/fan", b'{"on":true}'),
    ],
)
async def test_only_what_is_offered_can_be_pressed(
    gateway: Gateway, publisher: Publisher, topic: str, payload: bytes
) -> None:
    await live(gateway)
    await pressed(gateway, publisher, payload, topic)
    await pressed(gateway, publisher, b'{"on":true}')
    await gateway.until(lambda: bool(commands(gateway)))
    assert commands(gateway) == [("d", "fan", {"on": True})]
    assert "does nothing" in gateway.security[0]
    await gateway.until(lambda: gateway.attachment.counters.acknowledged == 3)  # it does not come again


async def test_what_waited_while_the_gateway_was_away_starts_nothing(gateway: Gateway, publisher: Publisher) -> None:
    await live(gateway)
    await gateway.attachment.stop()
    await publisher.send(FAN, b'{"on":true}')
    again = Gateway(gateway.port, MemoryJournal(gateway.journal.records()), b"gateway2")
    await again.start(controls=CONTROLS)
    try:
        await again.until(lambda: again.attachment.counters.acknowledged == 2)  # the old press, then the fence
        await pressed(again, publisher, b'{"on":false}')
        await again.until(lambda: bool(commands(again)))
        assert commands(again) == [("d", "fan", {"on": False})]
        assert any("before the connection" in line for line in again.log)
    finally:
        await again.attachment.stop()


async def test_a_press_is_acknowledged_when_it_is_durable(gateway: Gateway, publisher: Publisher) -> None:
    await live(gateway)
    gateway.journal.full = True
    await pressed(gateway, publisher, b'{"on":true}')
    await gateway.until(lambda: gateway.attachment.counters.refused == 1)
    assert gateway.attachment.counters.acknowledged == 1, "the fence alone"
    assert commands(gateway) == []
