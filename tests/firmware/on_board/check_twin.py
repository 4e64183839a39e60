"""Configurations in, what became of them and states out, as transcripts."""

import struct

from bench_gateway import Bench, raises
from edge_device import cbor, mqtt
from edge_device.twin import attach


def online(bench):
    """Connect and be accepted; returns what the board sent then, its subscriptions answered."""
    bench.link()
    bench.receive(b"\x20\2\0\0")
    packets = bench.publish()
    for packet in packets:
        if packet.kind == 8:
            bench.receive(struct.pack(">BBHB", 0x90, 3, packet.packet, 1))
    return packets


def configure(bench, form, packet=7):
    """Send a configuration; returns what the board sends."""
    payload = bytearray()
    cbor.encode(form, payload)
    out = bytearray()
    mqtt.publish(out, "/devices/b1/config", payload, packet, False)
    bench.receive(out)
    return bench.publish()


def board():
    bench = Bench()
    taken = []
    attach(bench.core).handler = taken.append
    return bench, taken


def check_it_subscribes_only_where_it_is_wanted():
    bench, _ = board()
    first, second = online(bench)
    assert first.body.endswith(b"/commands/#\1")
    assert second.body.endswith(b"/devices/b1/config\1")
    assert [p.kind for p in online(Bench())] == [8]


def check_a_configuration_is_taken_once_and_told():
    bench, taken = board()
    online(bench)
    puback, told = configure(bench, {0: 3, 1: {"every": 5}})
    assert (puback.kind, puback.packet) == (4, 7)
    assert (told.topic, told.form()) == ("/devices/b1/config/ack", {0: 3, 1: 0})
    bench.puback(told)
    _, again = configure(bench, {0: 3, 1: {"every": 5}})
    assert again.form() == {0: 3, 1: 0}
    assert taken == [{"every": 5}]
    bench.puback(again)
    configure(bench, {0: 4, 1: b"raw"})
    assert taken == [{"every": 5}, b"raw"]


def check_what_the_program_cannot_take_is_told_with_its_reason():
    bench = Bench()

    def refuse(config):
        raise ValueError("no such pin")

    attach(bench.core).handler = refuse
    online(bench)
    packets = configure(bench, {0: 1, 1: {"pin": 99}})
    told = next(p for p in packets if p.kind == 3 and p.topic.endswith("/ack"))
    assert told.form() == {0: 1, 1: 1, 2: "ValueError: no such pin"}
    assert "no such pin" in bench.lines[-1]


def check_what_is_no_configuration_is_reported_and_harmless():
    for form in ([1], {1: 5}, {0: 1}, {0: "1", 1: 2}):
        bench, taken = board()
        online(bench)
        packets = configure(bench, form)
        assert packets[0].kind == 4
        assert packets[1].topic == "/devices/b1/events/edge.error"
        assert taken == []
        assert bench.core.online


def check_of_states_the_newest_goes_out():
    bench, _ = board()
    bench.core.twin.report({"n": 1})
    bench.core.twin.report({"n": 2})
    told = online(bench)[-1]
    assert (told.topic, told.form()) == ("/devices/b1/state", {0: {"n": 2}})
    bench.core.twin.report({"n": 3})
    bench.core.twin.report({"n": 4})
    assert bench.publish() == [], "one at a time"
    bench.puback(told)
    (told,) = bench.publish()
    assert told.form() == {0: {"n": 4}}
    bench.puback(told)
    assert bench.publish() == []


def check_what_was_not_acknowledged_is_told_again():
    bench, _ = board()
    bench.core.twin.report("idle")
    online(bench)
    bench.drop()
    told = online(bench)[-1]
    assert told.form() == {0: "idle"}
    bench.core.twin.report("busy")
    bench.drop()
    told = online(bench)[-1]
    assert told.form() == {0: "busy"}, "an older one is not told any more"
    bench.puback(told)
    bench.drop()
    assert [p.kind for p in online(bench)] == [8, 8]


def check_a_state_that_cannot_be_sent_is_refused():
    bench, _ = board()
    raises(TypeError, bench.core.twin.report, object())
    assert "too large" in raises(ValueError, bench.core.twin.report, b"x" * 5000)
