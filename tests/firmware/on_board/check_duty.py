"""A board that sleeps: what it does between two sleeps, and what goes on over them."""

import os

from bench_gateway import Bench, raises
from edge_device import duty, parts, spool, watchdog
from edge_device.config import Config, ConfigError


class Asleep(Exception):
    """Deep sleep: nothing goes on after it."""


class Power:
    """What outlives the sleep, and a network that takes some seconds to join."""

    def __init__(self):
        self.memory = b""
        self.slept = None
        self.told = []
        self.is_joined = False

    def recall(self):
        return self.memory

    def remember(self, data):
        self.memory = data

    def sleep(self, ms):
        self.slept = ms
        raise Asleep

    def radio(self, on):
        self.told.append(on)

    def joined(self):
        return self.is_joined


def clean():
    for name in os.listdir("/duty-spool") if "duty-spool" in os.listdir("/") else ():
        os.remove("/duty-spool/" + name)


def wake(power, uptime=0, **options):
    """The board starts, from nothing or from a sleep; it takes a reading each minute."""
    bench = Bench()
    bench.hal.now = uptime
    bench.core.boot = bytes([len(power.told)] * 8)  # another one for each start that is not an awakening
    form = {"every": 3, "most": 3600, "listen": 2, "online": 30}
    form.update(options)
    duty.attach(bench.core, form, power)
    spool.attach(bench.core, {"path": "/duty-spool", "after": 60, "priority": {"alarm": 1}})
    bench.core.every(60000, lambda: bench.core.emit("k", bench.hal.now))
    return bench


def sleeps(bench, power):
    """Let the board run until it sleeps; returns for how long."""
    power.slept = None
    try:
        for _ in range(1000):
            bench.hal.now += bench.step()
    except Asleep:
        return power.slept
    raise AssertionError("it does not sleep")


def contact(bench, power):
    """Let it join, connect, send all and listen; returns what was published."""
    power.is_joined = True
    for _ in range(5):
        bench.step(50)
    assert power.told[-1] is True
    packets = bench.online()
    for packet in packets:
        bench.puback(packet)
    return packets


def readings(packet):
    form = packet.form()
    return [form[1] + n for n in range(len(form.get(5, [0])))]


def check_it_sends_after_a_start_and_then_every_so_many_readings():
    clean()
    power = Power()
    bench = wake(power)
    (first,) = contact(bench, power)
    boot = bench.core.boot
    assert readings(first) == [0]
    slept = sleeps(bench, power)
    assert power.told == [True, False]
    assert 50000 < slept < 58000, slept
    for n in (1, 2):
        bench = wake(power)
        assert bench.core.boot == boot
        assert sleeps(bench, power) == 60000
        assert len(bench.core.queue) == n
        assert bench.hal.now == n * 60000
    bench = wake(power)
    (batch,) = contact(bench, power)
    assert batch.form()[0] == boot
    assert readings(batch) == [1, 2, 3]
    assert [each[2] // 1000 for each in batch.form()[5]] == [60, 120, 180]
    assert batch.form()[2] == 1795000060000000
    sleeps(bench, power)
    assert power.told == [True, False, True, False]


def check_an_urgent_reading_does_not_wait():
    clean()
    power = Power()
    bench = wake(power)
    contact(bench, power)
    sleeps(bench, power)
    bench = wake(power)
    bench.core.emit("alarm", 1)
    (batch,) = contact(bench, power)
    assert len(readings(batch)) == 2


def check_a_gateway_that_is_away_costs_a_bounded_time():
    clean()
    power = Power()
    bench = wake(power)
    sleeps(bench, power)
    assert power.told == [True, False]
    assert bench.hal.now < 32000
    for _ in range(2):
        bench = wake(power)
        sleeps(bench, power)
    assert power.told == [True, False], "it is tried again with three readings more"
    bench = wake(power)
    (batch,) = contact(bench, power)
    assert readings(batch) == [0, 1, 2, 3]


def check_a_command_is_answered_before_it_sleeps():
    clean()
    power = Power()
    bench = wake(power)
    bench.core.commands.handlers["fan"] = lambda args: args
    contact(bench, power)
    bench.step(100)
    bench.command(5, "fan", 7)
    bench.step(50)
    (_, reply) = bench.sent()
    assert reply.topic == "/devices/b1/replies"
    for _ in range(3):
        bench.step(1500)
    assert power.slept is None
    bench.puback(reply)
    sleeps(bench, power)


def check_a_start_without_the_memory_is_a_new_boot():
    clean()
    power = Power()
    bench = wake(power)
    contact(bench, power)
    bench.core.emit("k", 1)
    sleeps(bench, power)
    for memory in (b"", power.memory[:-1], b"x" + power.memory[1:]):
        other = Power()
        other.memory = memory
        bench = wake(other)
        assert bench.core._seq == 0
        assert bench.hal.now == 0
    assert other.memory == b"", "what was remembered is good for one start"
    power = Power()
    power.told = [0] * 7  # so that it draws another boot
    old, new = contact(wake(power), power)
    assert old.form()[0] != new.form()[0]
    assert readings(old) == [1]


def check_no_sleep_is_longer_than_a_board_takes():
    clean()
    power = Power()
    options = {"most": 20000, "every": 100}

    def start():
        bench = wake(power, **options)
        bench.core._timers[0].period = 7200000
        return bench

    bench = start()
    contact(bench, power)
    assert sleeps(bench, power) == 3600000
    told = len(power.told)
    bench = start()
    assert 3500000 < sleeps(bench, power) <= 3600000
    assert len(power.told) == told, "it only turns over"
    assert len(bench.core.queue) == 0
    bench = start()
    sleeps(bench, power)
    assert len(bench.core.queue) == 1


def check_a_watchdog_that_goes_on_in_the_sleep_is_refused():
    class Pico:
        platform = "rp2"

    form = {"device": "b1", "key": "k", "host": "h", "port": 1, "duty": {}, "spool": {}, "watchdog": 8}
    sys = parts.sys
    parts.sys = Pico
    try:
        assert "goes on in the sleep" in raises(ConfigError, parts.attach, Bench().core, Config(form).parts)
    finally:
        parts.sys = sys


def check_readings_in_ram_alone_keep_it_awake():
    clean()
    power = Power()
    bench = wake(power)
    contact(bench, power)
    store = bench.core.queue._store

    def broken(segment, data):
        raise OSError(28)

    store._files.append = broken
    while power.told[-1]:
        bench.hal.now += bench.step()
    bench.core.emit("k", 1)
    for _ in range(20):
        bench.hal.now += bench.step()
    assert power.slept is None
    assert power.told == [True, False]
    assert "the spool cannot be written" in " ".join(bench.lines)


def check_the_dog_is_fed_by_whole_steps_alone():
    class Dog:
        fed = 0

        def feed(self):
            self.fed += 1

    dog = Dog()
    bench = Bench()
    watchdog.attach(bench.core, 8, dog)
    assert bench.step() <= 2000
    assert dog.fed == 1

    def fail():
        raise MemoryError

    bench.core.every(1000, fail)
    raises(MemoryError, bench.step)
    assert dog.fed == 1
    assert "watchdog" in raises(ValueError, watchdog.attach, bench.core, 0, dog)


def check_settings_that_are_wrong_are_named():
    for wrong in ({"every": 0}, {"evry": 3}, {"most": "1"}, 5):
        assert "'duty'" in raises(ValueError, duty.attach, Bench().core, wrong, Power())
    form = {"device": "b1", "key": "k", "host": "h", "port": 1, "duty": {}}
    core = Bench().core
    assert "needs a 'spool'" in raises(ConfigError, parts.attach, core, Config(form).parts, "/edge.json")
    for wrong in ({"bytes": 1}, {"byts": 5000}, {"segment": 60000}, 7):
        assert "'spool'" in raises(ConfigError, parts.attach, core, {"spool": wrong}, "/edge.json")
