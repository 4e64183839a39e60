"""Readings from the program to the gateway, over connections that come and go."""

from bench_gateway import Bench, Watcher, raises

T0 = 1795000000000000


def check_one_reading_is_one_event_with_its_time():
    bench = Bench()
    bench.hal.now = 250
    bench.online()
    assert bench.core.emit("climate", {"t": 21.5}) == 0
    bench.hal.now = 300
    (packet,) = bench.publish()
    assert packet.topic == "/devices/b1/events/climate"
    assert packet.form() == {0: bench.core.boot, 1: 0, 2: T0 + 250000, 4: {"t": 21.5}}
    assert not packet.dup


def check_what_waited_goes_out_together():
    bench = Bench(batch=3)
    for i in range(5):
        bench.core.emit("k" + str(i), i)
        bench.hal.now += 100
    first, second = bench.online()
    assert first.topic == second.topic == "/devices/b1/events"
    assert first.form() == {0: bench.core.boot, 1: 0, 2: T0, 5: [[0, "k0", 0], [100, "k1", 1], [200, "k2", 2]]}
    assert second.form() == {0: bench.core.boot, 1: 3, 2: T0 + 300000, 5: [[0, "k3", 3], [100, "k4", 4]]}


def check_without_an_acknowledgement_it_goes_out_again_the_same():
    bench = Bench()
    bench.core.observer = watcher = Watcher()
    bench.online()
    bench.core.emit("k", {"n": 1})
    (first,) = bench.publish()
    bench.drop()
    (again,) = bench.online()
    assert again.dup
    assert again.topic == first.topic
    assert again.payload == first.payload
    bench.puback(again)
    bench.drop()
    assert bench.online() == []
    assert watcher.told == [("published", 0, False), ("published", 0, True), ("acknowledged", 0)]


def check_order_holds_over_a_lost_connection():
    bench = Bench(batch=2, window=2)
    for i in range(7):
        bench.core.emit("k", i)
    one, _ = bench.online()
    bench.puback(one)
    bench.publish()
    bench.drop()
    seen = []
    packets = bench.online()
    while packets:
        for packet in packets:
            form = packet.form()
            seen += [item[2] for item in form[5]] if 5 in form else [form[4]]
            bench.puback(packet)
        packets = bench.publish()
    assert seen == [2, 3, 4, 5, 6]
    assert len(bench.core.queue) == 0


def check_a_full_queue_lets_the_oldest_go_and_says_so():
    bench = Bench(queue=4)
    for i in range(10):
        bench.core.emit("k", i)
    assert bench.core.queue.lost == 6
    (batch,) = bench.online()
    assert [item[2] for item in batch.form()[5]] == [6, 7, 8, 9]
    bench.puback(batch)
    (report,) = bench.publish()
    assert report.topic == "/devices/b1/events/edge.lost"
    assert report.form()[4] == {"count": 6}
    assert report.form()[1] == 10
    assert bench.core.queue.lost == 0


def check_a_report_that_has_to_go_takes_its_count_back():
    bench = Bench(queue=2)
    for i in range(4):
        bench.core.emit("k", i)
    (batch,) = bench.online()
    bench.puback(batch)
    bench.core.link_down(bench.hal.now)
    assert bench.core.queue.lost == 0
    bench.core.emit("k", 4)
    bench.core.emit("k", 5)
    assert bench.core.queue.lost == 2
    bench.core.emit("k", 6)
    assert bench.core.queue.lost == 3
    bench.wait(40000)
    (batch,) = bench.online()
    bench.puback(batch)
    (report,) = bench.publish()
    assert report.form()[4] == {"count": 3}


def check_a_board_without_the_time_says_its_uptime():
    bench = Bench(time=None)
    bench.hal.now = 1500
    bench.core.emit("k", 7)
    bench.hal.now = 61500
    (packet,) = bench.online()
    assert packet.form() == {0: bench.core.boot, 1: 0, 3: 1500, 4: 7, 6: 61500}


def check_the_time_learnt_later_dates_earlier_readings():
    bench = Bench(time=None)
    bench.hal.now = 1500
    bench.core.emit("k", 7)
    bench.hal.epoch = T0
    bench.hal.now = 61500
    (packet,) = bench.online()
    assert packet.form()[2] == T0 + 1500000


def check_a_reading_keeps_its_time_unless_the_clock_is_set():
    bench = Bench()
    bench.core.emit("k", 7)
    (packet,) = bench.online()
    bench.hal.epoch += 1500000
    bench.drop()
    (again,) = bench.online()
    assert again.form()[2] == packet.form()[2]
    bench.hal.epoch += 3600000000
    bench.drop()
    (again,) = bench.online()
    assert again.form()[2] == T0 + 3601500000


def check_pauses_grow_have_a_limit_and_end():
    bench = Bench(backoff=4)
    for byte, part in ((0, 2), (255, 1)):
        bench.core._attempts = 0
        bench.hal.byte = byte
        waits = []
        for _ in range(6):
            bench.step(60000)
            bench.core.link_down(bench.hal.now)
            waits.append(bench.step())
        assert waits == [500 // part, 1000 // part, 2000 // part, 4000 // part, 4000 // part, 4000 // part]
    bench.wait(4000)
    bench.core.emit("k", 1)
    (packet,) = bench.online()
    bench.puback(packet)
    bench.core.link_down(bench.hal.now)
    assert bench.step() == 500


def check_a_connection_of_no_use_does_not_end_the_pauses():
    bench = Bench(backoff=30)
    bench.core.emit("k", 1)
    waits = []
    for _ in range(4):
        bench.online()
        bench.core.link_down(bench.hal.now)
        waits.append(bench.step())
        bench.wait(waits[-1])
    assert waits == [250, 500, 1000, 2000]


def check_timers_keep_the_grid_of_the_uptime_and_leave_out_what_they_missed():
    bench = Bench()
    ran = []
    bench.core.every(1000, lambda: ran.append(bench.hal.now))
    bench.step(5)
    bench.step(1010)
    assert bench.step() == 985
    bench.step(990)
    bench.step(7500)
    assert bench.step() == 495
    assert ran == [5, 1015, 2005, 9505]


def check_what_cannot_be_sent_is_refused_at_once():
    bench = Bench(queue_bytes=64)
    raises(ValueError, bench.core.emit, "not a name", 1)
    raises(TypeError, bench.core.emit, "k", object())
    assert "larger than the queue" in raises(ValueError, bench.core.emit, "k", "x" * 64)
    assert bench.core.emit("k", 1) == 0


def check_a_failure_is_reported_once_until_it_works_again():
    bench = Bench()
    bench.online()
    for _ in range(3):
        bench.core.report("climate", ValueError("no sensor"))
    bench.core.works("climate")
    bench.core.report("climate", ValueError("no sensor"))
    (batch,) = bench.publish()
    expected = {"in": "climate", "error": "ValueError: no sensor"}
    assert [item[1:] for item in batch.form()[5]] == [["edge.error", expected]] * 2
    assert bench.lines.count("climate: ValueError: no sensor") == 2


def check_a_failure_too_long_for_the_queue_is_on_the_log_alone():
    bench = Bench(queue_bytes=64)
    bench.core.report("sensor", "it is broken, " * 10)
    assert len(bench.core.queue) == 0
    assert bench.lines[0].startswith("sensor: it is broken")


def check_an_oversized_packet_is_reported():
    bench = Bench(packet=64)
    bench.online()
    bench.command(1, "x", "y" * 2000)
    (report,) = bench.publish()
    assert "too large" in report.form()[4]["error"]
    assert bench.core.online
