"""Programs at the MQTT door: what the standard says of versions 3.1.1 and 5.0, statement by statement."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from edge_runtime.clock import TRUSTED_AFTER
from edge_runtime.errors import EdgeError
from edge_runtime.ingress import app_connection
from edge_runtime.ingress.apps import Apps
from edge_runtime.ingress.broker.message import Limits
from edge_runtime.proto.mqtt.fields import Fields
from edge_runtime.proto.mqtt.properties import NONE, PUBLISH, Properties, read, text, variable, write
from tests.ingress.mqtt_house import Client, House, event_packet, eventually

V4, V5 = 4, 5


def packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + variable(len(body)) + body


class Program:
    """A client of either version that speaks in bytes."""

    def __init__(self, client: Client, version: int) -> None:
        self.client = client
        self.version = version

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        pid: int = 0,
        *,
        retain: bool = False,
        dup: bool = False,
        properties: Properties = NONE,
    ) -> None:
        body = text(topic) + (pid.to_bytes(2) if qos else b"")
        body += (write(properties) if self.version == 5 else b"") + payload
        self.client.send(packet(0x30 | dup << 3 | qos << 1 | retain, body))

    async def subscribe(self, *filters: tuple[str, int], identifier: int = 0) -> list[int]:
        properties = Properties(subscription_ids=(identifier,)) if identifier else NONE
        body = b"\0\7" + (write(properties) if self.version == 5 else b"")
        body += b"".join(text(pattern) + bytes((options,)) for pattern, options in filters)
        self.client.send(packet(0x82, body))
        answer = await self.client.receive()
        assert answer[0] == 0x90, answer
        return list(answer[4 + (self.version == 5) :])

    async def message(self) -> tuple[str, bytes, int, int, Properties]:
        """Topic, payload, first byte, packet identifier, properties of the next PUBLISH."""
        raw = await self.client.receive()
        assert raw[0] >> 4 == 3, raw
        start = 2
        while raw[start - 1] & 128:
            start += 1
        fields = Fields(raw[start:])
        topic = fields.text("topic")
        pid = fields.number(2, "id") if raw[0] & 6 else 0
        properties = read(fields, PUBLISH) if self.version == 5 else NONE
        return topic, fields.rest(), raw[0], pid, properties

    async def silent(self) -> bool:
        """Whether nothing comes but the answer to a PINGREQ."""
        return await self.client.ping() == b"\xd0\0"


class AppHouse(House):
    """A door with the profile for programs."""

    apps: Apps
    keys: dict[str, str]

    async def open_apps(self, limits: Limits | None = None) -> None:
        self.keys = getattr(self, "keys", {})
        self.apps = self.door.apps = await Apps.open(self.journal, self.registry, self.clock, self.log.append, limits)

    async def user(self, name: str = "u", publish: str = "#", subscribe: str = "#") -> None:
        self.keys[name] = await self.apps.add(name, [publish], [subscribe])

    async def program(
        self,
        name: str = "u",
        client_id: str = "c",
        *,
        version: int = V5,
        clean: bool = True,
        keep_alive: int = 60,
        properties: Properties = NONE,
        will: tuple[str, bytes, int, Properties] | None = None,
        expect: bytes | None = None,
    ) -> Program:
        client = await self.client()
        flags = 0xC0 | clean << 1
        if will is not None:
            flags |= 4 | will[2] << 3
        body = text("MQTT") + bytes((version, flags)) + keep_alive.to_bytes(2)
        body += (write(properties) if version == 5 else b"") + text(client_id)
        if will is not None:
            body += (write(will[3]) if version == 5 else b"") + text(will[0]) + len(will[1]).to_bytes(2) + will[1]
        body += text(name) + text(self.keys.get(name, "no key"))
        client.send(packet(0x10, body))
        self.answer = await client.receive()
        if expect is None:
            assert self.answer[0] == 0x20
            assert self.answer[3] == 0
        else:
            assert self.answer[:4] == expect
        return Program(client, version)

    def present(self) -> bool:
        return bool(self.answer[2])

    async def restart(self) -> None:
        """All connections are lost, and the broker is made anew from the journal."""
        for client in self.clients:
            client.close()
        await eventually(lambda: self.apps.counters.connections == 0)
        await self.apps.stop()
        await self.open_apps()


@pytest.fixture
async def house() -> AsyncIterator[AppHouse]:
    house = await AppHouse.build()
    assert isinstance(house, AppHouse)
    house.clock.step(TRUSTED_AFTER)
    await house.open_apps()
    await house.user()
    yield house
    await house.tear_down()


@pytest.mark.parametrize("version", [V4, V5])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_comes_with_the_lesser_qos(house: AppHouse, version: int, qos: int) -> None:
    """[MQTT-3.8.4-8] of version 5, [MQTT-3.8.4-6] of 3.1.1."""
    sender = await house.program(client_id="a", version=version)
    receiver = await house.program(client_id="b", version=version)
    assert await receiver.subscribe(("home/+/t", qos)) == [qos]
    sender.publish("home/hall/t", b"21", 2, 9)
    assert (await sender.client.receive())[:4] == b"\x50\x02\0\x09"
    topic, payload, first, pid, _ = await receiver.message()
    assert (topic, payload, first >> 1 & 3) == ("home/hall/t", b"21", qos)
    if qos == 1:
        receiver.client.send(b"\x40\2" + pid.to_bytes(2))
    elif qos == 2:
        receiver.client.send(b"\x50\2" + pid.to_bytes(2))
        assert await receiver.client.receive() == b"\x62\2" + pid.to_bytes(2)
        receiver.client.send(b"\x70\2" + pid.to_bytes(2))
    assert await receiver.silent()


async def test_a_repeated_message_of_qos_2_is_delivered_once(house: AppHouse) -> None:
    """[MQTT-4.3.3-10]: until its PUBREL, the same packet identifier is the same message."""
    sender = await house.program(client_id="a")
    receiver = await house.program(client_id="b")
    await receiver.subscribe(("t", 0))
    sender.publish("t", b"1", 2, 5)
    assert await sender.client.receive() == b"\x50\2\0\5"
    sender.publish("t", b"1", 2, 5, dup=True)
    assert await sender.client.receive() == b"\x50\2\0\5"
    sender.client.send(b"\x62\2\0\5")
    assert await sender.client.receive() == b"\x70\2\0\5"
    sender.publish("t", b"2", 2, 5)
    assert await sender.client.receive() == b"\x50\2\0\5"
    assert [(await receiver.message())[1] for _ in range(2)] == [b"1", b"2"]
    assert await receiver.silent()


async def test_a_release_of_nothing_is_told_so(house: AppHouse) -> None:
    """Section 3.7.2.1: packet identifier not found."""
    sender = await house.program()
    sender.client.send(b"\x62\2\0\5")
    assert await sender.client.receive() == b"\x70\3\0\5\x92"


async def test_retained_messages_are_replaced_and_removed(house: AppHouse) -> None:
    """[MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7], [MQTT-3.3.1-9]."""
    program = await house.program()
    for payload in (b"old", b"new"):
        program.publish("t", payload, 1, 1, retain=True)
        assert (await program.client.receive())[:4] in (b"\x40\2\0\1", b"\x40\3\0\1")
    assert await program.subscribe(("t", 1)) == [1]
    _, payload, first, pid, _ = await program.message()
    assert (payload, first & 1) == (b"new", 1)
    program.client.send(b"\x40\2" + pid.to_bytes(2))
    program.publish("t", b"", 0, retain=True)
    assert (await program.message())[:3] == ("t", b"", 0x30)  # [MQTT-3.3.1-12]: sent on, without the flag
    await eventually(lambda: len(house.apps.broker.retained) == 0)
    assert await program.subscribe(("t", 1)) == [1]
    assert await program.silent()


@pytest.mark.parametrize(
    ("options", "again", "expected"), [(0x01, False, 1), (0x11, True, 0), (0x11, False, 1), (0x21, False, 0)]
)
async def test_retain_handling(house: AppHouse, options: int, again: bool, expected: int) -> None:
    """[MQTT-3.3.1-9] to [MQTT-3.3.1-11]."""
    program = await house.program()
    if again:
        await program.subscribe(("t", 0x21))
        program.publish("t", b"x", 0, retain=True)
        await program.message()
    else:
        program.publish("t", b"x", 0, retain=True)
    await eventually(lambda: len(house.apps.broker.retained) == 1)
    await program.subscribe(("t", options))
    if expected:
        assert (await program.message())[1] == b"x"
    else:
        assert await program.silent()


async def test_retain_as_published_no_local_and_identifiers(house: AppHouse) -> None:
    """[MQTT-3.3.1-13], [MQTT-3.8.3-3], [MQTT-3.3.4-3], [MQTT-3.3.4-4]: one copy, with all identifiers."""
    program = await house.program(client_id="a")
    other = await house.program(client_id="b")
    await program.subscribe(("own/#", 4))
    await program.subscribe(("a/+", 8), identifier=3)
    await program.subscribe(("a/#", 1), identifier=300)
    program.publish("own/x", b"mine")
    other.publish("own/x", b"theirs")
    assert (await program.message())[1] == b"theirs"
    other.publish("a/x", b"1", 1, 1, retain=True)
    topic, _, first, _, properties = await program.message()
    assert topic == "a/x"
    assert first & 1
    assert first >> 1 & 3 == 1
    assert sorted(properties.subscription_ids) == [3, 300]


async def test_a_session_outlives_its_connection_and_a_restart(house: AppHouse) -> None:
    """[MQTT-3.1.2-23], [MQTT-3.2.2-3], [MQTT-4.4.0-1]; and PUBACK means durable where somebody waits for it."""
    for_an_hour = Properties(session_expiry=3600)
    receiver = await house.program(client_id="r", clean=False, properties=for_an_hour)
    assert not house.present()
    await receiver.subscribe(("t", 2))
    sender = await house.program(client_id="s")
    receiver.client.close()
    await eventually(lambda: house.apps.counters.connections == 1)
    for number in (1, 2, 3):
        sender.publish("t", b"%d" % number, 1 + number % 2, number)
        assert (await sender.client.receive())[2:4] == number.to_bytes(2)
    await house.restart()
    receiver = await house.program(client_id="r", clean=False, properties=for_an_hour)
    assert house.present()
    found = [await receiver.message() for _ in range(3)]
    assert [payload for _, payload, _, _, _ in found] == [b"1", b"2", b"3"]
    # The client takes the message of QoS 2 ([MQTT-4.3.3-8]), and the gateway is gone before it could release it.
    (first, pid) = found[0][2:4]
    assert first >> 1 & 3 == 2
    receiver.client.send(b"\x50\2" + pid.to_bytes(2))
    assert await receiver.client.receive() == b"\x62\2" + pid.to_bytes(2)
    await house.restart()
    receiver = await house.program(client_id="r", clean=False, properties=for_an_hour)
    assert await receiver.client.receive() == b"\x62\2" + pid.to_bytes(2), "never the message again"
    again = [await receiver.message() for _ in range(2)]
    assert [(payload, i) for _, payload, _, i, _ in again] == [(payload, i) for _, payload, _, i, _ in found[1:]]


async def test_a_begun_message_of_qos_2_is_recognised_after_a_restart(house: AppHouse) -> None:
    """[MQTT-4.3.3-10] over a restart."""
    hour = Properties(session_expiry=3600)
    receiver = await house.program(client_id="r", clean=False, properties=hour)
    await receiver.subscribe(("t", 1))
    sender = await house.program(client_id="s", clean=False, properties=hour)
    sender.publish("t", b"x", 2, 77)
    assert (await sender.client.receive())[:4] == b"\x50\2\0\x4d"
    _, _, _, pid, _ = await receiver.message()
    receiver.client.send(b"\x40\2" + pid.to_bytes(2))
    assert await receiver.silent()
    await house.restart()
    receiver = await house.program(client_id="r", clean=False, properties=hour)
    sender = await house.program(client_id="s", clean=False, properties=hour)
    sender.publish("t", b"x", 2, 77, dup=True)
    assert (await sender.client.receive())[:4] == b"\x50\2\0\x4d"
    assert await receiver.silent()


class Coming:
    """A connection that does nothing."""

    window = 1
    writable = True

    def publish(self, *_: object, **__: object) -> bool:
        return True

    def release(self, packet_id: int) -> None:
        """Nothing."""

    def taken_over(self) -> None:
        """Nothing."""

    def drop(self, why: str) -> None:
        """Nothing."""


async def test_a_session_ends_with_its_expiry(house: AppHouse) -> None:
    """Section 3.1.2.11.2, and [MQTT-3.1.4-4] for clean start."""
    program = await house.program(clean=False, properties=Properties(session_expiry=10))
    program.client.close()
    await eventually(lambda: house.apps.counters.connections == 0)
    house.pass_seconds(9)
    assert house.apps.broker.sessions
    house.pass_seconds(2)
    assert not house.apps.broker.sessions
    program = await house.program(clean=False, properties=Properties(session_expiry=10))
    assert not house.present()
    program.client.send(b"\xe0\0")
    await eventually(lambda: house.apps.counters.connections == 0)
    await house.program(clean=True)
    assert not house.present()


async def test_a_client_that_comes_and_goes_leaves_nothing_behind(house: AppHouse) -> None:
    broker = house.apps.broker
    for _ in range(1_500):
        entered = broker.sessions.enter(Coming(), "u", "c", clean=False, expiry=3600, will=None)
        session, _ = entered or pytest.fail("no room")
        assert session.link is not None
        broker.sessions.leave(session, session.link, with_will=False)
    assert len(broker.appointments) <= 1_005
    house.pass_seconds(3_601)
    assert not broker.sessions
    assert not broker.appointments


async def test_message_expiry(house: AppHouse) -> None:
    """[MQTT-3.3.2-5], [MQTT-3.3.2-6]."""
    program = await house.program()
    program.publish("t", b"x", 1, 1, retain=True, properties=Properties(message_expiry=100))
    await program.client.receive()
    house.clock.advance(40_000_000)
    await program.subscribe(("t", 0))
    assert (await program.message())[4].message_expiry == 60
    house.clock.advance(60_000_000)
    await program.subscribe(("t", 0))
    assert await program.silent()


async def test_wills(house: AppHouse) -> None:
    """[MQTT-3.1.2-8], [MQTT-3.14.4-3], [MQTT-3.1.3-9]."""
    watcher = await house.program(client_id="w")
    await watcher.subscribe(("will/#", 0))
    will = ("will/a", b"gone", 0, NONE)
    polite = await house.program(client_id="a", will=will)
    polite.client.send(b"\xe0\0")
    await eventually(lambda: house.apps.counters.connections == 1)
    assert await watcher.silent()
    for ending in (b"", b"\xe0\1\4"):  # the connection is lost; DISCONNECT with will
        rude = await house.program(client_id="a", will=will)
        rude.client.send(ending)
        if not ending:
            rude.client.close()
        assert (await watcher.message())[:2] == ("will/a", b"gone")
    late = ("will/a", b"late", 0, Properties(will_delay=5))
    for again in (True, False):
        program = await house.program(client_id="a", clean=False, properties=Properties(session_expiry=60), will=late)
        program.client.close()
        await eventually(lambda: house.apps.counters.connections == 1)
        house.pass_seconds(3)
        if again:
            continue
        house.pass_seconds(3)
        assert (await watcher.message())[1] == b"late"
    assert await watcher.silent()


async def test_shared_subscriptions(house: AppHouse) -> None:
    """[MQTT-4.8.2-4]: each message to one of the group."""
    sender = await house.program(client_id="s")
    group = [await house.program(client_id=f"m{number}") for number in range(2)]
    for member in group:
        assert await member.subscribe(("$share/g/jobs/#", 1)) == [1]
    for number in range(4):
        sender.publish("jobs/x", b"%d" % number)
    got = [[(await member.message())[1] for _ in range(2)] for member in group]
    assert sorted(got[0] + got[1]) == [b"0", b"1", b"2", b"3"]
    for member in group:
        assert await member.silent()


async def test_the_window_of_a_client_is_kept(house: AppHouse) -> None:
    """[MQTT-3.3.4-9], and the order of what waits ([MQTT-4.6.0-6])."""
    receiver = await house.program(client_id="r", properties=Properties(receive_maximum=2))
    await receiver.subscribe(("t", 1))
    sender = await house.program(client_id="s")
    for number in range(5):
        sender.publish("t", b"%d" % number, 1, number + 1)
        await sender.client.receive()
    taken = [await receiver.message() for _ in range(2)]
    assert await receiver.silent()
    for _, _, _, pid, _ in taken:
        receiver.client.send(b"\x40\2" + pid.to_bytes(2))
    assert [(await receiver.message())[1] for _ in range(2)] == [b"2", b"3"]


async def test_topic_aliases_both_ways(house: AppHouse) -> None:
    """[MQTT-3.3.2-7] to [MQTT-3.3.2-12]."""
    receiver = await house.program(client_id="r", properties=Properties(topic_alias_maximum=1))
    await receiver.subscribe(("#", 0))
    sender = await house.program(client_id="s")
    sender.publish("a", b"1", properties=Properties(topic_alias=3))
    sender.publish("", b"2", properties=Properties(topic_alias=3))
    sender.publish("b", b"3", properties=Properties(topic_alias=3))
    sender.publish("", b"4", properties=Properties(topic_alias=3))
    found = [await receiver.message() for _ in range(4)]
    assert [(topic, p.topic_alias) for topic, _, _, _, p in found] == [("a", 1), ("", 1), ("b", None), ("b", None)]
    sender.publish("", b"5", properties=Properties(topic_alias=33))
    assert await sender.client.receive() == b"\xe0\1\x94"
    assert await sender.client.receive() == b""


async def test_a_packet_larger_than_the_client_takes_is_left_out(house: AppHouse) -> None:
    """[MQTT-3.1.2-24], [MQTT-3.1.2-25]."""
    receiver = await house.program(client_id="r", properties=Properties(maximum_packet_size=50))
    await receiver.subscribe(("t", 1))
    sender = await house.program(client_id="s")
    sender.publish("t", b"x" * 100, 1, 1)
    sender.publish("t", b"small", 1, 2)
    assert (await receiver.message())[1] == b"small"
    assert house.apps.counters.dropped_large == 1


async def test_what_goes_along_with_a_message_goes_on(house: AppHouse) -> None:
    """[MQTT-3.3.2-4], [MQTT-3.3.2-15] to [MQTT-3.3.2-18], [MQTT-3.3.2-20]."""
    program = await house.program()
    await program.subscribe(("t", 0))
    sent = Properties(
        payload_format=1,
        content_type="text/plain",
        response_topic="answers",
        correlation_data=b"\0\1",
        user=(("a", "1"), ("a", "2")),
    )
    program.publish("t", b"x", properties=sent)
    assert (await program.message())[4] == sent


async def test_a_client_without_an_id_is_given_one_and_told_the_limits(house: AppHouse) -> None:
    """[MQTT-3.1.3-6], [MQTT-3.2.2-16], [MQTT-3.2.2-22]; and [MQTT-3.1.2-28]."""
    await house.program(client_id="", keep_alive=0, properties=Properties(request_response_information=1))
    found = read(Fields(house.answer[4:]), "a CONNACK")
    assert found.assigned_client_id is not None
    assert found.assigned_client_id.startswith("auto-")
    assert found.server_keep_alive == 800
    assert found.receive_maximum == 256
    assert found.response_information == "responses/u/"


async def test_the_keep_alive_holds(house: AppHouse) -> None:
    """[MQTT-3.1.2-22]."""
    program = await house.program(keep_alive=10)
    house.pass_seconds(15)
    assert await program.silent()
    house.pass_seconds(20)
    assert await program.client.receive() == b"\xe0\1\x8d"


async def test_a_client_that_connects_again_takes_over(house: AppHouse) -> None:
    """[MQTT-3.1.4-3]; but another user's client with the same identifier is another client."""
    first = await house.program()
    await house.user("v")
    await house.program("v")
    assert await first.silent()
    await house.program()
    assert await first.client.receive() == b"\xe0\1\x8e"


BAD = [
    ("AUTH", b"\xf0\0", 0x82),
    ("reserved packet type", b"\x00\0", 0x81),
    ("second CONNECT", packet(0x10, text("MQTT") + b"\5\2\0\0\0" + text("x")), 0x82),
    ("QoS 3", packet(0x36, text("t") + b"\0\1\0"), 0x81),
    ("subscription id from a client", packet(0x30, text("t") + b"\2\x0b\1"), 0x82),
    ("property twice", packet(0x30, text("t") + b"\4\1\0\1\0"), 0x82),
    ("property of another packet", packet(0x30, text("t") + b"\5\x11\0\0\0\1"), 0x81),
    ("no local on a shared subscription", packet(0x82, b"\0\1\0" + text("$share/g/t") + b"\4"), 0x82),
    ("alias 0", packet(0x30, text("t") + b"\3\x23\0\0"), 0x94),
    ("unknown alias", packet(0x30, text("") + b"\3\x23\0\1"), 0x82),
    ("neither topic nor alias", packet(0x30, text("") + b"\0"), 0x82),
    ("wildcard in a response topic", packet(0x30, text("t") + b"\4\x08\0\1#"), 0x82),
    ("oversized", b"\x30\x80\x80\x80\x01", 0x95),
    ("session expiry out of nothing", b"\xe0\x07\0\5\x11\0\0\0\1", 0x82),
]


@pytest.mark.parametrize(("what", "data", "reason"), BAD, ids=[case[0] for case in BAD])
async def test_who_breaks_the_protocol_is_told_and_left(house: AppHouse, what: str, data: bytes, reason: int) -> None:
    """[MQTT-4.13.1-1], [MQTT-4.13.2-1], and the statement of each."""
    program = await house.program()
    program.client.send(data)
    assert await program.client.receive() == bytes((0xE0, 1, reason)), what
    assert await program.client.receive() == b""


async def test_more_than_the_receive_maximum_is_too_much(house: AppHouse) -> None:
    """[MQTT-3.3.4-7]."""
    program = await house.program()
    for number in range(257):
        program.publish("t", b"", 2, number + 1)
    answers = [await program.client.receive() for _ in range(257)]
    assert answers[-1] == b"\xe0\1\x93"


async def test_permissions(house: AppHouse) -> None:
    """[MQTT-3.3.5-2] of 3.1.1; reason code 0x87 of version 5; and nothing forbidden is ever delivered."""
    await house.user("narrow", "home/+/set", "home/#")
    program = await house.program("narrow")
    assert await program.subscribe(("home/hall/#", 1), ("#", 1), ("$share/g/other", 0)) == [1, 0x87, 0x87]
    program.publish("home/hall", b"", 1, 1)
    assert await program.client.receive() == b"\x40\3\0\1\x87"
    program.publish("$SYS/x", b"", 2, 2)
    assert await program.client.receive() == b"\x50\3\0\2\x87"
    old = await house.program("narrow", "old", version=V4)
    assert await old.subscribe(("other", 1)) == [0x80]
    old.publish("other", b"", 1, 1)
    assert await old.client.receive() == b"\x40\2\0\1"
    await house.apps.allow("narrow", ["#"], ["cellar/#"])
    program.publish("home/hall/x", b"", 1, 3)
    assert (await program.client.receive())[:4] == b"\x40\2\0\3"
    assert await program.silent()
    assert len(house.security) == 6


async def test_keys(house: AppHouse) -> None:
    await house.program("nobody", expect=b"\x20\x03\0\x87")
    house.keys["u"] = "wrong"
    await house.program(expect=b"\x20\x03\0\x87")
    house.keys["d"] = house.key
    await house.program("d", expect=b"\x20\x03\0\x84")


async def test_extended_authentication_is_refused_politely(house: AppHouse) -> None:
    """Section 4.12: a server that does not know the method answers 0x8C."""
    await house.program(properties=Properties(authentication_method="SCRAM"), expect=b"\x20\x03\0\x8c")


async def test_a_user_that_is_removed_is_put_out(house: AppHouse) -> None:
    await house.user("v")
    program = await house.program("v", clean=False, properties=Properties(session_expiry=60))
    await house.apps.remove("v")
    assert await program.client.receive() == b"\xe0\1\x98"
    house.pass_seconds(1)
    await house.restart()
    assert not house.apps.broker.sessions
    assert "v" not in house.apps.broker.users


async def test_a_user_is_not_called_as_a_device_is(house: AppHouse) -> None:
    with pytest.raises(EdgeError, match="there is a device 'd'"):
        await house.user("d")
    with pytest.raises(EdgeError, match="not a topic filter"):
        await house.user("w", "a/#/b")
    with pytest.raises(EdgeError, match="already"):
        await house.user("u")


async def test_a_journal_without_room_is_not_hidden(house: AppHouse) -> None:
    program = await house.program()
    old = await house.program(client_id="old", version=V4)
    house.journal.inner.full = True
    program.publish("t", b"x", 1, 1, retain=True)
    assert await program.client.receive() == b"\x40\3\0\1\x97"
    program.publish("t", b"x", 1, 2)
    assert (await program.client.receive())[:4] == b"\x40\3\0\2"  # nobody is to have it: nothing to store
    old.publish("t", b"x", 1, 1, retain=True)
    assert await old.client.receive() == b""
    house.journal.inner.full = False
    assert len(house.apps.broker.retained) == 0


async def test_a_queue_has_an_end_and_what_is_given_up_is_counted(house: AppHouse) -> None:
    await house.open_apps(Limits(queue=2))
    receiver = await house.program(client_id="r", clean=False, properties=Properties(session_expiry=60))
    await receiver.subscribe(("t", 1))
    receiver.client.close()
    sender = await house.program(client_id="s")
    await eventually(lambda: house.apps.counters.connections == 1)
    for number in range(4):
        sender.publish("t", b"%d" % number, 1, number + 1)
        await sender.client.receive()
    assert house.apps.counters.dropped_full == 2
    assert any("queue full" in line for line in house.log)


async def test_events_of_devices_come_as_json_and_commands_go_in(house: AppHouse) -> None:

    program = await house.program()
    await program.subscribe(("/devices/+/events/#", 1))
    device = await house.device()
    device.send(event_packet(0, {"t": 21.5}))
    assert (await device.receive())[:2] == b"\x40\2"
    topic, payload, _, _, properties = await program.message()
    assert topic == "/devices/d/events/climate"
    assert msgspec.json.decode(payload)["data"] == {"t": 21.5}
    assert properties.content_type == "application/json"
    program.publish("/devices/d/commands/fan", b'{"on":true}', 1, 1)
    assert await program.client.receive() == b"\x40\2\0\1"
    (command,) = (await house.journal.tables()).outbox
    assert (command.device, command.name, command.args) == ("d", "fan", {"on": True})
    for pid, (where, payload, reason) in enumerate(
        [
            ("/devices/d/events/climate", b"1", 0x90),
            ("/devices/nobody/commands/fan", b"1", 0x90),
            ("/devices/d/commands/fan", b"{", 0x99),
        ],
        start=2,
    ):
        program.publish(where, payload, 1, pid)
        assert await program.client.receive() == b"\x40\3" + pid.to_bytes(2) + bytes((reason,))
    assert len(house.security) == 3


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_flood_is_read_no_further_than_the_journal_goes(house: AppHouse, qos: int) -> None:
    program = await house.program(version=V4)
    other = await house.program(client_id="other")
    house.journal.slow = True
    for number in range(3000):
        program.publish("t", bytes(1000), qos, number + 1 if qos else 0, retain=True)
    await eventually(lambda: len(house.journal.under_way) > 256)
    await eventually(lambda: program.client.unsent > 0)
    assert await other.silent()
    waiting = len(house.journal.under_way)
    assert waiting < 1000
    assert await other.silent(), "others are heard meanwhile"
    assert len(house.journal.under_way) == waiting
    house.journal.slow = False
    while house.journal.under_way:
        await house.journal.let_through(len(house.journal.under_way))
    await eventually(lambda: house.apps.counters.published == 3000)
    await eventually(lambda: house.door.unacknowledged == 0)


async def test_who_does_not_take_the_answers_is_asked_no_more(house: AppHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_connection, "MAX_OUTPUT", 1)
    program = await house.program()
    other = await house.program(client_id="other")
    connection = next(each for each in house.door._connections if "'c'" in each.name)
    connection.pause_writing()  # as asyncio says that the socket takes no more
    await program.client.ping()
    program.client.send(b"\xc0\0")
    assert await other.silent(), "others are heard meanwhile"
    assert await other.silent()
    assert not connection.dirty, "it is not read"
    connection.resume_writing()
    assert await program.client.receive() == b"\xd0\0"
    connection.pause_writing()
    await program.client.ping()
    house.pass_seconds(100)
    assert (await program.client.receive())[0] == 0xE0, "its silence counts"
