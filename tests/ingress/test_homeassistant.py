"""What Home Assistant is told."""

from __future__ import annotations

import json
from typing import Any

from edge_runtime.events import Event
from edge_runtime.ingress import homeassistant
from edge_runtime.ingress.homeassistant import Control, HomeAssistant
from edge_runtime.journal.records import Device, Stored


class Broker:
    def __init__(self) -> None:
        self.up = True
        self.sent: list[tuple[str, Any, bool]] = []

    def publish(self, topic: str, payload: bytes, retain: bool) -> bool:
        if self.up:
            self.sent.append((topic, json.loads(payload) if payload else None, retain))
        return self.up


def stored(data: Any, device: str = "gh.1", **more: Any) -> list[Stored]:
    return [Stored(0, Event(device, b"8 bytes.", 0, "climate", 1, 1, data, **more))]


def test_each_field_becomes_an_entity_once_and_each_event_a_state() -> None:
    broker = Broker()
    house = HomeAssistant("homeassistant", "north", {"gh.1"}, broker.publish)
    house.hear(stored({"temperature": 21.5, "door": True, "mode": "auto", "raw": b"x", "deep": {}, "a'b": 1, 7: 1}))
    topics = [topic for topic, _, _ in broker.sent]
    assert topics == [
        "homeassistant/sensor/edge_gh_1/climate_temperature/config",
        "homeassistant/binary_sensor/edge_gh_1/climate_door/config",
        "homeassistant/sensor/edge_gh_1/climate_mode/config",
        "edge/north/gh.1/climate",
    ]
    assert [retain for _, _, retain in broker.sent] == [True, True, True, False]
    temperature = broker.sent[0][1]
    assert temperature["unique_id"] == "edge-north-gh.1-climate-temperature"
    assert temperature["state_topic"] == "edge/north/gh.1/climate"
    assert (temperature["device_class"], temperature["unit_of_measurement"]) == ("temperature", "°C")
    assert temperature["value_template"] == "{{ value_json['temperature'] | default(this.state) }}"
    assert broker.sent[3][1] == {"temperature": 21.5, "door": True, "mode": "auto"}
    house.hear(stored({"temperature": 22}))
    assert broker.sent[4:] == [("edge/north/gh.1/climate", {"temperature": 22}, False)]
    house.hear(stored(5))
    assert broker.sent[5][0] == "homeassistant/sensor/edge_gh_1/climate_value/config"


def test_others_and_what_is_not_of_now_are_left_out() -> None:
    broker = Broker()
    house = HomeAssistant("homeassistant", "north", {"gh.1"}, broker.publish)
    house.hear(stored({"t": 1}, device="zigbee"))
    house.hear(stored({"t": 1}, quiet=True))
    house.hear(stored({"t": 1}, late=True))
    house.hear(stored({"list": [1]}))
    assert broker.sent == []


def test_what_could_not_be_told_is_told_again() -> None:
    broker = Broker()
    house = HomeAssistant("homeassistant", "north", {"gh.1"}, broker.publish)
    broker.up = False
    house.hear(stored({"t": 1}))
    broker.up = True
    house.hear(stored({"t": 2}))
    assert len(broker.sent) == 2


def test_entities_are_bounded() -> None:
    broker = Broker()
    house = HomeAssistant("homeassistant", "north", {"gh.1"}, broker.publish)
    for start in range(0, 2 * homeassistant.MAX_ENTITIES, 60):
        house.hear(stored({f"f{n}": n for n in range(start, start + 60)}))
    assert sum(retain for _, _, retain in broker.sent) == homeassistant.MAX_ENTITIES
    house.hear(stored({f"g{n}": n for n in range(1000)}))
    assert len(broker.sent[-1][1]) == homeassistant.MAX_FIELDS


def test_controls_are_offered_for_the_devices_they_fit_and_taken_back() -> None:
    broker = Broker()
    controls = [
        Control("restart", "restart", ["gh.*"]),
        Control("fan 1", "fan", [], '{"on":true}', '{"on":false}', "status.fan"),
        Control("pump", "pump", ["other"]),
    ]
    house = HomeAssistant("homeassistant", "north", {"gh.1"}, broker.publish, controls)
    broker.up = False
    house.offer("gh.1")
    broker.up = True
    house.hear([Stored(0, Device("gh.1", b"", 1))])
    house.hear([Stored(1, Device("gh.1", b"", 1, tags={"room": "a"}))])
    (button_topic, button, kept), (switch_topic, switch, _) = broker.sent
    assert kept
    assert button_topic == "homeassistant/button/edge_gh_1/control_restart/config"
    assert (button["command_topic"], button["payload_press"]) == ("/devices/gh.1/commands/restart", "null")
    assert switch_topic == "homeassistant/switch/edge_gh_1/control_fan_1/config"
    assert (json.loads(switch["payload_on"]), json.loads(switch["payload_off"])) == ({"on": True}, {"on": False})
    assert switch["state_topic"] == "edge/north/gh.1/status"
    assert (switch["state_on"], switch["state_off"]) == ("True", "False")
    broker.sent.clear()
    house.hear([Stored(2, Device("gh.1", b"", 1, removed=2))])
    assert broker.sent == [(button_topic, None, True), (switch_topic, None, True)]
