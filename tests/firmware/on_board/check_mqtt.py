"""Packets in and out, byte by byte."""

from bench_gateway import raises
from edge_device import mqtt


def read(data, most=1000, chunk=1):
    reader = mqtt.Reader(most)
    packets = []
    for at in range(0, len(data), chunk):
        reader.feed(data[at : at + chunk])
        while True:
            packet = reader.next()
            if packet is None:
                break
            packets.append(packet)
    return packets, reader.oversized


def check_connect():
    out = bytearray()
    mqtt.connect(out, "b1", "b1", b"key", 30)
    assert bytes(out) == b"\x10\x17\0\4MQTT\4\xc2\0\x1e\0\2b1\0\2b1\0\3key"


def check_publish_and_dup():
    out = bytearray()
    mqtt.publish(out, "/t", b"x" * 200, 258, False)
    assert bytes(out[:9]) == b"\x32\xce\x01\0\2/t\1\2"
    assert len(out) == 209
    out = bytearray()
    mqtt.publish(out, "/t", b"x", 1, True)
    assert bytes(out) == b"\x3a\7\0\2/t\0\1x"


def check_subscribe_puback_ping():
    out = bytearray()
    mqtt.subscribe(out, "/c/#", 9)
    mqtt.puback(out, 513)
    mqtt.pingreq(out)
    assert bytes(out) == b"\x82\x09\0\x09\0\4/c/#\1\x40\2\2\1\xc0\0"


def check_packets_split_anywhere():
    out = bytearray()
    for size in (0, 100, 127, 128, 300):
        mqtt.publish(out, "/t", b"y" * size, 5, False)
    whole = read(bytes(out), chunk=len(out))
    assert len(whole[0]) == 5
    for chunk in (1, 2, 3, 7, 128):
        assert read(bytes(out), chunk=chunk) == whole
    assert mqtt.read_publish(*whole[0][1]) == ("/t", 5, b"y" * 100)


def check_an_oversized_packet_is_passed_over():
    out = bytearray()
    mqtt.publish(out, "/t", b"y" * 500, 5, False)
    mqtt.pingreq(out)
    mqtt.publish(out, "/t", b"y" * 500, 5, False)
    for chunk in (1, 4, 100, 2000):
        assert read(bytes(out), 400, chunk) == ([(0xC0, b"")], 2)


def check_a_length_without_end_is_refused():
    reader = mqtt.Reader(100)
    reader.feed(b"\x30\xff\xff\xff\xff")
    raises(mqtt.ProtocolError, reader.next)


def check_messages_that_are_cut_short_are_refused():
    for first, body in ((0x32, b""), (0x32, b"\0\5ab"), (0x32, b"\0\1a\0"), (0x34, b"\0\1a\0\1"), (0x32, b"\0\1a\0\0")):
        raises(mqtt.ProtocolError, mqtt.read_publish, first, body)
    raises(mqtt.ProtocolError, mqtt.read_publish, 0x30, b"\0\1\xff")
    assert mqtt.read_publish(0x30, b"\0\1a!") == ("a", 0, b"!")
