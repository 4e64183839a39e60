"""The front door over real sockets: who comes in, what is acknowledged, what is delivered."""

from __future__ import annotations

import asyncio
import socket

import cbor2
import pytest
import uvloop

from edge_runtime import wire
from edge_runtime.errors import EdgeError
from edge_runtime.journal.records import CommandEnd, DeadLetter
from edge_runtime.proto import mqtt
from tests.ingress.mqtt_house import (
    House,
    connect_packet,
    event_packet,
    event_payload,
    eventually,
    subscribe_packet,
    unsubscribe_packet,
)

COMMANDS = "/devices/d/commands/#"


async def test_an_event_comes_in_and_is_acknowledged(house: House) -> None:
    client = await house.device()
    client.send(event_packet(7))
    assert await client.receive() == mqtt.puback(8)
    (event,) = house.journal.events
    assert (event.device, event.kind, event.seq) == ("d", "climate", 7)
    assert house.door.counters.acknowledged == house.door.latency.count == 1


async def test_no_acknowledgement_before_the_journal_says_durable(house: House) -> None:
    client = await house.device()
    house.journal.slow = True
    client.send(event_packet(0), event_packet(1))
    assert await client.ping() == mqtt.PINGRESP, "the answer to what was sent last comes first: nothing is acknowledged"
    assert len(house.journal.under_way) == 2
    await house.journal.let_through(1)
    assert await client.receive() == mqtt.puback(1)
    assert await client.ping() == mqtt.PINGRESP
    await house.journal.let_through(1)
    assert await client.receive() == mqtt.puback(2)


async def test_acknowledgements_keep_the_order_of_the_messages(house: House) -> None:
    client = await house.device()
    house.journal.slow = True
    client.send(event_packet(0), event_packet(1), event_packet(2, qos=0), event_packet(3))
    await eventually(lambda: len(house.journal.under_way) == 4)
    await house.journal.finish(3)
    await house.journal.finish(1)
    assert await client.ping() == mqtt.PINGRESP, "[MQTT-4.6.0-2]: the first is not durable yet"
    await house.journal.finish(0)
    assert [await client.receive() for _ in range(2)] == [mqtt.puback(1), mqtt.puback(2)]
    await house.journal.finish(0)
    assert await client.receive() == mqtt.puback(4)


async def test_duplicates_and_unreadable_messages_are_acknowledged(house: House) -> None:
    client = await house.device()
    client.send(
        event_packet(0),
        event_packet(0),
        mqtt.publish("/devices/d/events/climate", b"junk", qos=1, packet_id=9),
        mqtt.publish("/devices/d/events/no kind", event_payload(1), qos=1, packet_id=10),
        mqtt.publish("/devices/d/whatever", b"", qos=1, packet_id=11),
    )
    assert [await client.receive() for _ in range(5)] == [mqtt.puback(i) for i in (1, 1, 9, 10, 11)]
    assert len(house.journal.events) == 1
    letters = [r for r in house.journal.inner.records() if isinstance(r, DeadLetter)]
    assert [letter.topic.rpartition("/")[2] for letter in letters] == ["climate", "no kind", "whatever"]
    assert (house.door.counters.duplicates, house.door.counters.dead) == (1, 3)


async def test_qos_0_enters_the_log_without_an_acknowledgement(house: House) -> None:
    client = await house.device()
    client.send(event_packet(0, qos=0))
    assert await client.ping() == mqtt.PINGRESP
    await eventually(lambda: len(house.journal.events) == 1)


async def test_a_batch_comes_in(house: House) -> None:
    client = await house.device()
    batch = cbor2.dumps({0: b"8 bytes.", 1: 0, 2: 0, 5: [[0, "a", 1], [1, "b", 2]]})
    client.send(mqtt.publish("/devices/d/events", batch, qos=1, packet_id=3))
    assert await client.receive() == mqtt.puback(3)
    assert [e.kind for e in house.journal.events] == ["a", "b"]


# Who comes in


async def test_a_wrong_key_is_refused_with_code_5_and_a_security_line(house: House) -> None:
    client = await house.client()
    client.send(connect_packet("d", "not-the-key"), event_packet(0))
    assert await client.receive() == b"\x20\x02\x00\x05"
    assert await client.receive() == b""
    (line,) = house.security
    assert "'d'" in line
    assert "127.0.0.1" in line
    assert "not-the-key" not in line
    assert house.journal.events == [], "[MQTT-3.1.4-5]: what came behind the CONNECT is not processed"


@pytest.mark.parametrize("device", ["unknown", "d"])
async def test_unknown_and_blocked_devices_get_the_same_answer(house: House, device: str) -> None:
    await house.registry.block("d")
    client = await house.client()
    client.send(connect_packet(device, house.key))
    assert await client.receive() == b"\x20\x02\x00\x05"


@pytest.mark.parametrize(("device", "key"), [(None, None), ("d", None), ("", "key"), ("a/b", "key"), ("a\nb", "key")])
async def test_what_are_no_credentials_at_all_gets_code_4(house: House, device: str | None, key: str | None) -> None:
    client = await house.client()
    client.send(connect_packet(device, key))
    assert await client.receive() == b"\x20\x02\x00\x04"
    assert await client.receive() == b""
    (line,) = house.security
    assert "\n" not in line


async def test_another_protocol_level_gets_code_1(house: House) -> None:
    client = await house.client()
    client.send(connect_packet("d", house.key).replace(b"MQTT\4", b"MQTT\6"))
    assert await client.receive() == b"\x20\x02\x00\x01"
    assert await client.receive() == b""


async def test_subscribing_before_the_connack_works(house: House) -> None:
    client = await house.client()
    client.send(connect_packet("d", house.key), subscribe_packet(1, (COMMANDS, 1)), event_packet(0))
    assert await client.receive() == b"\x20\x02\x00\x00"
    assert await client.receive() == mqtt.suback(1, [1])
    assert await client.receive() == mqtt.puback(1)


async def test_a_second_connection_of_a_device_takes_over(house: House) -> None:
    first = await house.device()
    second = await house.device()
    assert await first.receive() == b""
    second.send(event_packet(0), subscribe_packet(1, (COMMANDS, 1)))
    assert {await second.receive() for _ in range(2)} == {mqtt.puback(1), mqtt.suback(1, [1])}
    assert house.door.deliver(house.order()), "the end of the first did not take the device away"


async def test_a_wrong_key_does_not_throw_out_who_has_the_right_one(house: House) -> None:
    client = await house.device()
    thief = await house.client()
    thief.send(connect_packet("d", "x" * 43))
    assert await thief.receive() == b"\x20\x02\x00\x05"
    assert await client.ping() == mqtt.PINGRESP


@pytest.mark.parametrize("change", ["block", "rotate"])
async def test_a_blocked_device_or_voided_key_loses_its_connection(house: House, change: str) -> None:
    client = await house.device()
    await getattr(house.registry, change)("d")
    assert await client.receive() == b""


async def test_disconnect_closes_and_nothing_behind_it_counts(house: House) -> None:
    client = await house.device()
    client.send(b"\xe0\0", event_packet(0))
    assert await client.receive() == b""
    assert house.journal.events == []


async def test_a_will_and_a_retain_flag_are_ignored_and_the_will_is_told(house: House) -> None:
    client = await house.client()
    fields = [b"", b"t", b"gone", b"d", house.key.encode()]
    body = b"\0\4MQTT\4\xe6\0\x3c" + b"".join(len(f).to_bytes(2) + f for f in fields)
    client.send(bytes((0x10, len(body))) + body)
    assert await client.receive() == b"\x20\x02\x00\x00"
    (line,) = house.log
    assert "will" in line
    packet = event_packet(0)
    client.send(bytes((packet[0] | 1,)) + packet[1:])
    assert await client.receive() == mqtt.puback(1)
    client.close()
    await eventually(lambda: house.door.counters.connections == 0)
    assert len(house.journal.inner.records()) == 2, "the device and its event"


# Where a device may go


async def test_publishing_outside_its_own_tree_closes_the_connection(house: House) -> None:
    await house.registry.add("e")
    for topic in ("/devices/e/events/climate", "/devices/dd/events/x", "devices/d/events/x", "/devices/d", "anything"):
        client = await house.device()
        client.send(mqtt.publish(topic, event_payload(0), qos=1, packet_id=1))
        assert await client.receive() == b""
        line = house.security.pop()
        assert "'d'" in line
        assert topic in line
    assert house.journal.events == []


async def test_subscribing_outside_its_own_tree_is_refused_filter_by_filter(house: House) -> None:
    client = await house.device()
    client.send(subscribe_packet(1, ("#", 0), (COMMANDS, 2), ("/devices/+/commands/#", 1), ("/devices/d2/#", 0)))
    assert await client.receive() == mqtt.suback(1, [0x80, 1, 0x80, 0x80])
    assert len(house.security) == 3
    assert await client.ping() == mqtt.PINGRESP


async def test_subscriptions_are_bounded(house: House) -> None:
    client = await house.device()
    for number in range(20):
        client.send(subscribe_packet(1, (f"/devices/d/x/{number}", 0)))
    answers = [await client.receive() for _ in range(20)]
    assert answers == [mqtt.suback(1, [0])] * 16 + [mqtt.suback(1, [0x80])] * 4


# Commands


async def test_a_command_reaches_a_listening_device_and_its_reply_ends_it(house: House) -> None:
    command = house.order()
    await house.journal.inner.append([command])
    assert not house.door.deliver(command), "not connected"
    client = await house.device()
    assert not house.door.deliver(command), "not listening"
    client.send(subscribe_packet(1, (COMMANDS, 1)))
    assert await client.receive() == mqtt.suback(1, [1])
    assert house.listening == ["d"]
    assert house.door.deliver(command)
    message = wire.CommandMessage(command.id, command.expires, "fan", {"on": True}, None)
    assert await client.receive() == mqtt.publish(
        "/devices/d/commands/fan", wire.encode_command(message), qos=1, packet_id=1
    )
    client.send(mqtt.puback(1))
    client.send(mqtt.publish("/devices/d/replies", cbor2.dumps({0: command.id, 1: 0, 2: "on"}), qos=1, packet_id=5))
    assert await client.receive() == mqtt.puback(5)
    assert house.journal.inner.records()[-1] == CommandEnd(command.id, "d", wire.DONE, "on", house.clock.now())


async def test_commands_redelivered_from_the_listening_callback_come_behind_the_suback(house: House) -> None:
    house.door.on_listening = lambda device: [house.door.deliver(house.order(i)) for i in range(2)].clear()
    client = await house.device()
    client.send(subscribe_packet(1, (COMMANDS, 1)))
    packets = [await client.receive() for _ in range(3)]
    assert [p[0] for p in packets] == [0x90, 0x32, 0x32]


async def test_a_command_in_flight_is_not_sent_twice_on_one_connection(house: House) -> None:
    client = await house.device()
    client.send(subscribe_packet(1, (COMMANDS, 1)))
    await client.receive()
    assert house.door.deliver(house.order())
    assert house.door.deliver(house.order())
    assert (await client.receive())[0] == 0x32
    assert await client.ping() == mqtt.PINGRESP
    client.send(mqtt.puback(1))
    assert await client.ping() == mqtt.PINGRESP
    assert house.door.deliver(house.order()), "acknowledged, yet no reply: it is sent again"
    assert (await client.receive())[0] == 0x32


async def test_commands_in_flight_are_bounded(house: House) -> None:
    client = await house.device()
    client.send(subscribe_packet(1, (COMMANDS, 1)))
    await client.receive()
    assert [house.door.deliver(house.order(i)) for i in range(33)] == [True] * 32 + [False]
    ids = [int.from_bytes((await client.receive())[27:29]) for _ in range(32)]
    assert ids == list(range(1, 33))
    client.send(mqtt.puback(7))
    assert await client.ping() == mqtt.PINGRESP
    assert house.door.deliver(house.order(33))


async def test_a_subscription_of_qos_0_gets_qos_0(house: House) -> None:
    client = await house.device()
    client.send(subscribe_packet(1, ("/devices/d/commands/fan", 0)))
    assert await client.receive() == mqtt.suback(1, [0])
    assert house.door.deliver(house.order())
    assert (await client.receive())[0] == 0x30
    assert not house.door.deliver(house.order(name="light")), "subscribed to another command"


async def test_after_unsubscribing_nothing_is_delivered(house: House) -> None:
    client = await house.device()
    client.send(subscribe_packet(1, (COMMANDS, 1)), unsubscribe_packet(2, COMMANDS), unsubscribe_packet(3, "never/had"))
    answers = [await client.receive() for _ in range(3)]
    assert answers == [mqtt.suback(1, [1]), mqtt.unsuback(2), mqtt.unsuback(3)]  # [MQTT-3.10.4-5]
    assert not house.door.deliver(house.order())


async def test_a_gone_device_is_not_delivered_to(house: House) -> None:
    client = await house.device()
    client.send(subscribe_packet(1, (COMMANDS, 1)))
    await client.receive()
    assert house.door.connected() == {"d"}
    client.close()
    await eventually(lambda: house.door.counters.connections == 0)
    assert house.door.connected() == set()
    assert not house.door.deliver(house.order())


# Starting and stopping


async def test_a_port_in_use_is_told_with_the_setting(house: House) -> None:
    with pytest.raises(EdgeError, match=rf"127\.0\.0\.1:{house.port}: the port is in use") as error:
        await house.door.start("127.0.0.1", house.port)
    assert "mqtt.listen" in error.value.hint


async def test_an_impossible_address_is_told_with_the_setting(house: House) -> None:
    with pytest.raises(EdgeError, match="cannot listen") as error:
        await house.door.start("192.0.2.1", 0)
    assert "mqtt.listen" in error.value.hint


async def test_a_stop_acknowledges_what_is_being_stored_and_then_closes(house: House) -> None:
    busy, idle = await house.device(), await house.device("e", await house.registry.add("e"))
    house.journal.slow = True
    busy.send(event_packet(0))
    await eventually(lambda: len(house.journal.under_way) == 1)
    stopping = asyncio.ensure_future(house.door.stop())
    assert await idle.receive() == b""
    assert not stopping.done()
    await house.journal.let_through(1)
    assert await busy.receive() == mqtt.puback(1)
    assert await busy.receive() == b""
    await stopping
    with pytest.raises(ConnectionRefusedError):
        await house.client()


async def test_segments_leave_at_once(house: House) -> None:
    await house.device()
    (connection,) = house.door._connections
    assert connection._transport is not None
    sock = connection._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_same_on_uvloop() -> None:
    async def story() -> None:
        house = await House.build()
        try:
            client = await house.device()
            client.send(subscribe_packet(1, (COMMANDS, 1)), event_packet(0))
            assert {await client.receive() for _ in range(2)} == {mqtt.suback(1, [1]), mqtt.puback(1)}
            assert house.door.deliver(house.order())
            assert (await client.receive())[0] == 0x32
            client.send(b"\x00\x00")
            assert await client.receive() == b""
            thief = await house.client()
            thief.send(connect_packet("d", "x" * 43))
            assert await thief.receive() == b"\x20\x02\x00\x05"
            assert await thief.receive() == b""
        finally:
            await house.tear_down()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())
