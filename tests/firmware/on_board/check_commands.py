"""Commands are carried out once, and answered until the answer is acknowledged."""

from bench_gateway import Bench, Watcher


def replies(packets):
    """What the board answered: (first byte of the id, status, result); checks that the rest are PUBACKs."""
    found = []
    for packet in packets:
        if packet.kind == 3 and packet.topic == "/devices/b1/replies":
            form = packet.form()
            found.append((form[0][0], form[1], form.get(2)))
    return found


def bench_with(handler, **options):
    bench = Bench(**options)
    bench.calls = []

    def fan(args):
        bench.calls.append(args)
        return handler(args)

    bench.core.commands.handlers["fan"] = fan
    bench.online()
    return bench


def check_a_command_is_carried_out_acknowledged_and_answered():
    bench = bench_with(lambda args: {"was": False})
    bench.core.observer = watcher = Watcher()
    bench.command(1, "fan", {"on": True}, cause=(b"12345678", 42), packet=513)
    puback, reply = bench.publish()
    assert puback.kind == 4
    assert puback.packet == 513
    assert reply.form() == {0: b"\1" * 16, 1: 0, 2: {"was": False}}
    assert bench.calls == [{"on": True}]
    assert watcher.told == [("command", "fan", (b"12345678", 42), False)]


def check_a_repeat_is_answered_the_same_and_does_nothing():
    bench = bench_with(lambda args: len(bench.calls))
    bench.core.observer = watcher = Watcher()
    bench.command(1, "fan")
    packets = bench.publish()
    assert replies(packets) == [(1, 0, 1)]
    bench.command(1, "fan")
    assert replies(bench.publish()) == []
    bench.puback(packets[1])
    bench.command(1, "fan")
    assert replies(bench.publish()) == [(1, 0, 1)]
    assert len(bench.calls) == 1
    assert [told[3] for told in watcher.told] == [False, True, True]


def check_a_handler_that_raises():
    def handler(args):
        raise ValueError("no such pin")

    bench = bench_with(handler)
    bench.command(1, "fan")
    assert replies(bench.publish()) == [(1, 1, "ValueError: no such pin")]
    assert bench.core.online


def check_a_result_that_cannot_be_sent():
    bench = bench_with(lambda args: object())
    bench.command(1, "fan")
    ((_, status, text),) = replies(bench.publish())
    assert status == 1
    assert "the result cannot be sent" in text


def check_a_result_that_is_too_large():
    bench = bench_with(lambda args: "x" * 5000)
    bench.command(1, "fan")
    ((_, status, text),) = replies(bench.publish())
    assert status == 1
    assert "too large" in text


def check_an_unknown_command():
    bench = bench_with(lambda args: None)
    bench.command(1, "door")
    assert replies(bench.publish()) == [(1, 2, None)]


def check_an_expired_command_is_not_carried_out():
    bench = bench_with(lambda args: None)
    bench.command(1, "fan", expires=1794999999999999)
    bench.command(2, "fan", expires=1795000000000000)
    assert replies(bench.publish()) == [(1, 3, None), (2, 0, None)]
    assert len(bench.calls) == 1


def check_a_board_without_the_time_does_not_judge():
    bench = bench_with(lambda args: None, time=None)
    bench.command(1, "fan", expires=1)
    assert replies(bench.publish()) == [(1, 0, None)]


def check_sixteen_are_remembered():
    bench = bench_with(lambda args: None)
    for number in range(17):
        bench.command(number, "fan")
        for packet in bench.publish():
            if packet.kind == 3:
                bench.puback(packet)
    assert len(bench.calls) == 17
    bench.command(1, "fan")
    assert len(bench.calls) == 17
    bench.command(0, "fan")
    assert len(bench.calls) == 18


def check_a_reply_is_kept_over_a_lost_connection():
    bench = bench_with(lambda args: 5)
    bench.command(1, "fan")
    first = [p for p in bench.publish() if p.kind == 3]
    bench.drop()
    (again,) = bench.online()
    assert not first[0].dup
    assert again.dup
    assert again.payload == first[0].payload
    bench.puback(again)
    bench.drop()
    assert bench.online() == []


def check_replies_go_before_readings():
    bench = bench_with(lambda args: None, window=1)
    bench.core.emit("k", 1)
    bench.core.emit("k", 2)
    bench.command(1, "fan")
    assert replies(bench.publish()) == [(1, 0, None)]


def check_what_is_not_a_command_is_acknowledged_and_reported():
    bench = bench_with(lambda args: None)
    bench.receive(b"\x32\x1a\0\x14/devices/b1/commands\0\x09\xa0!")
    puback, report = bench.publish()
    assert puback.kind == 4
    assert puback.packet == 9
    assert report.form()[4]["in"] == "command"
