"""Topics of devices with a dialect of their own, as events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.registry import Registry
from edge_runtime.clock import ManualClock
from edge_runtime.config import Mappings, MappingSettings
from edge_runtime.errors import ConfigError, WireError
from edge_runtime.events import DEVICE, NAME, Event
from edge_runtime.ingress import dialects
from edge_runtime.ingress.admission import Admission, Verdict
from edge_runtime.ingress.dialects import Dialects
from edge_runtime.ingress.mappings import READY, Mapped, Mapper, Rule, mapper
from edge_runtime.ingress.pace import SECOND, Allowance, Pace
from edge_runtime.ingress.stamps import Stamps
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import DeadLetter
from edge_runtime.proto import mqtt
from tests.ingress.mqtt_house import eventually

ALL = mapper(list(READY), {})


def one(rule: Rule, topic: str, payload: Any) -> Mapped | None:
    encoded = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Mapper([("here", rule)]).map(topic, encoded)


@pytest.mark.parametrize(
    ("topic", "payload", "device", "kind", "data"),
    [
        (
            "tele/kitchen/SENSOR",
            {"Time": "2026-11-22T10:00:00", "SHT3X": {"Temperature": 20.4, "Humidity": 51}, "TempUnit": "C"},
            "kitchen",
            "sensor",
            {"Time": "2026-11-22T10:00:00", "SHT3X": {"Temperature": 20.4, "Humidity": 51}, "TempUnit": "C"},
        ),
        ("tele/plug-3/STATE", {"POWER": "ON", "Wifi": {"RSSI": 62}}, "plug-3", "state", None),
        ("tele/plug-3/LWT", b"Offline", "plug-3", "availability", {"status": "Offline"}),
        ("stat/plug-3/RESULT", {"POWER": "OFF"}, "plug-3", "result", {"POWER": "OFF"}),
        (
            "zigbee2mqtt/Living room",
            {"temperature": 19.8, "battery": 97, "linkquality": 84},
            "Living_room",
            "state",
            {"temperature": 19.8, "battery": 97, "linkquality": 84},
        ),
        (
            "zigbee2mqtt/door/availability",
            {"state": "online"},
            "door",
            "availability",
            {"status": {"state": "online"}},
        ),
        ("porch/sensor/outside_temperature/state", b"-3.5", "porch", "sensor", {"outside_temperature": -3.5}),
        ("porch/sensor/outside_temperature/state", b"nan", "porch", "sensor", {"outside_temperature": "nan"}),
        ("porch/binary_sensor/motion/state", b"ON", "porch", "binary_sensor", {"motion": "ON"}),
        ("porch/switch/lamp/state", b"OFF", "porch", "switch", {"lamp": "OFF"}),
        ("porch/text_sensor/version/state", b"2026.11", "porch", "text_sensor", {"version": 2026.11}),
        ("porch/status", b"online", "porch", "availability", {"status": "online"}),
    ],
)
def test_the_ready_ones(topic: str, payload: Any, device: str, kind: str, data: Any) -> None:
    encoded = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    assert ALL.map(topic, encoded) == Mapped(device, kind, None, payload if data is None else data)
    assert any(mqtt.matches(pattern, topic) for pattern in ALL.filters())


@pytest.mark.parametrize(
    "topic",
    [
        "cmnd/plug-3/POWER",
        "zigbee2mqtt/bridge/state",
        "zigbee2mqtt/door/set",
        "tele/SENSOR",
        "tele//SENSOR",
        "tele/gateway/SENSOR",
        "tele/---/SENSOR",
        "porch/sensor/x/command",
        "$SYS/status",
    ],
)
def test_what_is_no_event(topic: str) -> None:
    assert ALL.map(topic, b"1") is None


def test_fields_are_chosen_renamed_and_spread() -> None:
    payload = {"T": 1_763_800_000, "ENERGY": {"Power": 5, "Total": None}, "A": {"t": 1}, "B": {"t": 2}, "C": [7, 8]}
    rule = Rule(
        "m/{device}/{channel}",
        "{channel}.now",
        "meter-{device}",
        {"watts": "ENERGY.Power", "total": "ENERGY.Total", "{channel}_*": "*.t", "second": "C.1", "ninth": "C.9"},
        "T",
    )
    assert one(rule, "m/3/x", payload) == Mapped(
        "meter-3", "x.now", 1_763_800_000_000_000, {"watts": 5, "x_A": 1, "x_B": 2, "second": 8}
    )
    assert one(Rule("#", "k", "d", {"*": "ENERGY.*"}), "a/b", payload) == Mapped("d", "k", None, {"Power": 5})
    assert one(Rule("a/+", "k", "d", {"x": "none"}), "a/b", payload) is None
    assert one(Rule("a/#", "k", "d"), "a", b"\xff\xfe") == Mapped("d", "k", None, b"\xff\xfe")


@pytest.mark.parametrize(
    ("moment", "micros"),
    [
        (1_763_800_000, 1_763_800_000_000_000),
        (1_763_800_000_123, 1_763_800_000_123_000),
        (1_763_800_000_123_456, 1_763_800_000_123_456),
        ("2026-11-22T10:00:00Z", 1_795_341_600_000_000),
        ("2026-11-22T11:00:00+01:00", 1_795_341_600_000_000),
        ("2026-11-22T10:00:00", None),
        ("yesterday", None),
        (True, None),
        (-5, None),
    ],
)
def test_moments(moment: Any, micros: int | None) -> None:
    found = one(Rule("{device}", "k", time="at"), "d", {"at": moment})
    assert found is not None
    assert found.time == micros


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("a/{device", "k"), "'{device' is neither"),
        (Rule("a/x#", "k", "d"), "'x#' is neither"),
        (Rule("#/a", "k", "d"), "'#' is neither"),
        (Rule("{a}/{a}", "k", "{a}"), "the same name twice"),
        (Rule("a/b", "k"), "'{device}' is not in the topic"),
        (Rule("{device}", "k", fields={"*": "a"}), "do not go together"),
        (Rule("{device}", "k", fields={"a": "b*"}), "do not go together"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_with_its_place(rule: Rule, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mapper([], {"mine": rule})
    assert str(caught.value).startswith("mappings.own.mine: ")
    assert message in str(caught.value)


def test_settings_and_rules_have_the_same_fields() -> None:
    settings = MappingSettings("m/{device}", "power")
    rule = Rule(settings.topic, settings.kind, settings.device, settings.fields, settings.time)
    assert one(rule, "m/x", {"p": 1}) == Mapped("x", "power", None, {"p": 1})
    assert set(READY) == {"tasmota", "zigbee2mqtt", "esphome"}
    assert Mappings() == Mappings((), {})


@given(st.text(max_size=40), st.text(max_size=40), st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_whatever_comes_gives_valid_names_or_nothing(level: str, other: str, payload: bytes) -> None:
    for topic in (level, f"tele/{level}/SENSOR", f"{level}/sensor/{other}/state", f"zigbee2mqtt/{level}"):
        try:
            found = ALL.map(topic, payload)
        except WireError:
            continue
        if found is not None:
            assert DEVICE.fullmatch(found.device)
            assert NAME.fullmatch(found.kind)


def test_a_payload_that_cannot_be_an_events_says_why() -> None:
    with pytest.raises(WireError, match="64 bits"):
        ALL.map("tele/x/SENSOR", b'{"n": 99999999999999999999}')
    with pytest.raises(WireError, match="nested deeper"):
        ALL.map("tele/x/SENSOR", b"[" * 20 + b"]" * 20)


# In use


async def test_messages_become_events_with_an_identity_of_the_gateway() -> None:
    clock = ManualClock()
    journal = MemoryJournal()
    pace = Pace(clock, lambda _device: Allowance(2, 0, SECOND))
    admission = await Admission.open(journal, await Registry.open(journal, clock), clock, print, pace=pace)
    log: list[str] = []
    desk = Dialects(ALL, admission, Stamps(b"b" * 8), log.append)
    verdicts: list[Verdict] = []
    for value in (1, 1, 2):
        assert desk.take("tele/kitchen/SENSOR", b'{"n": %d}' % value, verdicts.append, certain=True)
    await eventually(lambda: len(verdicts) == 3)
    events = [r for r in journal.records() if isinstance(r, Event)]
    assert [(e.device, e.boot, e.seq, e.data) for e in events] == [
        ("kitchen", b"b" * 8, 0, {"n": 1}),
        ("kitchen", b"b" * 8, 1, {"n": 1}),
        ("kitchen", b"b" * 8, 2, {"n": 2}),
    ]
    assert not desk.take("tele/kitchen/SENSOR", b'{"n": 3}', verdicts.append, certain=False), "beyond its pace"
    assert pace.dropped == {"kitchen": 1}
    assert not desk.take("cmnd/kitchen/POWER", b"1", verdicts.append, certain=True)
    assert desk.take("tele/hall/SENSOR", b"[" * 20 + b"]" * 20, verdicts.append, certain=True)
    await eventually(lambda: len(verdicts) == 4)
    assert verdicts[-1] is Verdict.DEAD
    assert isinstance(journal.records()[-1], DeadLetter)
    assert (desk.mapped, desk.unmapped, log) == (4, 0, [])


async def test_topics_cannot_make_up_any_number_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialects, "MAX_DEVICES", 2)
    clock = ManualClock()
    journal = MemoryJournal()
    admission = await Admission.open(journal, await Registry.open(journal, clock), clock, print)
    log: list[str] = []
    desk = Dialects(ALL, admission, Stamps(b"b" * 8), log.append)
    taken = [desk.take(f"tele/{name}/SENSOR", b"1", lambda _verdict: None, certain=True) for name in "abca"]
    assert taken == [True, True, False, True]
    assert "more than 2 devices" in log[0]
