"""The MQTT machine against the normative statements of MQTT 3.1.1, by their names in the standard."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.proto import mqtt

CONNECT = bytes.fromhex("100c00044d5154540402003c0000")  # clean session, keep-alive 60, empty client id


def machine_after_connect(**limits: int) -> mqtt.ServerMachine:
    machine = mqtt.ServerMachine(**limits)
    assert machine.feed(CONNECT) == [mqtt.Connect("", True, 60)]
    return machine


def field(raw: bytes) -> bytes:
    return len(raw).to_bytes(2) + raw


def packet(first: int, body: bytes) -> bytes:
    digits, size = bytearray(), len(body)
    while size > 127:
        digits.append(size & 127 | 128)
        size >>= 7
    return bytes((first,)) + bytes(digits) + bytes((size,)) + body


def connect(
    flags: int = 2, rest: bytes = b"\0\0", *, name: bytes = b"MQTT", level: int = 4, keep_alive: int = 60
) -> bytes:
    return packet(0x10, field(name) + bytes((level, flags)) + keep_alive.to_bytes(2) + rest)


def the_violation(machine: mqtt.ServerMachine, data: bytes) -> mqtt.ProtocolViolation:
    packets = machine.feed(data)
    assert packets
    violation = packets[-1]
    assert isinstance(violation, mqtt.ProtocolViolation), violation
    assert machine.feed(CONNECT + b"\xc0\x00") == [], "nothing is read after a violation"
    return violation


def test_a_full_connect_is_read_field_by_field() -> None:
    rest = field(b"cid") + field(b"last/words") + field(b"bye") + field("Zoë".encode()) + field(b"\x00secret")
    assert mqtt.ServerMachine().feed(connect(0b11101110, rest, keep_alive=258)) == [
        mqtt.Connect("cid", True, 258, "Zoë", b"\x00secret", mqtt.Will("last/words", b"bye", 1, True))
    ]


def test_a_password_does_not_show() -> None:
    (read,) = mqtt.ServerMachine().feed(connect(0b11000010, field(b"") + field(b"u") + field(b"hunter2")))
    assert isinstance(read, mqtt.Connect)
    assert read.password == b"hunter2"
    assert "hunter2" not in repr(read)
    assert "hunter2" not in str(read)


def test_packets_behind_the_connect_in_the_same_segment_are_read() -> None:
    subscribe = packet(0x82, b"\0\x07" + field(b"/devices/a/commands/#") + b"\1")
    packets = mqtt.ServerMachine().feed(CONNECT + subscribe + b"\xc0\x00")
    assert packets[1:] == [mqtt.Subscribe(7, [("/devices/a/commands/#", 1)]), mqtt.PingReq()]


BAD_CONNECTS = [
    ("MQTT-3.1.0-1", b"\xc0\x00"),
    ("MQTT-3.1.0-1", b"GET / HTTP/1.1\r\n"),
    ("MQTT-3.1.0-1", bytes.fromhex("1603010200")),  # a TLS handshake
    ("MQTT-2.2.2-2", b"\x11" + CONNECT[1:]),
    ("MQTT-3.1.2-1", connect(name=b"mqtt")),
    ("MQTT-3.1.2-3", connect(3)),
    ("MQTT-3.1.2-11", connect(0b00001010)),
    ("MQTT-3.1.2-11", connect(0b00100010)),
    ("MQTT-3.1.2-14", connect(0b00011110, b"\0\0" + field(b"t") + field(b""))),
    ("MQTT-3.1.2-22", connect(0b01000010, b"\0\0" + field(b"key"))),
    ("MQTT-1.5.3-1", connect(rest=field(b"\xff"))),
    ("MQTT-1.5.3-1", connect(rest=field(b"\xed\xa0\x80"))),  # a surrogate
    ("MQTT-1.5.3-2", connect(rest=field(b"a\0b"))),
    ("MQTT-3.3.2-2", connect(0b00000110, b"\0\0" + field(b"#") + field(b""))),
    ("MQTT-4.8.0-1", connect(0b10000010)),  # the user name announced is not there
    ("MQTT-4.8.0-1", connect(rest=b"\0\0left over")),
    ("MQTT-4.8.0-1", connect(rest=b"\0\x09short")),
    ("MQTT-4.8.0-1", b"\x10\xff\xff\xff\xff\x01"),
]


@pytest.mark.parametrize(("statement", "data"), BAD_CONNECTS)
def test_what_must_not_stand_at_the_start(statement: str, data: bytes) -> None:
    violation = the_violation(mqtt.ServerMachine(), data)
    assert violation.statement == statement
    assert violation.answer == b""  # [MQTT-3.1.4-1]: closed without a CONNACK


@pytest.mark.parametrize("data", [connect(level=6), connect(level=3, name=b"MQIsdp"), connect(level=0)])
def test_another_protocol_level_is_answered_with_code_1(data: bytes) -> None:
    violation = the_violation(mqtt.ServerMachine(), data)
    assert violation.statement == "MQTT-3.1.2-2"
    assert violation.answer == b"\x20\x02\x00\x01"


def test_an_empty_client_id_needs_a_clean_session() -> None:
    violation = the_violation(mqtt.ServerMachine(), connect(0))
    assert violation.statement == "MQTT-3.1.3-8"
    assert violation.answer == b"\x20\x02\x00\x02"


def test_a_tls_client_is_told_what_is_wrong() -> None:
    assert "TLS" in str(the_violation(mqtt.ServerMachine(), bytes.fromhex("160301")))


BAD_PACKETS = [
    ("MQTT-3.1.0-2", CONNECT),
    ("MQTT-2.3.1-1", packet(0x32, field(b"t") + b"\0\0payload")),
    ("MQTT-2.3.1-1", packet(0x32, field(b"t") + b"\0")),
    ("MQTT-2.3.1-1", packet(0x82, b"\0\0" + field(b"t") + b"\0")),
    ("MQTT-2.3.1-1", packet(0xA2, b"\0\0" + field(b"t"))),
    ("MQTT-3.3.1-2", packet(0x38, field(b"t"))),
    ("MQTT-3.3.1-4", packet(0x36, field(b"t") + b"\0\1")),
    ("MQTT-2.3.1-1", packet(0x34, field(b"t") + b"\0\0")),
    ("MQTT-2.3.1-1", packet(0x34, field(b"t") + b"\0")),
    ("MQTT-3.3.2-1", packet(0x30, b"\0")),
    ("MQTT-3.3.2-1", packet(0x30, b"\0\x05abcd")),
    ("MQTT-3.3.2-2", packet(0x30, field(b"a/+/b"))),
    ("MQTT-3.3.2-2", packet(0x30, field(b"a/#"))),
    ("MQTT-4.7.3-1", packet(0x30, field(b""))),
    ("MQTT-1.5.3-1", packet(0x30, field(b"\xc0\x80"))),
    ("MQTT-1.5.3-2", packet(0x30, field(b"a\0"))),
    ("MQTT-2.2.2-2", packet(0x41, b"\0\1")),
    ("MQTT-2.2.2-2", packet(0xC1, b"")),
    ("MQTT-2.2.2-2", packet(0xE8, b"")),
    ("MQTT-3.8.1-1", packet(0x80, b"\0\1" + field(b"t") + b"\0")),
    ("MQTT-3.8.3-3", packet(0x82, b"\0\1")),
    ("MQTT-3.8.3-4", packet(0x82, b"\0\1" + field(b"t") + b"\3")),
    ("MQTT-4.7.1-2", packet(0x82, b"\0\1" + field(b"a/#/b") + b"\0")),
    ("MQTT-4.7.1-2", packet(0x82, b"\0\1" + field(b"a#") + b"\0")),
    ("MQTT-4.7.1-3", packet(0x82, b"\0\1" + field(b"a+/b") + b"\0")),
    ("MQTT-4.7.3-1", packet(0x82, b"\0\1" + field(b"") + b"\0")),
    ("MQTT-1.5.3-1", packet(0x82, b"\0\1" + field(b"\xff") + b"\0")),
    ("MQTT-4.8.0-1", packet(0x82, b"\0\1" + field(b"t"))),
    ("MQTT-3.10.1-1", packet(0xA0, b"\0\1" + field(b"t"))),
    ("MQTT-3.10.3-2", packet(0xA2, b"\0\1")),
    ("MQTT-4.8.0-1", packet(0x40, b"\0\1\0")),
    ("MQTT-4.8.0-1", packet(0xC0, b"?")),
    ("MQTT-4.8.0-1", packet(0xE0, b"?")),
    *[("MQTT-4.8.0-1", packet(kind << 4, b"\0\1")) for kind in (0, 2, 9, 11, 13, 15)],
    ("MQTT-3.6.1-1", packet(0x60, b"\0\1")),
    ("MQTT-2.2.2-2", packet(0x52, b"\0\1")),
    ("MQTT-4.8.0-1", packet(0x70, b"\0\1\0")),
    ("mqtt.max_packet", b"\x30\x80\x80\x80\x01"),
]


@pytest.mark.parametrize(("statement", "data"), BAD_PACKETS)
def test_what_must_not_come_after_the_connect(statement: str, data: bytes) -> None:
    violation = the_violation(machine_after_connect(), data)
    assert violation.statement == statement
    assert f"[{statement}]" in str(violation)


def test_publish() -> None:
    machine = machine_after_connect()
    assert machine.feed(
        packet(0x31, field("zürich".encode()) + b"1") + packet(0x3A, field(b"t") + b"\x01\x02\x00")
    ) == [
        mqtt.Publish("zürich", b"1", 0, 0, False, True),
        mqtt.Publish("t", b"\x00", 1, 258, True, False),
    ]
    assert machine.feed(mqtt.publish("t", b"x" * 200, qos=1, packet_id=65_535)) == [
        mqtt.Publish("t", b"x" * 200, 1, 65_535, False, False)
    ]


def test_the_other_packets() -> None:
    machine = machine_after_connect()
    assert machine.feed(
        mqtt.puback(258)
        + mqtt.publish("t", b"x", qos=2, packet_id=3, dup=True)
        + b"\x50\2\0\3\x62\2\0\3\x70\2\0\3"
        + packet(0x82, b"\0\1" + field(b"a/+") + b"\0" + field(b"#") + b"\2")
        + packet(0xA2, b"\0\2" + field(b"a/+"))
        + b"\xc0\0\xe0\0\xc0\0"
    ) == [
        mqtt.PubAck(258),
        mqtt.Publication("t", b"x", 2, 3, True, False),
        mqtt.PubRec(3),
        mqtt.PubRel(3),
        mqtt.PubComp(3),
        mqtt.Subscribe(1, [("a/+", 0), ("#", 2)]),
        mqtt.Unsubscribe(2, ["a/+"]),
        mqtt.PingReq(),
        mqtt.Disconnect(),
    ], "and nothing after the DISCONNECT"
    assert machine.feed(b"\xc0\0") == []


def test_what_stood_before_a_violation_counts() -> None:
    assert [type(p) for p in machine_after_connect().feed(b"\xc0\0\x00\0\xc0\0")] == [
        mqtt.PingReq,
        mqtt.ProtocolViolation,
    ]


def test_encoders_give_the_bytes_of_the_standard() -> None:
    assert mqtt.connack(mqtt.ConnectCode.ACCEPTED) == b"\x20\x02\x00\x00"
    assert mqtt.connack(mqtt.ConnectCode.ACCEPTED, session_present=True) == b"\x20\x02\x01\x00"
    assert mqtt.connack(mqtt.ConnectCode.NOT_AUTHORISED, session_present=True) == b"\x20\x02\x00\x05"  # [MQTT-3.2.2-4]
    assert mqtt.puback(0xABCD) == b"\x40\x02\xab\xcd"
    assert mqtt.suback(10, [1, 0x80]) == b"\x90\x04\x00\x0a\x01\x80"
    assert mqtt.unsuback(10) == b"\xb0\x02\x00\x0a"
    assert mqtt.publish("a/b", b"hi", qos=1, packet_id=5, dup=True) == b"\x3a\x09\x00\x03a/b\x00\x05hi"
    assert mqtt.publish("a", b"x" * 125)[:3] == b"\x30\x80\x01"


@pytest.mark.parametrize(
    ("pattern", "topic", "matching"),
    [
        ("/devices/a/commands/#", "/devices/a/commands/fan", True),
        ("/devices/a/commands/#", "/devices/a/commands", True),
        ("/devices/a/commands/+", "/devices/a/commands/fan", True),
        ("/devices/a/commands/+", "/devices/a/commands", False),
        ("/devices/a/commands/fan", "/devices/a/commands/fan", True),
        ("/devices/a/commands/fan", "/devices/a/commands/fan2", False),
        ("/devices/a/commands", "/devices/a/commands/fan", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/uptime", False),
        ("$SYS/#", "$SYS/uptime", True),
    ],
)
def test_filters_match_as_section_4_7_says(pattern: str, topic: str, matching: bool) -> None:
    assert mqtt.matches(pattern, topic) is matching


def test_an_oversized_packet_is_refused_by_its_header_alone() -> None:
    machine = machine_after_connect(max_packet=1000)
    assert len(machine.feed(mqtt.publish("t", b"x" * (1000 - 2 - 1 - 3)))) == 1
    violation = the_violation(machine, mqtt.publish("t", b"x" * (1001 - 2 - 1 - 3))[:3])
    assert violation.statement == "mqtt.max_packet"
    assert "1001" in str(violation)


def test_a_stranger_gets_less_room_than_a_device() -> None:
    big = connect(rest=field(b"x" * 2000))
    assert the_violation(mqtt.ServerMachine(max_connect=1000), big[:5]).statement == "mqtt.max_packet"


def test_an_endless_packet_in_single_bytes_holds_no_more_than_the_limit() -> None:
    machine = machine_after_connect(max_packet=50_000)
    whole = mqtt.publish("t", bytes(49_000))
    tracemalloc.start()
    try:
        for index in range(len(whole) - 1):
            assert machine.feed(whole[index : index + 1]) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 80_000
    assert machine.feed(whole[-1:]) == [mqtt.Publish("t", bytes(49_000), 0, 0, False, False)]


# Any stream, split anywhere

TEXT = st.text(st.characters(exclude_characters="\0+#", codec="utf-8"), min_size=1, max_size=12)
IDS = st.integers(1, 65_535)
PACKETS = st.one_of(
    st.builds(lambda t, p: mqtt.publish(t, p), TEXT, st.binary(max_size=300)),
    st.builds(lambda t, p, i, d: mqtt.publish(t, p, qos=1, packet_id=i, dup=d), TEXT, st.binary(), IDS, st.booleans()),
    st.builds(mqtt.puback, IDS),
    st.just(b"\xc0\0"),
    st.builds(
        lambda i, fs: packet(0x82, i.to_bytes(2) + b"".join(field(f.encode()) + bytes((q,)) for f, q in fs)),
        IDS,
        st.lists(st.tuples(TEXT, st.integers(0, 2)), min_size=1, max_size=3),
    ),
    st.builds(lambda i, f: packet(0xA2, i.to_bytes(2) + field(f.encode())), IDS, TEXT),
)
STREAMS = st.builds(
    lambda packets, tail: CONNECT + b"".join(packets) + tail,
    st.lists(PACKETS, max_size=8),
    st.one_of(st.just(b""), st.binary(max_size=40), st.just(b"\xe0\0\xc0\0")),
)


def read(data: bytes, cuts: list[int]) -> list[object]:
    machine = mqtt.ServerMachine(max_packet=2000)
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    packets: list[object] = []
    for start, end in pairwise(bounds):
        packets += machine.feed(data[start:end])
    return [str(p) if isinstance(p, mqtt.ProtocolViolation) else p for p in packets]


@given(STREAMS, st.lists(st.integers(0, 10_000), max_size=30))
def test_however_a_stream_is_cut_it_gives_the_same_packets(data: bytes, cuts: list[int]) -> None:
    assert read(data, cuts) == read(data, [])


@given(STREAMS)
@settings(max_examples=30)
def test_byte_by_byte_gives_the_same_packets(data: bytes) -> None:
    assert read(data, list(range(len(data)))) == read(data, [])


@given(st.lists(PACKETS, max_size=8))
def test_every_valid_packet_comes_out(packets: list[bytes]) -> None:
    read_back = machine_after_connect(max_packet=2000).feed(b"".join(packets))
    assert len(read_back) == len(packets)
    assert not any(isinstance(p, mqtt.ProtocolViolation) for p in read_back)


@given(st.booleans(), st.lists(st.binary(max_size=200), max_size=10))
def test_garbage_neither_crashes_nor_piles_up(connected: bool, segments: list[bytes]) -> None:
    machine = machine_after_connect(max_packet=300) if connected else mqtt.ServerMachine(max_packet=300)
    dead = False
    for segment in segments:
        packets = machine.feed(segment)
        assert not (dead and packets)
        dead = dead or any(isinstance(p, mqtt.ProtocolViolation | mqtt.Disconnect) for p in packets)
        assert not any(isinstance(p, mqtt.ProtocolViolation) for p in packets[:-1])
        assert machine.buffered <= (0 if dead else 300)
