"""Handshake, keep-alive and what is in flight, as transcripts."""

from bench_gateway import Bench


def check_the_handshake():
    bench = Bench(keepalive=60)
    connect = bench.link()
    assert b"\0\4MQTT\4\xc2\0\x3c" in connect.body
    assert connect.body.endswith(b"\0\2b1\0\2b1\0\6secret")
    bench.core.emit("k", 1)
    assert bench.publish() == []
    bench.receive(b"\x20\2\0\0")
    subscribe, publish = bench.publish()
    assert subscribe.body[2:] == b"\0\x16/devices/b1/commands/#\1"
    assert publish.topic == "/devices/b1/events/k"


def check_a_wrong_key_is_said_and_tried_again_later():
    bench = Bench(backoff=20)
    bench.link()
    bench.receive(b"\x20\2\0\5")
    assert not bench.core.wants_link
    assert "key is wrong" in bench.lines[-1]
    assert "secret" not in bench.lines[-1]
    assert bench.step() >= 10000
    bench.wait(20000)
    assert bench.core.wants_link


def check_silence_after_connect():
    bench = Bench(patience=5)
    bench.link()
    assert bench.step() == 5000
    bench.step(5000)
    assert not bench.core.wants_link
    assert "no answer to the connection in 5 s" in bench.lines[-1]


def check_a_ping_goes_out_when_nothing_is_said():
    bench = Bench(keepalive=10, patience=3)
    bench.online()
    assert bench.wait(4999) == []
    assert [p.kind for p in bench.wait(1)] == [12]
    bench.receive(b"\xd0\0")
    assert bench.wait(4999) == []
    assert [p.kind for p in bench.wait(1)] == [12]


def check_a_ping_without_an_answer_ends_the_connection():
    bench = Bench(keepalive=10, patience=3)
    bench.online()
    bench.wait(7999)
    assert bench.core.online
    bench.wait(1)
    assert not bench.core.wants_link
    assert "ping" in bench.lines[-1]


def check_traffic_replaces_pings():
    bench = Bench(keepalive=10, patience=9)
    bench.online()
    for _ in range(10):
        bench.core.emit("k", 1)
        for packet in bench.wait(3000):
            assert packet.kind == 3
            bench.puback(packet)


def check_a_message_without_an_acknowledgement_ends_the_connection():
    bench = Bench(patience=4)
    bench.online()
    bench.core.emit("k", 1)
    bench.wait(4000)
    assert not bench.core.wants_link
    assert "no answer to a message in 4 s" in bench.lines[-1]


def check_a_refused_subscription_is_said():
    bench = Bench()
    bench.link()
    bench.receive(b"\x20\2\0\0")
    bench.receive(b"\x90\3\0\1\x80")
    assert not bench.core.wants_link
    assert "refused the subscription" in bench.lines[-1]


def check_every_connection_subscribes_again():
    bench = Bench()
    for _ in range(3):
        bench.online()
        bench.drop()


def check_the_window_is_kept():
    bench = Bench(window=2, batch=1)
    bench.online()
    for i in range(5):
        bench.core.emit("k", i)
    first, second = bench.publish()
    assert bench.publish() == []
    bench.puback(second)
    third = bench.publish()
    assert len(third) == 1
    bench.puback(first)
    bench.puback(third[0])
    assert len(bench.publish()) == 2


def check_packet_ids_are_never_zero_and_wrap():
    bench = Bench(window=1)
    bench.core.session._packet = 65533
    bench.online()
    ids = []
    for _ in range(4):
        bench.core.emit("k", 1)
        (packet,) = bench.publish()
        ids.append(packet.packet)
        bench.puback(packet)
    assert ids == [65535, 1, 2, 3]


def check_what_breaks_the_protocol_ends_the_connection():
    for data in (b"\x10\0", b"\x30\1\0", b"\x20\2\0\0", b"\xff\xff\xff\xff\xff\xff"):
        bench = Bench()
        bench.online()
        bench.receive(data)
        assert not bench.core.wants_link, data
        assert "protocol error" in bench.lines[-1]
    bench = Bench()
    bench.link()
    bench.receive(b"\x40\2\0\1")
    assert not bench.core.wants_link


def check_an_acknowledgement_of_nothing_is_harmless():
    bench = Bench()
    bench.online()
    bench.receive(b"\x40\2\0\x99")
    bench.receive(b"\xd0\0")
    assert bench.core.online
