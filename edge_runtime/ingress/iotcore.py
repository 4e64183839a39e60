"""The device contract of the retired Google IoT Core, as far as it is words: names, topics, payloads, limits.

Pure functions, for the MQTT door (`iotcore_connection`) and for HTTP (`http`).
"""

from __future__ import annotations

import re
from hashlib import blake2s
from typing import Any

import msgspec

from edge_runtime import wire
from edge_runtime.errors import WireError
from edge_runtime.events import DEVICE, NAME
from edge_runtime.wire import Envelope, Reading

MAX_EVENT = 256 << 10
"""Bytes of an event."""
MAX_STATE = 64 << 10
"""Bytes of a state."""
EVENTS_PER_SECOND = 100
BYTES_PER_SECOND = 512 << 10
STATES_PER_SECOND = 1
MAX_ATTACHED = 1000
"""Devices behind one connection."""
IDLE = 1200
"""Seconds of silence after which a connection is closed, whatever keep-alive it asked for."""
PLAIN_KIND = "events"
"""The kind of what was sent without a sub folder."""

_PATH = re.compile(r"projects/([^/]{1,64})/locations/([^/]{1,64})/registries/([^/]{1,255})/devices/([^/]{1,255})")


class Names(msgspec.Struct, frozen=True):
    """What a fleet calls its cloud."""

    project: str
    region: str
    registry: str

    def device(self, path: str) -> str:
        """The device that a full path, such as a client id, names. Raises WireError."""
        found = _PATH.fullmatch(path)
        if found is None:
            raise WireError("its name has not the form projects/P/locations/L/registries/R/devices/D")
        if found.groups()[:3] != (self.project, self.region, self.registry):
            raise WireError("its name is that of another project, region or registry than those of [iotcore]")
        if not DEVICE.fullmatch(found[4]):
            raise WireError("its name has a device id that none can have here")
        return found[4]

    def attributes(self, device: str, folder: str) -> dict[str, str]:
        """What the retired service put beside an event."""
        return {
            "deviceId": device,
            "deviceNumId": number(device),
            "deviceRegistryId": self.registry,
            "deviceRegistryLocation": self.region,
            "projectId": self.project,
            "subFolder": folder,
        }

    def event(self, device: str, folder: str, payload: bytes, identity: tuple[bytes, int]) -> Envelope:
        """A telemetry message as an event. Raises WireError."""
        if len(payload) > MAX_EVENT:
            raise WireError(f"an event of {len(payload)} bytes; the limit is {MAX_EVENT}")
        data = {"payload": content(payload), "attributes": self.attributes(device, folder)}
        boot, seq = identity
        return Envelope(boot, [Reading(seq, kind(folder), None, 0, data)])


class Place(msgspec.Struct, frozen=True):
    """What a topic names."""

    device: str
    verb: str
    """`events`, `state`, `attach`, `detach`, or for subscriptions `config`, `commands`, `errors`."""
    folder: str = ""


def place(topic: str) -> Place | None:
    """Read a topic, or a topic filter; None for what is none of the contract's."""
    parts = topic.split("/", 4)
    if len(parts) < 4 or parts[0] or parts[1] != "devices" or not DEVICE.fullmatch(parts[2]):
        return None
    folder = parts[4] if len(parts) == 5 else ""
    verb = parts[3]
    plain = verb in ("state", "config", "attach", "detach", "errors") and len(parts) == 4
    if plain or verb in ("events", "commands"):
        return Place(parts[2], verb, folder)
    return None


def kind(folder: str) -> str:
    """The kind of event that a sub folder stands for: its own name, with dots for slashes. Raises WireError."""
    name = folder.replace("/", ".") or PLAIN_KIND
    if not NAME.fullmatch(name):
        raise WireError("its sub folder cannot be the name of a kind of event")
    return name


def content(payload: bytes) -> Any:
    """A payload that says nothing of its form: what it is as JSON, or else as text, or else the bytes themselves."""
    try:
        value = msgspec.json.decode(payload)
        wire.check_plain(value)
        return value
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, WireError):
        pass
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload


def number(device: str) -> str:
    """A number for a device, always the same one: the retired service gave each a random one."""
    return str(int.from_bytes(blake2s(device.encode(), digest_size=8).digest()) >> 1)


def authorization(payload: bytes) -> str:
    """The JWT in an `attach` message; empty for none. Raises WireError."""
    if not payload.strip():
        return ""
    try:
        return msgspec.json.decode(payload, type=_Attach).authorization
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise WireError('an attach message is {"authorization": "JWT"}, or empty') from None


class _Attach(msgspec.Struct):
    authorization: str = ""


def error(code: str, why: str, topic: str, device: str) -> bytes:
    """What is told on the `errors` topic."""
    message = {
        "error_type": code,
        "device_id": device,
        "description": why,
        "mqtt_message_info": {"message_type": "PUBLISH", "topic": topic},
    }
    return msgspec.json.encode(message)
