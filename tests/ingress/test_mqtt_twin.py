"""Configurations and states on the wire of MQTT, by the shared vectors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import cbor2
import pytest

from devices.twin import Content, json_content
from edge_runtime.journal.records import DeadLetter
from edge_runtime.proto import mqtt
from tests.ingress.mqtt_house import Client, House, subscribe_packet

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/twin.json").read_text("utf-8"))
TREE = "/devices/d"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = await House.build()
    yield house
    await house.tear_down()


def opened(packet: bytes) -> tuple[str, int, bytes]:
    """Topic, packet id and payload of a PUBLISH at QoS 1."""
    assert packet[0] & 0xF6 == 0x32
    at = next(i for i in range(1, 5) if packet[i] < 0x80) + 1
    length = int.from_bytes(packet[at : at + 2], "big")
    at += 2
    end = at + length
    return packet[at:end].decode(), int.from_bytes(packet[end : end + 2], "big"), packet[end + 2 :]


def puback(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


async def subscribed(house: House, pattern: str = f"{TREE}/config") -> Client:
    board = await house.device()
    board.send(subscribe_packet(1, (pattern, 1)))
    assert await board.receive() == b"\x90\x03\x00\x01\x01"
    return board


async def say(board: Client, topic: str, payload: bytes) -> None:
    board.send(mqtt.publish(topic, payload, qos=1, packet_id=9))
    assert await board.receive() == puback(9)


@pytest.mark.parametrize("pattern", [f"{TREE}/config", f"{TREE}/#", f"{TREE}/+"])
async def test_who_subscribes_gets_the_newest_and_each_that_comes(house: House, pattern: str) -> None:
    twin = house.admission.twin
    await twin.set_config("d", json_content({"every": 5}))
    await twin.set_config("d", json_content({"every": 7}))
    board = await subscribed(house, pattern)
    topic, packet_id, payload = opened(await board.receive())
    assert topic == f"{TREE}/config"
    assert cbor2.loads(payload) == {0: 2, 1: {"every": 7}}
    board.send(puback(packet_id))
    await twin.set_config("d", Content("bytes", b"\x00\xff"))
    assert cbor2.loads(opened(await board.receive())[2]) == {0: 3, 1: b"\x00\xff"}


async def test_who_has_not_subscribed_gets_none(house: House) -> None:
    await house.admission.twin.set_config("d", json_content(1))
    board = await subscribed(house, f"{TREE}/commands/#")
    await house.admission.twin.set_config("d", json_content(2))
    assert await board.ping() == b"\xd0\x00", "nothing came before the answer"


@pytest.mark.parametrize("case", VECTORS["config"], ids=lambda case: case["name"])
async def test_a_configuration_as_the_vectors_have_it(house: House, case: dict[str, object]) -> None:
    board = await subscribed(house)
    for _ in range(int(str(case["version"]))):
        await house.admission.twin.set_config("d", json_content(case["config"]))
        payload = opened(await board.receive())[2]
    assert payload.hex() == case["hex"]


@pytest.mark.parametrize("case", VECTORS["ack"], ids=lambda case: case["name"])
async def test_an_acknowledgement_is_kept_before_it_is_acknowledged(house: House, case: dict[str, object]) -> None:
    for n in range(3):
        await house.admission.twin.set_config("d", json_content(n))
    board = await house.device()
    await say(board, f"{TREE}/config/ack", bytes.fromhex(str(case["hex"])))
    index = await house.admission.twin.index("d")
    assert {"acknowledged": index.acknowledged, "rejected": index.rejected, "detail": index.detail} == case["twin"]


@pytest.mark.parametrize("case", VECTORS["state"], ids=lambda case: case["name"])
async def test_a_state_is_kept(house: House, case: dict[str, object]) -> None:
    board = await house.device()
    await say(board, f"{TREE}/state", bytes.fromhex(str(case["hex"])))
    ((_, content),) = await house.admission.twin.states("d")
    assert content.value() == case["state"]
    assert not [r for r in house.journal.inner.records() if isinstance(r, DeadLetter)]


@pytest.mark.parametrize("case", VECTORS["invalid"], ids=lambda case: case["name"])
async def test_what_cannot_be_read_is_a_dead_letter_and_acknowledged(house: House, case: dict[str, str]) -> None:
    board = await house.device()
    await say(board, f"{TREE}/{case['topic']}", bytes.fromhex(case["hex"]))
    (letter,) = [r for r in house.journal.inner.records() if isinstance(r, DeadLetter)]
    assert (letter.device, letter.topic) == ("d", f"{TREE}/{case['topic']}")
    assert await house.admission.twin.states("d") == []


async def test_a_state_that_is_too_large_is_a_dead_letter(house: House) -> None:
    board = await house.device()
    await say(board, f"{TREE}/state", cbor2.dumps({0: bytes(70_000)}))
    (letter,) = [r for r in house.journal.inner.records() if isinstance(r, DeadLetter)]
    assert "64 KiB" in letter.detail or "too many" in letter.detail


async def test_a_state_that_cannot_be_stored_is_not_acknowledged(house: House) -> None:
    board = await house.device()
    house.journal.inner.full = True
    board.send(mqtt.publish(f"{TREE}/state", cbor2.dumps({0: 1}), qos=1, packet_id=3))
    while not any("could not be stored" in line for line in house.log):
        await asyncio.sleep(0)
    house.pass_seconds(6)
    assert await board.receive() == b""
    house.journal.inner.full = False


async def test_a_configuration_waits_for_a_device_that_acknowledges_slowly(house: House) -> None:
    board = await subscribed(house)
    ids = []
    for n in range(32):
        await house.admission.twin.set_config("d", json_content(n))
        ids.append(opened(await board.receive())[1])
    await house.admission.twin.set_config("d", json_content("last"))
    assert await board.ping() == b"\xd0\x00"
    board.send(puback(ids[0]))
    assert cbor2.loads(opened(await board.receive())[2]) == {0: 33, 1: "last"}


async def test_another_devices_configuration_is_out_of_reach(house: House) -> None:
    await house.registry.add("e")
    await house.admission.twin.set_config("e", json_content("secret"))
    board = await house.device()
    board.send(subscribe_packet(1, ("/devices/e/config", 1)))
    assert await board.receive() == b"\x90\x03\x00\x01\x80"
    assert any("outside /devices/d/" in line for line in house.security)
    board.send(mqtt.publish("/devices/e/state", cbor2.dumps({0: 1}), qos=1, packet_id=3))
    assert await board.receive() == b""
    assert await house.admission.twin.states("e") == []
