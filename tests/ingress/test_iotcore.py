"""The contract of the retired IoT Core: names and payloads as pure functions; connections in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from devices.registry import Registry
from devices.twin import BYTES, Content
from edge_runtime.clock import TRUSTED_AFTER
from edge_runtime.errors import WireError
from edge_runtime.events import DEVICE, NAME
from edge_runtime.ingress import iotcore
from edge_runtime.ingress.iotcore import Names, Place
from edge_runtime.ingress.iotcore_connection import Profile
from edge_runtime.ingress.stamps import Stamps
from edge_runtime.journal.records import CommandEnd, DeadLetter
from edge_runtime.proto import mqtt
from tests.ingress.mqtt_house import Client, House, connect_packet, eventually, subscribe_packet

NAMES = Names("p", "l", "r")
PATH = "projects/p/locations/l/registries/r/devices/"
SECOND = 1_000_000
NOW = TRUSTED_AFTER + 86_400 * SECOND
ACCEPTED = b"\x20\x02\0\0"


# Words


def test_a_client_id_names_a_device_of_this_registry() -> None:
    assert NAMES.device(f"{PATH}thermostat-1") == "thermostat-1"
    for wrong in ("d", f"{PATH}", f"{PATH}a/b", f"{PATH}a b", PATH.replace("/p/", "/q/") + "d", f"{PATH}d\n"):
        with pytest.raises(WireError):
            NAMES.device(wrong)


@pytest.mark.parametrize(
    ("topic", "place"),
    [
        ("/devices/d/events", Place("d", "events")),
        ("/devices/d/events/a/b", Place("d", "events", "a/b")),
        ("/devices/d/state", Place("d", "state")),
        ("/devices/d/attach", Place("d", "attach")),
        ("/devices/d/config", Place("d", "config")),
        ("/devices/d/commands/#", Place("d", "commands", "#")),
        ("/devices/d/state/x", None),
        ("/devices/d/replies", None),
        ("/devices//events", None),
        ("/devices/+/events", None),
        ("/devices/#", None),
        ("#", None),
        ("devices/d/events", None),
    ],
)
def test_topics_of_the_contract(topic: str, place: Place | None) -> None:
    assert iotcore.place(topic) == place


@pytest.mark.parametrize(
    ("payload", "shown"),
    [(b'{"t": 1}', {"t": 1}), (b"r/d-payload-1", "r/d-payload-1"), (b"\xff\0", b"\xff\0"), (b"", ""), (b"[1", "[1")],
)
def test_a_payload_is_what_it_can_be_read_as(payload: bytes, shown: Any) -> None:
    assert iotcore.content(payload) == shown


def test_a_sub_folder_is_the_kind() -> None:
    assert [iotcore.kind(folder) for folder in ("", "climate", "a/b")] == ["events", "climate", "a.b"]
    with pytest.raises(WireError):
        iotcore.kind("no kind")


@given(st.text(max_size=300), st.binary(max_size=300))
def test_whatever_comes_is_read_or_refused(text: str, payload: bytes) -> None:
    found = iotcore.place(text)
    assert found is None or DEVICE.fullmatch(found.device)
    iotcore.content(payload)
    with contextlib.suppress(WireError):
        assert NAME.fullmatch(iotcore.kind(text))
    with contextlib.suppress(WireError):
        iotcore.authorization(payload)


# Connections


class Fleet:
    """A house with the profile, and boards with private keys."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.keys: dict[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey] = {}
        self.packet_id = 0

    async def add(self, device: str, *, rs256: bool = False, **tags: str) -> None:
        key = rsa.generate_private_key(65_537, 2048) if rs256 else ec.generate_private_key(ec.SECP256R1())
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        public = key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()
        registry = self.house.registry
        await registry.add(device, profile="iotcore", tags=tags, token=False)
        await registry.add_public_key(device, public)
        self.keys[device] = key

    def jwt(self, device: str, seconds: int = 3600, audience: str = "p") -> str:
        now = self.house.clock.now() // SECOND
        key = self.keys[device]
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode({"iat": now, "exp": now + seconds, "aud": audience}, key, algorithm=algorithm)

    async def board(self, device: str, *early: bytes, **claims: Any) -> Client:
        client = await self.house.client()
        token = self.jwt(device, **claims)
        client.send(connect_packet("unused", token, client_id=PATH + device), *early)
        assert await client.receive() == ACCEPTED
        return client

    async def publish(self, client: Client, topic: str, payload: bytes) -> bytes:
        self.packet_id += 1
        client.send(mqtt.publish(topic, payload, qos=1, packet_id=self.packet_id))
        return await client.receive()

    async def attach(self, client: Client, device: str, authorization: str | None = None) -> bytes:
        token = self.jwt(device) if authorization is None else authorization
        payload = json.dumps({"authorization": token}).encode() if token else b""
        return await self.publish(client, f"/devices/{device}/attach", payload)


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    house = await House.build()
    house.clock.step(NOW - house.clock.now())
    house.registry.audiences = frozenset({"p"})
    house.door.iotcore = Profile(NAMES, Stamps(b"8 bytes."), house.clock)
    fleet = Fleet(house)
    await fleet.add("g")
    yield fleet
    await house.tear_down()


async def test_events_carry_the_attributes_of_the_contract(fleet: Fleet) -> None:
    board = await fleet.board("g")
    assert (await fleet.publish(board, "/devices/g/events/climate", b'{"t": 21.5}'))[:2] == b"\x40\x02"
    await fleet.publish(board, "/devices/g/events", b"text")
    first, second = fleet.house.journal.events
    assert (first.kind, second.kind, second.data["payload"]) == ("climate", "events", "text")
    assert first.data == {
        "payload": {"t": 21.5},
        "attributes": {
            "deviceId": "g",
            "deviceNumId": iotcore.number("g"),
            "deviceRegistryId": "r",
            "deviceRegistryLocation": "l",
            "projectId": "p",
            "subFolder": "climate",
        },
    }


async def test_a_puback_waits_for_the_journal(fleet: Fleet) -> None:
    board = await fleet.board("g")
    fleet.house.journal.slow = True
    board.send(mqtt.publish("/devices/g/events", b"1", qos=1, packet_id=9))
    await eventually(lambda: len(fleet.house.journal.under_way) == 1)
    assert await board.ping() == b"\xd0\0", "and not the PUBACK"
    await fleet.house.journal.let_through(1)
    assert await board.receive() == b"\x40\x02\0\x09"


async def test_rs256_padding_and_a_subscribe_before_the_connack(fleet: Fleet) -> None:
    await fleet.add("rsa", rs256=True)
    client = await fleet.house.client()
    token = fleet.jwt("rsa") + "=="
    client.send(
        connect_packet("unused", token, client_id=PATH + "rsa"),
        subscribe_packet(1, ("/devices/rsa/config", 1), ("/devices/rsa/commands/#", 2)),
    )
    assert await client.receive() == ACCEPTED
    assert await client.receive() == b"\x90\x04\0\x01\x01\x01", "QoS 2 is granted as 1"
    assert fleet.house.listening == ["rsa"]


@pytest.mark.parametrize("what", ["client id", "audience", "signature", "expired", "profile", "blocked", "too long"])
async def test_who_is_not_let_in(fleet: Fleet, what: str) -> None:
    house, name, token = fleet.house, PATH + "g", fleet.jwt("g")
    if what == "client id":
        name = PATH.replace("/l/", "/elsewhere/") + "g"
    elif what == "audience":
        token = fleet.jwt("g", audience="q")
    elif what == "signature":
        await fleet.add("other")
        token = fleet.jwt("other")
    elif what == "expired":
        house.clock.step((3600 + 600) * SECOND)
    elif what == "profile":
        name, token = PATH + "d", house.key
    elif what == "blocked":
        await house.registry.block("g")
    else:
        token = fleet.jwt("g", seconds=86_401)
    client = await house.client()
    client.send(connect_packet("unused", token, client_id=name))
    assert (await client.receive())[:3] == b"\x20\x02\0"
    assert await client.receive() == b""
    assert len(house.security) == 1
    assert token not in house.security[0]


async def test_an_iotcore_device_does_not_come_in_as_another(fleet: Fleet) -> None:
    client = await fleet.house.client()
    client.send(connect_packet("g", fleet.jwt("g")))
    assert await client.receive() == b"\x20\x02\0\x05"
    assert "its profile is 'iotcore'" in fleet.house.security[0]


async def test_the_connection_ends_ten_minutes_after_its_jwt(fleet: Fleet) -> None:
    board = await fleet.board("g", seconds=60)
    for _ in range(60 + 600 - 1):
        fleet.house.pass_seconds(1)
        if fleet.house.clock.monotonic() % (50 * SECOND) == 0:
            assert await board.ping() == b"\xd0\0"
    assert await board.ping() == b"\xd0\0"
    fleet.house.pass_seconds(1)
    assert await board.receive() == b""
    assert "expired" in fleet.house.log[-1]


async def test_the_configuration_comes_on_subscribing_and_its_puback_is_the_acknowledgement(fleet: Fleet) -> None:
    twin = fleet.house.admission.twin
    await twin.set_config("g", Content(BYTES, b"raw \xff"))
    board = await fleet.board("g")
    board.send(subscribe_packet(1, ("/devices/g/config", 1)))
    assert (await board.receive())[0] == 0x90
    config = await board.receive()
    assert config == mqtt.publish("/devices/g/config", b"raw \xff", qos=1, packet_id=1)
    assert (await twin.index("g")).acknowledged == 0
    board.send(mqtt.puback(1))
    await board.ping()
    async with asyncio.timeout(10):
        while (await twin.index("g")).acknowledged != 1:
            await asyncio.sleep(0)
    await twin.set_config("g", Content(BYTES, b"2"))
    assert await board.receive() == mqtt.publish("/devices/g/config", b"2", qos=1, packet_id=2)


async def test_state_is_kept_as_it_came(fleet: Fleet) -> None:
    board = await fleet.board("g")
    await fleet.publish(board, "/devices/g/state", b"\0state")
    ((_, kept),) = await fleet.house.admission.twin.states("g")
    assert kept == Content(BYTES, b"\0state")
    assert (await fleet.publish(board, "/devices/g/state", b"x" * 65_537))[0] == 0x40
    (letter,) = [record for record in fleet.house.journal.inner.records() if isinstance(record, DeadLetter)]
    assert "65537 bytes are too many" in letter.detail
    board.send(b"\xc0\0")
    await eventually(lambda: len(fleet.house.door.throttled) == 1)
    fleet.house.pass_seconds(2)
    assert await board.receive() == b"\xd0\0", "two states at once: not heard for a second"


async def test_a_command_has_ended_with_its_puback(fleet: Fleet) -> None:
    house = fleet.house
    board = await fleet.board("g")
    board.send(subscribe_packet(1, ("/devices/g/commands/#", 1)))
    await board.receive()
    order = house.order(device="g")
    await house.journal.append([order])
    assert house.door.deliver(order)
    assert house.door.deliver(order), "it is on its way already"
    assert await board.receive() == mqtt.publish("/devices/g/commands/fan", b'{"on":true}', qos=1, packet_id=1)
    board.send(mqtt.puback(1))
    assert await board.ping() == b"\xd0\0"
    await eventually(lambda: any(isinstance(record, CommandEnd) for record in house.journal.inner.records()))


async def test_boards_behind_a_board(fleet: Fleet) -> None:
    house = fleet.house
    for device in ("a", "b"):
        await fleet.add(device)
    await fleet.add("bound", gateway="g")
    board = await fleet.board("g")
    assert (await fleet.attach(board, "a"))[0] == 0x40
    assert (await fleet.attach(board, "bound", ""))[0] == 0x40
    assert {"g", "a", "bound"} == house.door.connected()
    await fleet.publish(board, "/devices/a/events/climate", b"1")
    assert [(event.device, event.kind) for event in house.journal.events] == [("a", "climate")]
    await house.admission.twin.set_config("a", Content(BYTES, b"for a"))
    board.send(subscribe_packet(7, ("/devices/a/config", 1), ("/devices/a/commands/#", 0), ("/devices/b/config", 1)))
    assert await board.receive() == b"\x90\x05\0\x07\x01\x00\x80", "b is not attached"
    assert await board.receive() == mqtt.publish("/devices/a/config", b"for a", qos=1, packet_id=1)
    order = house.order(device="a")
    await house.journal.append([order])
    assert house.door.deliver(order)
    assert await board.receive() == mqtt.publish("/devices/a/commands/fan", b'{"on":true}')
    assert (await fleet.publish(board, "/devices/a/detach", b"{}"))[0] == 0x40
    assert {"g", "bound"} == house.door.connected()
    await house.registry.block("bound")
    assert await board.ping() == b"\xd0\0", "a blocked board takes only itself away"
    assert {"g"} == house.door.connected()


async def test_what_goes_wrong_with_attached_boards_is_told_on_errors(fleet: Fleet) -> None:
    house = fleet.house
    await fleet.add("a")
    board = await fleet.board("g")
    board.send(subscribe_packet(1, ("/devices/g/errors", 0)))
    await board.receive()
    told = []
    for device, token in (("a", fleet.jwt("g")), ("a", ""), ("nobody", "")):
        told.append(await fleet.attach(board, device, token))
        assert (await board.receive())[0] == 0x40
    told.append(await fleet.publish(board, "/devices/a/events", b"1"))
    assert (await board.receive())[0] == 0x40
    codes = [json.loads(packet[packet.index(b"{") :])["error_type"] for packet in told]
    assert codes == ["GATEWAY_ATTACHMENT_ERROR"] * 3 + ["GATEWAY_DEVICE_NOT_ATTACHED"]
    assert len(house.security) == 4
    (letter,) = [record for record in house.journal.inner.records() if isinstance(record, DeadLetter)]
    assert (letter.device, letter.topic) == ("g", "/devices/a/events")
    assert not house.journal.events


async def test_an_attached_boards_jwt_ends_for_it_alone(fleet: Fleet) -> None:
    await fleet.add("a")
    board = await fleet.board("g")
    await fleet.attach(board, "a", fleet.jwt("a", seconds=10))
    for _ in range(61):
        fleet.house.pass_seconds(10)
        assert await board.ping() == b"\xd0\0"
    assert fleet.house.door.connected() == {"g"}


@pytest.mark.parametrize(
    "packet",
    [
        mqtt.publish("/devices/g/events", b"1", qos=2, packet_id=1),
        mqtt.publish("/devices/g/config", b"1", qos=1, packet_id=1),
        mqtt.publish("elsewhere", b"1", qos=1, packet_id=1),
    ],
)
async def test_what_closes_the_connection(fleet: Fleet, packet: bytes) -> None:
    board = await fleet.board("g")
    board.send(packet)
    assert await board.receive() == b""
    assert not fleet.house.journal.events


async def test_a_board_that_is_too_fast_is_not_heard_for_a_while(fleet: Fleet) -> None:
    board, house = await fleet.board("g"), fleet.house
    for number in range(1, 141):
        board.send(mqtt.publish("/devices/g/events", b"1", qos=1, packet_id=number))
    for _ in range(140):
        assert (await board.receive())[0] == 0x40, "nothing of it is lost"
    board.send(b"\xc0\0")
    await eventually(lambda: len(house.door.throttled) == 1)
    house.pass_seconds(3)
    assert await board.receive() == b"\xd0\0"


async def test_a_second_connection_takes_over(fleet: Fleet) -> None:
    first = await fleet.board("g")
    second = await fleet.board("g")
    assert await first.receive() == b""
    assert await second.ping() == b"\xd0\0"


async def test_a_registry_knows_the_project_as_an_audience(fleet: Fleet) -> None:
    registry = await Registry.open(fleet.house.journal, fleet.house.clock, ("gateway", "p"))
    assert not registry.login("g", fleet.jwt("g")).refused
