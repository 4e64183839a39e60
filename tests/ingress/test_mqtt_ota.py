"""Updates on the wire of MQTT: what is acknowledged, what becomes a dead letter, and who is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import cbor2
import pytest

from devices.ota import Ota
from devices.release_store import ReleaseStore, new_package
from devices.releases import manifest_of
from edge_runtime import wire_ota
from edge_runtime.ingress.doors import Doors
from edge_runtime.journal.records import DeadLetter, StateChange
from edge_runtime.proto import mqtt
from tests.ingress.mqtt_house import Client, House, subscribe_packet

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/ota.json").read_text("utf-8"))
TREE = "/devices/d/ota"
FILES = {"main.py": b"print(1)\n"}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = await House.build()
    store = ReleaseStore(tmp_path / "releases")
    ota = house.admission.ota = await Ota.open(house.journal, house.registry, house.clock, store, lambda _: None)
    doors = Doors([house.door])
    ota.tell = lambda device, word, payload: doors.tell(device, f"ota/{word}", payload)
    ota.connected = doors.connected
    yield house
    await house.tear_down()


async def say(board: Client, word: str, payload: bytes) -> list[tuple[str, dict[int, object]]]:
    """Send something, and return what came before its PUBACK."""
    board.send(mqtt.publish(f"{TREE}/{word}", payload, qos=1, packet_id=9))
    heard = []
    while (packet := await board.receive()) != b"\x40\x02\x00\x09":
        assert packet[0] == 0x30, "QoS 0"
        word = "offer" if b"/ota/offer" in packet else "data"
        start = packet.index(f"/ota/{word}".encode()) + len(f"/ota/{word}")
        heard.append((word, cbor2.loads(packet[start:])))
    return heard


async def subscribed(house: House, pattern: str = f"{TREE}/+") -> Client:
    board = await house.device()
    board.send(subscribe_packet(1, (pattern, 1)))
    assert await board.receive() == b"\x90\x03\x00\x01\x01"
    return board


async def roll_out(house: House) -> bytes:
    ota = house.admission.ota
    assert ota is not None
    release = ota.store.take_in(new_package(FILES, manifest_of("greenhouse", "1", FILES)), 0)
    await ota.roll_out(release.id, ["d"])
    return bytes.fromhex(release.id)


def dead(house: House) -> list[DeadLetter]:
    return [record for record in house.journal.inner.records() if isinstance(record, DeadLetter)]


async def test_a_report_is_durable_and_answered_with_an_offer(house: House) -> None:
    release = await roll_out(house)
    board = await subscribed(house)
    ((word, offer),) = await say(board, "report", cbor2.dumps({1: wire_ota.IDLE, 4: "rp2"}))
    assert (word, offer[0]) == ("offer", release)
    kept = [
        record
        for record in house.journal.inner.records()
        if isinstance(record, StateChange) and record.key == "device/d"
    ]
    assert len(kept) == 1
    ((word, data),) = await say(board, "ask", cbor2.dumps({0: release, 1: 0, 2: 12}))
    assert (word, data[2]) == ("data", b"edge-release")
    assert dead(house) == []


async def test_who_has_not_subscribed_is_told_nothing(house: House) -> None:
    release = await roll_out(house)
    board = await subscribed(house, "/devices/d/commands/#")
    assert await say(board, "report", cbor2.dumps({1: wire_ota.IDLE})) == []
    assert await say(board, "ask", cbor2.dumps({0: release, 1: 0, 2: 12})) == []


async def test_who_was_offered_nothing_gets_nothing(house: House) -> None:
    board = await subscribed(house)
    assert await say(board, "report", cbor2.dumps({1: wire_ota.IDLE})) == []
    assert await say(board, "ask", cbor2.dumps({0: bytes(32), 1: 0, 2: 12})) == [("offer", {})]


@pytest.mark.parametrize(
    ("word", "text"), [(word[:-1], text) for word in ("reports", "asks") for text in VECTORS["invalid"][word]]
)
async def test_what_cannot_be_read_becomes_a_dead_letter(house: House, word: str, text: str) -> None:
    board = await subscribed(house)
    assert await say(board, word, bytes.fromhex(text)) == []
    (letter,) = dead(house)
    assert (letter.reason, letter.topic) == ("invalid", f"{TREE}/{word}")


@pytest.mark.parametrize("word", ["offer", "data", "report/x", "x"])
async def test_other_topics_are_for_nothing(house: House, word: str) -> None:
    board = await subscribed(house)
    assert await say(board, word, b"\xa0") == []
    assert "nothing about updates belongs on this topic" in dead(house)[0].detail
