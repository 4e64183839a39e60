"""The face that programs are written against, and the settings file."""

import sys

from bench_gateway import raises
from edge_device.config import Config, ConfigError, load
from edge_device.device import Device

GOOD = {"device": "b1", "key": "k", "host": "h", "port": 1883}


def changed(**changes):
    form = dict(GOOD)
    form.update(changes)
    return form


def check_the_settings_file():
    with open("edge.json", "w") as file:
        file.write('{"device": "b1", "key": "k", "host": "h", "port": 1883, "queue": 7, "settings": {"pin": 5}}')
    device = Device.load("edge.json")
    assert device.settings == {"pin": 5}
    assert device.config.options["queue"] == 7
    assert device.config.options["keepalive"] == 30
    assert "there is no settings file none.json" in raises(ConfigError, load, "none.json")
    with open("edge.json", "w") as file:
        file.write("{")
    assert "not valid JSON" in raises(ConfigError, load, "edge.json")


def check_what_is_wrong_in_it_is_named():
    for name in GOOD:
        form = changed()
        del form[name]
        assert "has no '" + name + "'" in raises(ConfigError, Config, form)
    for name, value in (
        ("port", 0),
        ("port", "1883"),
        ("port", True),
        ("key", ""),
        ("host", 1),
        ("queue", 1),
        ("keepalive", 1.5),
        ("settings", []),
        ("keepalife", 30),
        ("device", "a/b"),
    ):
        text = raises(ConfigError, Config, changed(**{name: value}))
        assert name in text, text
    assert "object" in raises(ConfigError, Config, [])


def check_every_and_emit():
    device = Device(Config(GOOD))
    values = [{"t": 1}, None, {"t": 2}]

    @device.every(seconds=0.001)
    def climate():
        return values.pop(0)

    for now in (1, 2, 3):
        device.core.step(now)
    assert device.emit("door", {"open": True}) == 2
    batch = device.core.queue.take(16, 1000)
    assert [(r[0], r[1]) for r in batch] == [(0, "climate"), (1, "climate"), (2, "door")]


def check_a_sensor_that_fails_does_not_stop_the_others():
    device = Device(Config(GOOD))
    device.core.log = lambda text: None

    @device.every(seconds=1, kind="bad")
    def broken():
        raise OSError(5)

    @device.every(seconds=1)
    def good():
        return 1

    device.core.step(1)
    assert [r[1] for r in device.core.queue.take(16, 1000)] == ["edge.error", "good"]


def check_names_are_checked_where_they_are_given():
    device = Device(Config(GOOD))
    raises(ValueError, device.on_command, "a b")
    raises(ValueError, device.every, 0)
    raises(ValueError, device.every(1, kind="a/b"), lambda: 1)


def check_commands_find_their_function():
    device = Device(Config(GOOD))

    @device.on_command("fan")
    def fan(args):
        return args

    assert fan(3) == 3
    assert device.core.commands.handlers["fan"] is fan


def check_too_little_memory_for_updates_costs_the_updates_alone():
    class Small:
        @staticmethod
        def attach(_core):
            raise MemoryError

    device = Device(Config(GOOD))
    lines = []
    device.core.log = lines.append
    sys.modules["edge_boot"] = sys.modules["edge_device.ota"] = Small
    try:
        assert device.updates() is None
    finally:
        del sys.modules["edge_boot"]
        del sys.modules["edge_device.ota"]
    assert device.core.ota is None
    assert lines == ["there is too little memory for updates"]
    assert device.updates() is None, "there is no boot loader"
    assert len(lines) == 1


def check_every_start_has_another_boot_id():
    assert Device(Config(GOOD)).core.boot != Device(Config(GOOD)).core.boot
    assert len(Device(Config(GOOD)).core.boot) == 8
