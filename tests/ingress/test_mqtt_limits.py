"""What the front door does not let anybody do to it, and what it does when the journal cannot keep up."""

from __future__ import annotations

import asyncio
import socket

import pytest

from edge_runtime.ingress.mqtt import MqttLimits
from edge_runtime.ingress.mqtt_connection import Connection
from edge_runtime.journal.records import DeadLetter
from edge_runtime.proto import mqtt
from tests.ingress.conftest import Build
from tests.ingress.mqtt_house import (
    Client,
    House,
    connect_packet,
    event_packet,
    eventually,
    subscribe_packet,
)

SEGMENT = 256 * 1024
"""What asyncio reads at most at a time."""

# Malformed and oversized


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"\xf0\0", "[MQTT-4.8.0-1]"),
        (mqtt.publish("a/#", b""), "[MQTT-3.3.2-2]"),
        (b"\x30\xff\xff\xff\x7f", "[mqtt.max_packet]"),
        (b"\x34\x05\0\1t\0\1", "QoS 2"),
        (connect_packet("d", "key"), "[MQTT-3.1.0-2]"),
    ],
)
async def test_a_bad_packet_closes_its_connection_alone_and_says_whose(house: House, bad: bytes, said: str) -> None:
    bystander = await house.device("e", await house.registry.add("e"))
    client = await house.device()
    client.send(event_packet(0), bad, event_packet(1))
    answers = [await client.receive() for _ in range(2)]
    assert answers[-1] == b""
    (line,) = house.log
    assert "'d' (127.0.0.1:" in line
    assert said in line
    assert [e.seq for e in house.journal.events] == [0]
    bystander.send(event_packet(0, device="e"))
    assert await bystander.receive() == mqtt.puback(1)
    assert house.door.counters.violations == 1


async def test_garbage_before_the_connect_is_cut_off(house: House) -> None:
    client = await house.client()
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert await client.receive() == b""
    assert "not a CONNECT" in house.log[0]


async def test_a_flood_of_bad_packets_does_not_flood_the_log(house: House) -> None:
    for _ in range(30):
        client = await house.client()
        client.send(b"\0\0")
        assert await client.receive() == b""
    assert len(house.log) == 20
    house.pass_seconds(30)
    client = await house.client()
    client.send(b"\0\0")
    assert await client.receive() == b""
    assert len(house.log) == 22
    assert "10 lines" in house.log[-2]


async def test_more_connections_than_allowed_are_turned_away(build: Build) -> None:
    house = await build(MqttLimits(max_connections=2))
    first, second = await house.device(), await house.device("e", await house.registry.add("e"))
    third = await house.client()
    assert await third.receive() == b""
    assert house.door.counters.turned_away == 1
    assert "turned away" in house.log[-1]
    assert [await c.ping() for c in (first, second)] == [mqtt.PINGRESP] * 2
    first.close()
    await eventually(lambda: house.door.counters.connections == 1)
    await house.device()


async def test_who_shows_no_key_makes_room_for_who_does(build: Build) -> None:
    house = await build(MqttLimits(max_connections=3))
    board = await house.device()
    idlers = [await house.client() for _ in range(2)]
    await eventually(lambda: house.door.counters.connections == 3)
    await house.device("e", await house.registry.add("e"))
    assert await idlers[0].receive() == b"", "the older of the two"
    assert await board.ping() == mqtt.PINGRESP
    idlers[1].send(connect_packet("f", await house.registry.add("f")))
    assert await idlers[1].receive() == b"\x20\x02\x00\x00"


# A journal that is full


async def test_a_full_journal_gets_no_puback_then_a_closed_connection_and_goes_on_later(house: House) -> None:
    client = await house.device()
    house.journal.inner.full = True
    client.send(event_packet(0))
    await eventually(lambda: house.door.counters.refused == 1)
    house.pass_seconds(4)
    house.journal.inner.full = False
    client.send(event_packet(1))
    house.pass_seconds(1)
    assert await client.receive() == b"", "neither of the two was acknowledged; the second was not even read"
    assert house.journal.events == []
    assert "could not be stored" in house.log[0]
    again = await house.device()
    again.send(event_packet(0), event_packet(1))
    assert [await again.receive() for _ in range(2)] == [mqtt.puback(1), mqtt.puback(2)]
    assert [e.seq for e in house.journal.events] == [0, 1]


async def test_behind_a_refused_message_nothing_is_acknowledged_any_more(house: House) -> None:
    client = await house.device()
    house.journal.inner.full = True
    client.send(event_packet(0))
    await eventually(lambda: house.door.counters.refused == 1)
    assert not house.door.deliver(house.order()), "what is about to be closed gets no commands"
    house.pass_seconds(5)
    assert await client.receive() == b""


async def test_a_refused_message_of_qos_0_is_counted_and_that_is_all(house: House) -> None:
    client = await house.device()
    house.journal.inner.full = True
    client.send(event_packet(0, qos=0))
    await eventually(lambda: house.door.counters.refused == 1)
    house.pass_seconds(10)
    assert await client.ping() == mqtt.PINGRESP


async def test_a_full_journal_refuses_dead_letters_too(house: House) -> None:
    client = await house.device()
    house.journal.inner.full = True
    client.send(mqtt.publish("/devices/d/events/climate", b"junk", qos=1, packet_id=1))
    await eventually(lambda: house.door.counters.refused == 1)
    house.pass_seconds(5)
    assert await client.receive() == b""
    assert not [r for r in house.journal.inner.records() if isinstance(r, DeadLetter)]


# A journal that is slow


async def settle_all(house: House, done: asyncio.Event) -> None:
    while not done.is_set():
        await house.journal.let_through(len(house.journal.under_way))
        await asyncio.sleep(0)


async def receive_pubacks(client: Client, count: int) -> None:
    for number in range(count):
        assert await client.receive() == mqtt.puback(number % 65_535 + 1)


@pytest.mark.parametrize(("size", "limits"), [
    (20, MqttLimits(max_unacknowledged=50)),
    (4000, MqttLimits(max_unacknowledged_bytes=100_000)),
    (4000, MqttLimits(max_unacknowledged_total=100_000)),
])  # fmt: skip
async def test_a_device_that_does_not_wait_is_read_no_more_until_the_journal_has_caught_up(
    build: Build, size: int, limits: MqttLimits
) -> None:
    house = await build(limits)
    client = await house.device()
    house.journal.slow = True
    flood = [event_packet(i, "x" * size) for i in range(2_000_000 // (size + 80))]
    client.send(*flood)
    door = house.door
    await eventually(lambda: all(isinstance(c, Connection) and c._paused for c in door._connections))
    received = door.counters.messages
    bound = SEGMENT // len(flood[0]) + min(50 if size == 20 else 10**9, 100_000 // size if size == 4000 else 10**9)
    assert received <= bound + 2
    assert client.unsent > 500_000, "the rest waits on the device's side"
    house.pass_seconds(200)
    assert door.counters.connections == 1, "it is not its silence"
    assert door.counters.messages == received
    done = asyncio.Event()
    settling = asyncio.ensure_future(settle_all(house, done))
    await receive_pubacks(client, len(flood))
    done.set()
    await settling
    assert door.unacknowledged == 0
    assert await client.ping() == mqtt.PINGRESP


async def test_one_who_sends_too_much_does_not_hold_up_another(build: Build) -> None:
    house = await build(MqttLimits(max_unacknowledged=10))
    noisy, quiet = await house.device(), await house.device("e", await house.registry.add("e"))
    house.journal.slow = True
    noisy.send(*(event_packet(i) for i in range(20)))
    await eventually(lambda: len(house.journal.under_way) == 20)
    quiet.send(event_packet(0, device="e"))
    await eventually(lambda: len(house.journal.under_way) == 21)
    await house.journal.finish(20)
    assert await quiet.receive() == mqtt.puback(1)


async def test_when_all_together_sent_too_much_those_who_sent_are_held_and_all_go_on_later(build: Build) -> None:
    house = await build(MqttLimits(max_unacknowledged_total=1_000))
    names = ["d", "e", "f"]
    keys = [house.key, await house.registry.add("e"), await house.registry.add("f")]
    noisy, late, idle = [await house.device(n, k) for n, k in zip(names, keys, strict=True)]
    house.journal.slow = True
    noisy.send(*(event_packet(i, "x" * 100) for i in range(10)))
    await eventually(lambda: len(house.journal.under_way) == 10)
    late.send(event_packet(0, device="e"))
    await eventually(lambda: len(house.journal.under_way) == 11)
    late.send(event_packet(1, device="e"))
    assert await idle.ping() == mqtt.PINGRESP, "who sends no events is not concerned"
    await house.journal.finish(10)
    assert await late.receive() == mqtt.puback(1)
    assert house.door.held, "all it sent is durable, but there is no room for more yet"
    await house.journal.let_through(10)
    assert [await noisy.receive() for _ in range(10)] == [mqtt.puback(i) for i in range(1, 11)]
    await eventually(lambda: len(house.journal.under_way) == 1)
    await house.journal.let_through(1)
    assert await late.receive() == mqtt.puback(2)
    assert not house.door.held


async def test_a_device_that_does_not_read_is_read_no_more(house: House) -> None:
    client = await house.device()
    client._reader._transport.pause_reading()  # type: ignore[attr-defined]
    (connection,) = house.door._connections
    assert connection._transport is not None
    connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    client.send(b"\xc0\0" * 1_000_000)
    await eventually(lambda: connection._writing_paused)
    assert isinstance(connection, Connection)
    assert connection._paused
    assert connection._transport.get_write_buffer_size() <= 2 * SEGMENT
    assert client.unsent > 500_000
    house.pass_seconds(93)
    await eventually(lambda: house.door.counters.connections == 1)
    house.pass_seconds(11)
    await eventually(lambda: house.door.counters.connections == 0)


async def test_messages_of_a_gone_connection_are_still_stored_and_leave_nothing_behind(house: House) -> None:
    client = await house.device()
    house.journal.slow = True
    client.send(event_packet(0), event_packet(1))
    await eventually(lambda: len(house.journal.under_way) == 2)
    client.close()
    await eventually(lambda: house.door.counters.connections == 0)
    await house.journal.let_through(2)
    await eventually(lambda: house.door.unacknowledged == 0)
    assert len(house.journal.events) == 2
    assert house.door.counters.acknowledged == 0


# Time


async def test_a_silent_device_is_closed_after_one_and_a_half_keep_alives(house: House) -> None:
    client = await house.device(keep_alive=10)
    house.pass_seconds(14)
    assert await client.ping() == mqtt.PINGRESP, "[MQTT-3.1.2-24]: not before 15 s"
    house.pass_seconds(15)
    assert await client.ping() == mqtt.PINGRESP
    house.pass_seconds(17)
    assert await client.receive() == b""
    assert "keep-alive" in house.log[-1]


async def test_without_a_keep_alive_the_idle_limit_counts(build: Build) -> None:
    house = await build(MqttLimits(idle=100))
    client = await house.device(keep_alive=0)
    house.pass_seconds(99)
    assert await client.ping() == mqtt.PINGRESP
    house.pass_seconds(100)
    assert await client.receive() == b""


async def test_while_the_gateway_stood_still_nobody_was_silent(house: House) -> None:
    client = await house.device(keep_alive=10)
    house.clock.advance(3600_000_000)
    house.door.tick()
    assert await client.ping() == mqtt.PINGRESP


async def test_who_sends_no_connect_is_closed_however_slowly_he_begins(house: House) -> None:
    client = await house.client()
    packet = connect_packet("d", house.key)
    for index in range(10):
        client.send(packet[index : index + 1])
        await asyncio.sleep(0)
        house.pass_seconds(1)
    await eventually(lambda: house.door.counters.connections == 1)
    house.pass_seconds(1)
    assert await client.receive() == b""
    assert "no CONNECT" in house.log[0]


async def test_who_fails_again_and_again_waits_for_his_refusal(house: House) -> None:
    async def attempt() -> Client:
        client = await house.client()
        client.send(connect_packet("d", "wrong"))
        return client

    for _ in range(3):
        assert await (await attempt()).receive() == b"\x20\x02\x00\x05"
    for seconds in (1, 2, 4):
        client = await attempt()
        failures = 3 + seconds.bit_length()
        await eventually(lambda failures=failures: house.door.counters.failed_logins == failures)  # type: ignore[misc]
        house.pass_seconds(seconds - 1)
        (connection,) = house.door._connections
        assert connection.deadline == house.door.wheel.now + 1
        house.pass_seconds(1)
        assert await client.receive() == b"\x20\x02\x00\x05"
        assert await client.receive() == b""
    await house.device()  # the right key does not wait


async def test_the_deadline_of_a_delayed_refusal_is_short_even_if_the_peer_has_gone(house: House) -> None:
    for _ in range(8):
        client = await house.client()
        client.send(connect_packet("d", "wrong"))
    await eventually(lambda: house.door.counters.failed_logins == 8)
    for client in house.clients:
        client.close()
    house.pass_seconds(10)
    await eventually(lambda: house.door.counters.connections == 0)


async def test_a_hundred_topics_leave_a_bounded_memory(house: House) -> None:
    client = await house.device()
    client.send(subscribe_packet(1, ("/devices/d/commands/#", 1)))
    await client.receive()
    for number in range(200):
        client.send(mqtt.publish(f"/devices/d/events/kind{number}", b"", qos=1, packet_id=1))
        assert await client.receive() == mqtt.puback(1)
    (connection,) = house.door._connections
    assert isinstance(connection, Connection)
    assert len(connection._routes) <= 64


async def test_a_hundred_thousand_tiny_packets_leave_turns_to_others(house: House) -> None:
    noisy, quiet = await house.device(), await house.device("e", await house.registry.add("e"))
    (connection,) = [each for each in house.door._connections if "'d'" in each.name]
    connection.data_received(b"\xc0\0" * 100_000)
    assert await quiet.ping() == mqtt.PINGRESP
    assert connection._turns is not None
    rest = connection._turns.end()
    assert len(rest) > 100_000, "most of it has waited meanwhile"
    assert await noisy.receive() == mqtt.PINGRESP
