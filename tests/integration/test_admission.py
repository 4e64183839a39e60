"""Admission in a gateway: mappings from our own broker, schemas, Home Assistant, and one device that floods."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path

import cbor2
import pytest

from edge_runtime import config
from edge_runtime.errors import ConfigError
from edge_runtime.gateway import Gateway
from edge_runtime.planes.messages import Line
from edge_runtime.proto import mqtt
from tests.ingress.mqtt_house import Client, connect_packet, event_packet, subscribe_packet

SETTINGS = """
[mqtt]
listen = "127.0.0.1:0"
[functions]
executors = 1
[mappings]
use = ["tasmota"]
[schemas.climate]
file = "climate.schema.json"
[attach]
discovery = "homeassistant"
[admission]
rate = 20
burst = "1s"
[controls.fan]
command = "fan"
devices = ["valve-*"]
on = '{"on": true}'
off = '{"on": false}'
"""


async def start(folder: Path, schema: object) -> Gateway:
    (folder / "climate.schema.json").write_text(json.dumps(schema))
    settings = config.parse(SETTINGS, folder / "edge.toml")
    return await Gateway.start(settings, rng=random.Random(1))


async def client(gateway: Gateway, name: str, key: str) -> Client:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.front.mqtt_port)
    found = Client(reader, writer)
    found.send(connect_packet(name, key, client_id=name))
    assert await found.receive() == b"\x20\x02\0\0"
    return found


async def until(gateway: Gateway, kind: str, enough: Callable[[list[Line]], bool]) -> list[Line]:
    async with asyncio.timeout(30):
        while not enough(found := [line async for line in gateway.tail(-1, follow=False) if line.type == kind]):
            await asyncio.sleep(0.01)
    return found


async def test_messages_of_programs_are_events_and_our_devices_are_announced(tmp_path: Path) -> None:
    gateway = await start(tmp_path, {"type": "object"})
    clients: list[Client] = []
    try:
        program = await client(gateway, "ha", await gateway.mqtt_users.add("ha", ["#"], ["#"]))
        clients.append(program)
        program.send(subscribe_packet(1, ("homeassistant/#", 0), ("edge/#", 0)))
        assert (await program.receive())[0] == 0x90
        program.send(mqtt.publish("tele/kitchen/SENSOR", b'{"t": 20}', qos=1, packet_id=7))
        assert (await program.receive())[:4] == b"\x40\x02\x00\x07"
        lines = await until(gateway, "event", lambda found: len(found) == 1)
        assert lines[0].device == "kitchen"
        device = await client(gateway, "d", (await gateway.add_device("d")).key)
        clients.append(device)
        device.send(event_packet(0, {"temperature": 20}))
        told = [await program.receive(), await program.receive()]
        assert b"homeassistant/sensor/edge_d/climate_temperature/config" in told[0]
        assert b"edge/gateway/d/climate" in told[1]
        device.send(event_packet(1, "not an object"))
        letters = await until(gateway, "dead-letter", lambda found: len(found) == 1)
        assert letters[0].device == "d"
        assert gateway.status().door.dead == 1
    finally:
        for each in clients:
            each.close()
        await gateway.stop()


async def test_a_flood_waits_and_the_others_do_not(tmp_path: Path) -> None:
    gateway = await start(tmp_path, True)
    clients: list[Client] = []
    try:
        flood = await client(gateway, "flood", (await gateway.add_device("flood")).key)
        calm = await client(gateway, "calm", (await gateway.add_device("calm")).key)
        clients += [flood, calm]
        flood.send(*(event_packet(seq, device="flood") for seq in range(50)))
        acknowledged = {await flood.receive() for _ in range(50)}
        assert len(acknowledged) == 50, "what has come is kept"
        calm.send(event_packet(0, device="calm"))
        assert (await calm.receive())[:2] == b"\x40\x02"
        assert gateway.status().door.slowed >= 1
        rows = {row.device: row for row in gateway.devices()}
        assert (rows["calm"].skew, gateway.status().skewed["flood"]) == (None, rows["flood"].skew)
        detail = await gateway.inventory.detail("flood")
        assert detail.skew == rows["flood"].skew
    finally:
        for each in clients:
            each.close()
        await gateway.stop()


async def test_a_switch_in_home_assistant_is_a_command_for_the_board(tmp_path: Path) -> None:
    gateway = await start(tmp_path, {"type": "object"})
    clients: list[Client] = []
    try:
        key = (await gateway.add_device("valve-1")).key
        await gateway.add_device("other")
        rights = ["/devices/+/commands/#"], ["homeassistant/#"]
        program = await client(gateway, "ha", await gateway.mqtt_users.add("ha", *rights))
        board = await client(gateway, "valve-1", key)
        clients += [program, board]
        program.send(subscribe_packet(1, ("homeassistant/#", 0)))
        board.send(subscribe_packet(1, ("/devices/valve-1/commands/#", 1)))
        assert (await board.receive())[0] == 0x90
        assert (await program.receive())[0] == 0x90
        told = await program.receive()  # retained: there was nobody when it was announced
        entity = json.loads(told[told.index(b"{") :])
        program.send(mqtt.publish(entity["command_topic"], entity["payload_on"].encode(), qos=1, packet_id=3))
        assert await program.receive() == mqtt.puback(3)
        command = await board.receive()
        assert b"/devices/valve-1/commands/fan" in command
        assert cbor2.dumps({"on": True}) in command
    finally:
        for each in clients:
            each.close()
        await gateway.stop()


async def test_a_broken_schema_refuses_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"climate\.schema\.json.*not a JSON Schema"):
        await start(tmp_path, {"type": "objekt"})
