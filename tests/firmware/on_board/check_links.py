"""Several links: their order, the way back, and the settings; and the CoAP machine, datagram by datagram."""

import struct

from bench_gateway import Bench, raises
from edge_device import coap
from edge_device.config import Config, ConfigError
from edge_device.twin import attach

TWO = [{"port": 1}, {"link": "coap", "port": 2}]
THREE = [{"port": 1}, {"link": "coap", "port": 2}, {"link": "serial"}]
CLOCKS = []
"""What the board's clock was set to."""


def check_each_link_has_its_turn():
    bench = Bench(links=THREE, backoff=4)
    core = bench.core
    kinds = []
    pauses = []
    for _ in range(9):
        bench.wait(5000)
        assert core.wants_link
        kinds.append(core.link.kind)
        core.link_down(bench.hal.now, "nobody is there")
        pauses.append(bench.step())
    assert kinds == ["mqtt", "coap", "serial"] * 3
    assert [pause for i, pause in enumerate(pauses) if i % 3 != 2] == [250] * 6  # half of 500 ms, by the dice here
    assert pauses[2] < pauses[5] < pauses[8] <= 4000


def check_one_that_worked_is_left_for_the_first():
    bench = Bench(links=TWO, prefer=10)
    bench.step()
    bench.core.link_down(bench.hal.now, "nobody is there")
    bench.wait(5000)
    core = bench.core
    assert core.link.kind == "coap"
    core.link_up(bench.hal.now)
    core.session.state = coap.OPEN
    core._useful()
    assert "online over coap" in bench.lines
    bench.hal.now += 9999
    core.step(bench.hal.now)
    assert core.wants_link
    bench.hal.now += 1
    core.step(bench.hal.now)
    assert not core.wants_link
    assert core.link.kind == "mqtt"
    assert "the preferred link is tried again" in bench.lines[-1]


def check_what_is_wrong_in_the_links_is_named():
    good = {"device": "b1", "key": "k", "host": "h"}
    for links, text in (
        ([], "list"),
        ({}, "list"),
        ([1], "link 1 must be an object"),
        ([{"port": 1}, {"port": 1, "hots": "h"}], "link 2 has an unknown entry 'hots'"),
        ([{"port": 1}, {"link": "coap"}], "link 2 has no 'port'"),
        ([{"link": "smoke"}], "'link' must be"),
        ([{"port": 1, "tls": {}}], "'tls' must be"),
        ([{"port": 1, "link": "coap", "tls": {"ca": "/ca.pem"}}], "of an MQTT link"),
    ):
        form = dict(good)
        form["links"] = links
        found = raises(ConfigError, Config, form)
        assert text in found, found
    form = dict(good)
    form.update({"links": TWO, "prefer": 0})
    assert "prefer" in raises(ConfigError, Config, form)
    config = Config({"device": "b1", "key": "k", "host": "h", "links": [{"port": 1}, {"port": 2, "host": "other"}]})
    assert config.link.host == "h"


def out_of(core):
    """The datagrams that the board has sent since the last time, parsed."""
    found = []
    data = bytes(core.out)
    core.sent(len(data))
    while data:
        size = struct.unpack(">H", data[:2])[0]
        found.append(coap.parse(data[2 : 2 + size]))
        data = data[2 + size :]
    return found


def answer(request, code, payload=b"", options=b"", kind=2):
    """An answer in the ACK of a request, or by itself."""
    head = struct.pack(">BBH", 0x40 | kind << 4 | len(request[3]), code, request[2] if kind == 2 else 0x1234)
    return head + request[3] + options + (b"\xff" + payload if payload else b"")


def coap_bench(**options):
    """A board whose commands are asked for and answered."""
    bench = Bench(link="coap", **options)
    bench.step()
    bench.core.link_up(bench.hal.now)
    (get,) = out_of(bench.core)
    assert (get[0], get[1]) == (0, 1)
    assert get[4][6] == 0, "it observes"
    bench.receive(answer(get, 0x45, b"\x80"))
    assert bench.core.online
    return bench


def check_coap_times_are_those_of_rfc_7252():
    bench = coap_bench()
    bench.core.emit("k", 1)
    bench.step()
    times = []
    (first,) = out_of(bench.core)
    for _ in range(100000):
        bench.hal.now += 100
        bench.core.step(bench.hal.now)
        for again in out_of(bench.core):
            assert again == first
            times.append(bench.hal.now)
        if not bench.core.wants_link:
            break
    # ACK_TIMEOUT 2 s (the dice here say no more), doubling, MAX_RETRANSMIT 4.
    assert times == [2000, 6000, 14000, 30000]
    assert bench.hal.now == 62000
    assert "no answer to a message" in bench.lines[-1]


def check_coap_a_separate_answer_and_its_repeats():
    bench = coap_bench()
    bench.core.emit("k", 1)
    bench.step()
    (post,) = out_of(bench.core)
    assert post[1] == 2
    assert post[4][12] == 65000
    bench.receive(struct.pack(">BBH", 0x60, 0, post[2]))
    bench.hal.now += 9000
    bench.core.step(bench.hal.now)
    assert out_of(bench.core) == [], "it is heard: nothing is sent again"
    for _ in range(2):
        bench.receive(answer(post, 0x44, kind=0))
        assert [(d[0], d[1], d[2]) for d in out_of(bench.core)] == [(2, 0, 0x1234)]
    assert len(bench.core.queue) == 0


def check_coap_what_is_not_stored_waits():
    bench = coap_bench(keepalive=600)
    bench.core.emit("k", 1)
    bench.step()
    (post,) = out_of(bench.core)
    bench.receive(answer(post, 0xA3, options=b"\xd1\1\5"))  # 5.03, Max-Age 5
    bench.step(4999)
    assert out_of(bench.core) == []
    bench.step(1)
    (again,) = out_of(bench.core)
    assert again[2] != post[2]
    assert again[5] == post[5]
    bench.receive(answer(again, 0x80))  # 4.00: a dead letter
    assert len(bench.core.queue) == 0
    assert bench.core.online


def check_coap_refusals_and_strangers():
    bench = Bench(link="coap")
    bench.step()
    bench.core.link_up(bench.hal.now)
    (get,) = out_of(bench.core)
    bench.receive(answer(get, 0x81))
    assert not bench.core.wants_link
    assert "key is wrong" in bench.lines[-1]
    bench = coap_bench()
    bench.receive(b"\x40\0\0\7")  # a ping
    bench.receive(b"\x41\x45\0\x08\x99")  # an answer to nobody
    assert [(d[0], d[1], d[2]) for d in out_of(bench.core)] == [(3, 0, 7), (3, 0, 8)]
    for rubbish in (
        b"",
        b"\x40",
        b"\x00\1\0\1",
        b"\x4f\1\0\1",
        b"\x60\x45\0\1\xf1",
        b"\x60\x45\0\1\xd1",
        b"\x60\x45\0\1\x05",
    ):
        bench.receive(rubbish)
    assert bench.core.online


def check_coap_asks_for_the_configuration_once_more_with_its_tag():
    bench = Bench(link="coap", keepalive=10)
    taken = []
    attach(bench.core).handler = taken.append
    bench.step()
    bench.core.link_up(bench.hal.now)
    bench.receive(answer(out_of(bench.core)[0], 0x45, b"\x80"))
    (get,) = out_of(bench.core)
    assert 4 not in get[4]
    bench.receive(answer(get, 0x45, b"\xa2\0\1\1\x18\x2a", b"\x42AB"))
    assert taken == [42]
    bench.step()
    (told,) = out_of(bench.core)
    bench.receive(answer(told, 0x44))
    bench.step(5000)
    bench.receive(answer(out_of(bench.core)[0], 0x45, b"\x80"))
    (get,) = out_of(bench.core)
    assert get[4][4] == b"AB"
    bench.receive(answer(get, 0x43))
    assert taken == [42]


class Updates:
    """What stands for `ota.Ota`: things to be told, and what was heard."""

    def __init__(self, *told):
        self.told = [["/ota/" + word, body, 0] for word, body in told]
        self.heard = []

    def take(self):
        return self.told.pop(0) if self.told else None

    def message(self, topic, payload, packet):
        self.heard.append((topic, bytes(payload)))
        return True


def check_coap_a_piece_is_the_answer_to_an_ask():
    bench = Bench(link="coap", keepalive=10)
    core = bench.core
    core.ota = Updates(("report", b"R"), ("ask", b"A"), ("ask", b"B"))
    report = core.ota.told[0]
    bench.step()
    core.link_up(bench.hal.now)
    bench.receive(answer(out_of(core)[0], 0x45, b"\x80"))
    bench.step()
    (post,) = out_of(core)
    assert (post[1], post[5]) == (2, b"R")
    bench.receive(answer(post, 0x44))
    assert report[2] == 2, "acknowledged"
    (get,) = out_of(core)  # for what is offered now
    assert get[1] == 1
    bench.receive(answer(get, 0x45, b"\xa0"))
    assert core.ota.heard == [("ota/offer", b"\xa0")]
    bench.step()
    (fetch,) = out_of(core)
    assert (fetch[1], fetch[5]) == (5, b"A")
    bench.receive(answer(fetch, 0x45, b"piece"))
    assert core.ota.heard[1:] == [("ota/data", b"piece")]
    bench.step()
    (fetch,) = out_of(core)
    bench.receive(answer(fetch, 0x84))  # 4.04: it is not offered any more
    assert core.ota.heard[2:] == [("ota/offer", b"\xa0")]
    bench.step(5000)
    (get,) = out_of(core)
    bench.receive(answer(get, 0x45, b"\x80"))
    (get,) = out_of(core)
    bench.receive(answer(get, 0x45, b"offer"))
    assert core.ota.heard[3:] == [("ota/offer", b"offer")], "with each renewal"


def check_coap_a_gateway_without_updates_gets_readings():
    bench = Bench(link="coap")
    core = bench.core
    core.ota = Updates(("report", b"R"))
    core.emit("k", 1)
    bench.step()
    core.link_up(bench.hal.now)
    bench.receive(answer(out_of(core)[0], 0x45, b"\x80"))
    bench.step()
    for _ in range(3):
        (request,) = out_of(core)
        if request[1] == 2 and request[4][12] == 65000 and request[5] != b"R":
            break
        bench.receive(answer(request, 0x84))
        bench.step()
    bench.receive(answer(request, 0x44))
    assert len(core.queue) == 0
    assert core.online


class Rtc:
    """What stands for the board's clock."""

    def datetime(self, moment):
        CLOCKS.append(moment)


def check_a_clock_that_is_not_set_is_set_for_tls_but_not_believed():
    import sys
    import time

    from edge_device import floor, hal

    class Machine:
        RTC = Rtc

    sys.modules["machine"] = Machine
    try:
        board = hal.Hal()
        now = int(time.time())
        floor.raise_clock(now - 100, board)
        assert CLOCKS == []
        assert board.time() is not None
        floor.raise_clock(now + 100000, board)
    finally:
        del sys.modules["machine"]
    assert time.gmtime(now + 100000)[:3] == CLOCKS[0][:3]
    # As if the clock had been set: what it shows then is not taken for the time, until somebody sets it.
    clock, hal.time = hal.time, Clock(now + 100000)
    floor.time = hal.time
    try:
        assert board.time() is None
        hal.time.now += 86400
        assert board.time() == (now + 186400) * 1000000
    finally:
        hal.time = floor.time = clock


class Clock:
    """The module `time` with another time."""

    def __init__(self, now):
        import time

        self.now = now
        self.gmtime = time.gmtime
        self.ticks_ms = time.ticks_ms
        self.ticks_diff = time.ticks_diff

    def time_ns(self):
        return self.now * 1000000000
