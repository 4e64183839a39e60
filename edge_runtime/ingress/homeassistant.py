"""Our devices in Home Assistant: its MQTT discovery, derived from the kinds and fields of the events that come.

For each field of a registered device's events there is one retained message that describes an entity, and for each
event one with its data, which the entity reads. Which commands a device knows nobody can see: buttons and switches are
named in the configuration, and what Home Assistant then publishes is a command as any program may give it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from edge_runtime.events import Event
from edge_runtime.ingress.allowances import fits
from edge_runtime.ingress.broker.devices import Known
from edge_runtime.journal.records import Device, Stored

MAX_ENTITIES = 5_000
MAX_FIELDS = 64
"""Fields of one kind that become entities."""
MAX_TEXT = 255
"""Characters of a state in Home Assistant."""
_FIELD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ -]{0,63}")
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_CLASSES = {
    "temperature": ("temperature", "°C"),
    "humidity": ("humidity", "%"),
    "pressure": ("atmospheric_pressure", "hPa"),
    "battery": ("battery", "%"),
    "voltage": ("voltage", "V"),
    "current": ("current", "A"),
    "power": ("power", "W"),
    "energy": ("energy", "kWh"),
    "co2": ("carbon_dioxide", "ppm"),
    "illuminance": ("illuminance", "lx"),
}
"""What a field's name says of its unit, where everybody means the same by it."""

Publish = Callable[[str, bytes, bool], bool]
"""Topic, payload, whether it is retained; False if it could not be sent."""


class Control(msgspec.Struct, frozen=True):
    """A command that is offered as a button, or as a switch."""

    name: str
    command: str
    devices: Sequence[str] = ()
    """As in `allowances.fits`."""
    on: str = "null"
    """The command's arguments in JSON."""
    off: str = ""
    """Of a switch, when it is turned off; empty for a button."""
    state: str = ""
    """`kind.field` by which the state of a switch is known."""


def command_topic(device: str, control: Control) -> str:
    """Where a control of a device is pressed at our own broker."""
    return f"/devices/{device}/commands/{control.command}"


class HomeAssistant:
    """Follows the journal and says what is new."""

    def __init__(
        self,
        prefix: str,
        gateway: str,
        devices: Known,
        publish: Publish,
        controls: Sequence[Control] = (),
        pressed: Callable[[str, Control], str] = command_topic,
    ) -> None:
        """`prefix` is Home Assistant's, usually `homeassistant`; `devices` are ours: others announce themselves.

        `pressed` is the topic on which a device's control is pressed: by default the command's at our own broker.
        """
        self._controls = controls
        self._pressed = pressed
        self._prefix = prefix
        self._gateway = gateway
        self._devices = devices
        self._publish = publish
        self._known: set[tuple[str, str, str]] = set()

    def hear(self, stored: Sequence[Stored]) -> None:
        """As a listener of the journal."""
        for item in stored:
            event = item.record
            if type(event) is Device:
                self.offer(event.id, gone=bool(event.removed))
            elif type(event) is Event and not event.quiet and not event.late and event.device in self._devices:
                self._tell(event)

    def announce(self, devices: Iterable[str]) -> None:
        """Begin anew, at a broker that may have forgotten everything: readings follow with their events."""
        self._known.clear()
        for device in devices:
            self.offer(device)

    def offer(self, device: str, *, gone: bool = False) -> None:
        """Announce the controls of a device, or that there are none any more."""
        for control in self._controls:
            if not fits(device, control.devices):
                continue
            component = "switch" if control.off else "button"
            topic = f"{self._prefix}/{component}/{_fit(f'edge_{device}')}/control_{_fit(control.name)}/config"
            key = (device, "", control.name)
            if gone and key in self._known and self._publish(topic, b"", True):
                self._known.discard(key)
            elif not gone and key not in self._known and len(self._known) < MAX_ENTITIES:
                entity = msgspec.json.encode(self._control(device, control))
                if self._publish(topic, entity, True):
                    self._known.add(key)

    def _control(self, device: str, control: Control) -> dict[str, Any]:
        entity: dict[str, Any] = {
            "name": control.name,
            "unique_id": f"edge-{self._gateway}-{device}-control-{control.name}",
            "command_topic": self._pressed(device, control),
            "qos": 1,
            **self._about(device),
        }
        if not control.off:
            return {**entity, "payload_press": control.on}
        entity |= {"payload_on": control.on, "payload_off": control.off}
        if control.state:
            kind, _, field = control.state.rpartition(".")
            entity |= {
                "state_topic": f"edge/{self._gateway}/{device}/{kind}",
                "value_template": f"{{{{ value_json['{field}'] | default('') }}}}",
                "state_on": "True",
                "state_off": "False",
            }
        return entity

    def _about(self, device: str) -> dict[str, Any]:
        return {
            "device": {"identifiers": [f"edge-{self._gateway}-{device}"], "name": device},
            "origin": {"name": "edge"},
        }

    def _tell(self, event: Event) -> None:
        data = event.data if type(event.data) is dict else {"value": event.data}
        shown = {name: value for name, value in list(data.items())[:MAX_FIELDS] if _is_state(name, value)}
        if not shown:
            return
        state_topic = f"edge/{self._gateway}/{event.device}/{event.kind}"
        for name, value in shown.items():
            key = (event.device, event.kind, name)
            if key not in self._known and len(self._known) < MAX_ENTITIES:
                component, entity = self._entity(event.device, event.kind, name, value, state_topic)
                node, place = _fit(f"edge_{event.device}"), _fit(f"{event.kind}_{name}")
                topic = f"{self._prefix}/{component}/{node}/{place}/config"
                if self._publish(topic, msgspec.json.encode(entity), True):
                    self._known.add(key)
        self._publish(state_topic, msgspec.json.encode(shown), False)

    def _entity(self, device: str, kind: str, name: str, value: Any, state_topic: str) -> tuple[str, dict[str, Any]]:
        entity: dict[str, Any] = {
            "name": f"{kind} {name}",
            "unique_id": f"edge-{self._gateway}-{device}-{kind}-{name}",
            "state_topic": state_topic,
            # A field that is missing this time leaves the entity as it was.
            "value_template": f"{{{{ value_json['{name}'] | default(this.state) }}}}",
            **self._about(device),
        }
        if type(value) is bool:
            return "binary_sensor", {**entity, "payload_on": "True", "payload_off": "False"}
        if type(value) is not str:
            entity["state_class"] = "measurement"
            if name in _CLASSES:
                entity["device_class"], entity["unit_of_measurement"] = _CLASSES[name]
            if name == "energy":
                entity["state_class"] = "total"
        return "sensor", entity


def _is_state(name: object, value: object) -> bool:
    if type(name) is not str or not _FIELD.fullmatch(name):
        return False
    return type(value) in (int, float, bool) or (type(value) is str and len(value) <= MAX_TEXT)


def _fit(text: str) -> str:
    return _UNFIT.sub("_", text)
