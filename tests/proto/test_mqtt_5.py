"""MQTT 5.0 on the wire: what the codec takes, gives back, and refuses, by the statements of the standard."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.proto import mqtt
from edge_runtime.proto.mqtt import properties as props
from edge_runtime.proto.mqtt.fields import Fields
from edge_runtime.proto.mqtt.properties import Properties, text, variable, write
from edge_runtime.proto.mqtt.topics import shared


def packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + variable(len(body)) + body


def connect(flags: int = 2, properties: bytes = b"\0", rest: bytes = b"") -> bytes:
    return packet(0x10, text("MQTT") + bytes((5, flags, 0, 60)) + properties + rest)


CONNECT = connect(rest=text("c"))


def machine(max_packet: int = 2000) -> mqtt.ServerMachine:
    found = mqtt.ServerMachine(max_packet=max_packet)
    (first,) = found.feed(CONNECT)
    assert isinstance(first, mqtt.Connect)
    assert first.version == 5
    return found


def violation(found: mqtt.ServerMachine, data: bytes) -> mqtt.ProtocolViolation:
    (last,) = found.feed(data)
    assert isinstance(last, mqtt.ProtocolViolation)
    return last


def test_a_connect_with_everything() -> None:
    will = write(Properties(will_delay=5, message_expiry=9, content_type="t"))
    rest = text("c") + will + text("w") + b"\0\1x" + text("u") + b"\0\1p"
    (found,) = mqtt.ServerMachine().feed(
        connect(0xEE, write(Properties(session_expiry=7, receive_maximum=3, user=(("a", "b"), ("a", "c")))), rest)
    )
    assert isinstance(found, mqtt.Connect)
    assert (found.client_id, found.user_name, found.password, found.clean_session) == ("c", "u", b"p", True)
    assert found.properties == Properties(session_expiry=7, receive_maximum=3, user=(("a", "b"), ("a", "c")))
    assert found.will == mqtt.Will("w", b"x", 1, True, Properties(will_delay=5, message_expiry=9, content_type="t"))
    assert "p'" not in repr(found)


def test_in_version_5_a_password_needs_no_user_name_and_an_empty_id_no_clean_start() -> None:
    """Section 3.1.2.9 and [MQTT-3.1.3-6]."""
    (found,) = mqtt.ServerMachine().feed(connect(0x40, b"\0", text("") + b"\0\1p"))
    assert isinstance(found, mqtt.Connect)
    assert (found.client_id, found.password) == ("", b"p")


BAD_CONNECTS = [
    ("MQTT-3.1.2-3", connect(3, rest=text("c")), 0x81),
    ("MQTT-3.1.2-11", connect(0x22, rest=text("c")), 0x81),
    ("MQTT-3.1.2-14", connect(0x1E, rest=text("c")), 0x81),
    ("MQTT-1.5.5-1", connect(2, b"\x80\0", text("c")), 0x81),
    ("2.2.2.2", connect(2, b"\3\x21\0\0", text("c")), 0x82),  # receive maximum 0: section 3.1.2.11.3
    ("2.2.2.2", connect(2, b"\5\x27\0\0\0\0", text("c")), 0x82),  # maximum packet size 0: section 3.1.2.11.4
    ("2.2.2.2", connect(2, b"\2\x19\2", text("c")), 0x82),  # request response information 2
    ("2.2.2.2", connect(2, b"\4\x19\0\x19\0", text("c")), 0x82),  # twice
    ("2.2.2.2", connect(2, b"\2\x25\1", text("c")), 0x81),  # what only a CONNACK may have
    ("3.1.2.11.10", connect(2, b"\4\x16\0\1x", text("c")), 0x82),  # authentication data without a method
    ("MQTT-4.8.0-1", connect(2, b"\7\x21", text("c")), 0x81),  # properties that end beyond the packet
    ("MQTT-3.3.2-2", connect(6, rest=text("c") + b"\0" + text("#") + b"\0\0"), 0x81),
]


@pytest.mark.parametrize(("statement", "data", "reason"), BAD_CONNECTS)
def test_what_must_not_stand_in_a_connect(statement: str, data: bytes, reason: int) -> None:
    found = violation(mqtt.ServerMachine(), data)
    assert (found.statement, found.reason) == (statement, reason)


BAD_PACKETS = [
    ("MQTT-1.5.3-1", packet(0x30, b"\0\1\xff\0"), 0x81),  # [MQTT-1.5.4-1] of version 5
    ("MQTT-1.5.3-2", packet(0x30, text("a\0") + b"\0"), 0x81),  # [MQTT-1.5.4-2]
    ("MQTT-2.3.1-1", packet(0x32, text("t") + b"\0\0\0"), 0x82),  # [MQTT-2.2.1-3]
    ("MQTT-3.3.1-2", packet(0x38, text("t") + b"\0"), 0x81),
    ("MQTT-3.3.1-4", packet(0x36, text("t") + b"\0\1\0"), 0x81),
    ("MQTT-3.3.4-6", packet(0x30, text("t") + b"\2\x0b\1"), 0x82),
    ("MQTT-3.3.2-14", packet(0x30, text("t") + b"\5\x08\0\2a+"), 0x82),
    ("MQTT-4.7.3-1", packet(0x30, text("") + b"\0"), 0x82),
    ("MQTT-3.8.1-1", packet(0x80, b"\0\1\0" + text("t") + b"\0"), 0x81),
    ("MQTT-3.8.3-3", packet(0x82, b"\0\1\0"), 0x82),  # [MQTT-3.8.3-2]
    ("MQTT-3.8.3-4", packet(0x82, b"\0\1\0" + text("t") + b"\3"), 0x82),
    ("MQTT-3.8.3-5", packet(0x82, b"\0\1\0" + text("t") + b"\x40"), 0x81),
    ("3.8.3.1", packet(0x82, b"\0\1\0" + text("t") + b"\x30"), 0x82),
    ("MQTT-3.8.3-4", packet(0x82, b"\0\1\0" + text("$share/g/t") + b"\4"), 0x82),
    ("MQTT-4.8.2-1", packet(0x82, b"\0\1\0" + text("$share/g/") + b"\0"), 0x82),
    ("MQTT-4.8.2-2", packet(0x82, b"\0\1\0" + text("$share/+/t") + b"\0"), 0x82),
    ("2.2.2.2", packet(0x82, b"\0\1\2\x0b\0" + text("t") + b"\0"), 0x82),  # subscription identifier 0
    ("2.2.2.2", packet(0x82, b"\0\1\4\x0b\1\x0b\2" + text("t") + b"\0"), 0x82),  # two of them
    ("MQTT-3.10.3-2", packet(0xA2, b"\0\1\0"), 0x82),
    ("MQTT-3.6.1-1", packet(0x60, b"\0\1"), 0x81),
    ("MQTT-2.2.2-2", packet(0xF1, b""), 0x81),  # [MQTT-3.15.1-1]
    ("MQTT-2.2.2-2", packet(0xE1, b""), 0x81),  # [MQTT-3.14.1-1]
    ("MQTT-4.8.0-1", packet(0xE0, b"\0\0?"), 0x81),
    ("MQTT-3.1.0-2", CONNECT, 0x82),
    ("mqtt.max_packet", b"\x30\x80\x80\x80\x01", 0x95),
    ("mqtt.limits", packet(0x30, text("t") + variable(65 * 5) + b"\x26\0\0\0\0" * 65), 0x81),
]


@pytest.mark.parametrize(("statement", "data", "reason"), BAD_PACKETS)
def test_what_must_not_come_after_it(statement: str, data: bytes, reason: int) -> None:
    found = violation(machine(), data)
    assert (found.statement, found.reason) == (statement, reason)


def test_the_packets_of_version_5() -> None:
    data = (
        mqtt.version5.publish("t", b"x", Properties(topic_alias=1), qos=2, packet_id=9, dup=True, retain=True)
        + packet(0x30, text("") + b"\3\x23\0\1" + b"y")
        + b"\x40\2\0\1\x50\3\0\2\x10\x62\4\0\3\x92\0\x70\2\0\4"
        + packet(0x82, b"\0\5\2\x0b\x07" + text("$share/g/+") + b"\x1a")
        + packet(0xA2, b"\0\6\0" + text("a"))
        + packet(0xF0, b"\x18\0")
        + packet(0xE0, b"\4\5\x11\0\0\0\7")
    )
    assert machine().feed(data) == [
        mqtt.Publication("t", b"x", 2, 9, True, True, Properties(topic_alias=1)),
        mqtt.Publication("", b"y", 0, 0, False, False, Properties(topic_alias=1)),
        mqtt.PubAck(1),
        mqtt.PubRec(2, 0x10),
        mqtt.PubRel(3, 0x92),
        mqtt.PubComp(4),
        mqtt.Subscribe(5, [("$share/g/+", 0x1A)], Properties(subscription_ids=(7,))),
        mqtt.Unsubscribe(6, ["a"]),
        mqtt.Auth(0x18),
        mqtt.Disconnect(4, Properties(session_expiry=7)),
    ]


def test_encoders_give_the_bytes_of_the_standard() -> None:
    five = mqtt.version5
    assert five.connack(0, session_present=True) == b"\x20\3\1\0\0"
    assert five.connack(0x87, session_present=True) == b"\x20\3\0\x87\0"  # [MQTT-3.2.2-6]
    assert five.acknowledgement(five.PUBACK, 258) == b"\x40\2\1\2"
    assert five.acknowledgement(five.PUBREC, 258, 0x97) == b"\x50\3\1\2\x97"
    assert five.suback(1, [2, 0x87]) == b"\x90\5\0\1\0\2\x87"
    assert five.unsuback(1, [0, 0x11]) == b"\xb0\5\0\1\0\0\x11"
    assert five.disconnect(0x8E) == b"\xe0\1\x8e"


def test_shared_filters() -> None:
    """Section 4.8.2."""
    assert shared("$share/g/a/+") == ("g", "a/+")
    assert shared("share/g/a") is None


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
OF_A_MESSAGE: dict[str, st.SearchStrategy[Any]] = {
    "payload_format": st.sampled_from((0, 1)),
    "message_expiry": st.integers(0, 2**32 - 1),
    "content_type": TEXT,
    "correlation_data": st.binary(max_size=20),
    "topic_alias": st.integers(0, 65_535),
    "user": st.lists(st.tuples(TEXT, TEXT), max_size=5).map(tuple),
    "subscription_ids": st.lists(st.integers(1, 268_435_455), max_size=5).map(tuple),
}
MESSAGE = st.fixed_dictionaries({}, optional=OF_A_MESSAGE).map(lambda values: Properties(**values))


@given(MESSAGE)
def test_properties_come_back_as_they_were(properties: Properties) -> None:
    fields = Fields(write(properties))
    assert props.read(fields, props.PUBLISH) == properties
    assert fields.left == 0


@given(st.integers(0, 268_435_455))
def test_variable_byte_integers_come_back(number: int) -> None:
    assert Fields(variable(number)).variable("a number") == number


@given(st.lists(st.binary(max_size=200), max_size=10), st.booleans())
def test_garbage_neither_crashes_nor_piles_up(segments: list[bytes], connected: bool) -> None:
    found = machine(300) if connected else mqtt.ServerMachine(max_packet=300)
    for segment in segments:
        packets = found.feed(segment)
        assert not any(isinstance(p, mqtt.ProtocolViolation) for p in packets[:-1])
        assert found.buffered <= 300


@given(st.integers(0x10, 0xFF), st.binary(max_size=100))
def test_any_body_of_any_packet_is_read_or_refused(first: int, body: bytes) -> None:
    for item in machine().feed(packet(first, body)):
        assert isinstance(item, mqtt.Packet | mqtt.ProtocolViolation)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_properties_of_a_connect_are_read_or_refused(properties: bytes, rest: bytes) -> None:
    mqtt.ServerMachine().feed(connect(0xC6, variable(len(properties)) + properties, rest))


def test_many_properties_take_no_more_memory_than_the_packet_allows() -> None:
    found = machine(60_000)
    data = packet(0x30, text("t") + variable(50_000) + b"\x26\0\0\0\0" * 10_000)
    tracemalloc.start()
    try:
        assert isinstance(found.feed(data)[0], mqtt.ProtocolViolation)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(data)
