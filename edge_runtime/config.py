"""edge.toml as typed structs.

The text under each field is its documentation: `settings()` hands it to the template of `edge init` and to the test
that keeps docs/configuration.md true. What a person mistypes is answered with the file, the path of the setting and
what was expected.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from edge_runtime.errors import ConfigError, nearest

MAX_FILE = 1 << 20
"""Bytes of a configuration file."""


class _Unit(msgspec.Struct, frozen=True):
    """A quantity that may be written as text with a unit; `plain` is what a bare number counts."""

    name: str
    units: dict[str, int]
    plain: int

    def parse(self, value: Any) -> Any:
        """The quantity in its base unit; a value of another type is handed on for msgspec to refuse."""
        if type(value) is int or type(value) is float:
            return round(value * self.plain) if abs(value) < 2**53 else value
        if type(value) is not str:
            return value
        match = re.fullmatch(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)\s*([A-Za-z]+)", value.strip())
        if match is None or match[2] not in self.units:
            raise ValueError
        return round(float(match[1]) * self.units[match[2]])

    def show(self, value: int) -> str:
        """The exact text with the largest unit that fits."""
        if not value:
            return "0"
        factor, unit = max((f, u) for u, f in self.units.items() if f == 1 or (value and value % f == 0))
        return f'"{value // factor}{unit}"'


SIZE = _Unit("size", {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}, 1)
DURATION = _Unit(
    "duration",
    {"us": 1, "ms": 1000, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6},
    10**6,
)


def _size(ge: int, le: int) -> Meta:
    return Meta(ge=ge, le=le, extra={"unit": SIZE})


def _duration(ge: int, le: int) -> Meta:
    return Meta(ge=ge, le=le, extra={"unit": DURATION})


def _cores() -> int:
    return min(4, len(os.sched_getaffinity(0)))


class Gateway(msgspec.Struct, frozen=True):
    """The gateway itself."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = "gateway"
    """Its name towards the outside: letters, digits, `_`, `.` and `-`. Part of every event's `ce-source`."""
    data: Path = Path("data")
    """The folder of the journal, the deployed apps and the API's socket; relative to this file."""
    announce: bool = False
    """Make it known on the local network, by multicast DNS, where boards and programs can connect to it."""


class Mqtt(msgspec.Struct, frozen=True):
    """The MQTT front door, where boards connect."""

    listen: str = "127.0.0.1:1883"
    """Address and port, in the clear. One that others can reach, such as `0.0.0.0:1883`, needs `insecure = true`."""
    tls_listen: str = ""
    """Address and port with TLS, such as `0.0.0.0:8883`; empty for none."""
    websocket_listen: str = ""
    """Address and port for MQTT over WebSocket, in the clear; empty for none."""
    websocket_tls_listen: str = ""
    """Address and port for MQTT over WebSocket with TLS; empty for none."""
    certificate: str = ""
    """The certificate for TLS and its chain, a PEM file; by default that of `edge init --lan`. A new one is noticed."""
    key: str = ""
    """The private key of `certificate`, a PEM file."""
    client_ca: str = ""
    """Whose certificates let devices in, a PEM file; by default the gateway's own CA."""
    insecure: bool = False
    """Let it listen in the clear on addresses that others can reach: keys and readings cross the network readable."""
    max_packet: Annotated[int, _size(1 << 10, 256 << 20)] = 256 << 10
    """A larger packet closes its connection."""
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """Connections beyond these are refused."""

    @property
    def host(self) -> str:
        """The address of `listen`."""
        return _host_and_port(self.listen)[0]

    @property
    def port(self) -> int:
        """The port of `listen`; 0 for any free one."""
        return _host_and_port(self.listen)[1]

    @property
    def others(self) -> Iterator[tuple[str, str, int, bool, bool]]:
        """The addresses besides `listen`: setting, host, port, whether with TLS, whether for WebSocket."""
        for name, tls, websocket in (
            ("tls_listen", True, False),
            ("websocket_listen", False, True),
            ("websocket_tls_listen", True, True),
        ):
            address = getattr(self, name)
            if address:
                yield (f"mqtt.{name}", *_host_and_port(address), tls, websocket)


class Coap(msgspec.Struct, frozen=True):
    """The CoAP front door, where boards connect over UDP."""

    listen: str = ""
    """Address and port, such as `127.0.0.1:5683`; empty for no such door."""
    insecure: bool = False
    """Take keys in the clear from other machines too; without it, who comes over a network must speak OSCORE."""
    max_body: Annotated[int, _size(1 << 10, 1 << 20)] = 64 << 10
    """A larger body, in blocks, is refused."""

    @property
    def host(self) -> str:
        """The address of `listen`."""
        return _host_and_port(self.listen)[0]

    @property
    def port(self) -> int:
        """The port of `listen`; 0 for any free one."""
        return _host_and_port(self.listen)[1]


class Http(msgspec.Struct, frozen=True):
    """The HTTP door: endpoints of apps (`@app.http`) and, if wanted, devices."""

    listen: str = ""
    """Address and port, such as `127.0.0.1:8080`; empty for no such door."""
    insecure: bool = False
    """Let it listen on an address that others can reach, though tokens and contents cross the network in the clear."""
    tls: bool = False
    """Speak HTTPS, with the certificate of the MQTT door: `mqtt.certificate`, or that of the gateway's own CA."""
    timeout: Annotated[int, _duration(10_000, 600 * 10**6)] = 10_000_000
    """How long a request waits for its function; then it is answered with 202, and the function goes on."""
    max_body: Annotated[int, _size(0, 1 << 20)] = 256 << 10
    """A larger request is refused."""
    devices: bool = False
    """Let devices in here too: their events, states, configurations and commands, with their keys (docs/doors.md)."""
    max_requests: Annotated[int, Meta(ge=1, le=10_000)] = 64
    """Requests at a time; more are told to come back later. Connections at a time: twice as many."""

    @property
    def host(self) -> str:
        """The address of `listen`."""
        return _host_and_port(self.listen)[0]

    @property
    def port(self) -> int:
        """The port of `listen`; 0 for any free one."""
        return _host_and_port(self.listen)[1]


class IotCore(msgspec.Struct, frozen=True):
    """The names under which boards written for Google IoT Core know their cloud: devices with the profile `iotcore`."""

    project: Annotated[str, Meta(max_length=64)] = ""
    """The project, which is also the audience of their JWTs; empty if there are no such boards."""
    region: Annotated[str, Meta(max_length=64)] = "europe-west1"
    """The location of the registry."""
    registry: Annotated[str, Meta(max_length=255)] = "registry"
    """The registry's id."""


class SerialSettings(msgspec.Struct, frozen=True):
    """Serial ports, of this name, where boards are: on USB or a UART. What is given of the first three must all fit."""

    path: Annotated[str, Meta(max_length=255)] = "/dev/tty[AU][CS][MB]*"
    """A path or pattern, such as `/dev/ttyS0`; by default every serial port on USB."""
    usb: Annotated[str, Meta(max_length=9)] = ""
    """The USB id, `vid:pid` or `vid` in hex: `2e8a:0005` is MicroPython on a Pico."""
    number: Annotated[str, Meta(max_length=128)] = ""
    """The USB serial number."""
    baud: Annotated[int, Meta(ge=1200, le=4_000_000)] = 115_200
    """Bits per second on a UART; without meaning on USB."""
    auth: bool = True
    """Whether boards must prove that they have their key; `false` takes them at their word, on lines that you trust."""


class Journal(msgspec.Struct, frozen=True):
    """The durable log."""

    max_delay_ms: Annotated[float, Meta(ge=0, le=10_000)] = 0
    """How long a commit may wait for company, in milliseconds: more spares flash memory, and delays every PUBACK."""
    max_size: Annotated[int, _size(16 << 20, 1 << 50)] = 2 << 30
    """The size on disk beyond which nothing more is stored or acknowledged."""
    keep: Annotated[float, Meta(gt=0, le=1)] = 0.8
    """The share of `max_size` beyond which the oldest records are removed; 1 removes none for its size."""
    max_age: Annotated[int, _duration(0, 100 * 365 * 86400 * 10**6)] = 0
    """Records older than this are removed; 0 removes none for its age."""
    flow_budget: Annotated[int, _size(1 << 20, 1 << 50)] = 256 << 20
    """How much a flow that is behind may keep from being removed; beyond it, it gets a visible gap."""


class Functions(msgspec.Struct, frozen=True):
    """The sandbox that functions run in."""

    executors: Annotated[int, Meta(ge=1, le=256)] = msgspec.field(default_factory=_cores)
    """Processes that run functions; by default one for each core, at most 4."""
    time_limit: Annotated[int, _duration(1000, 3600 * 10**6)] = 500_000
    """How long a function may take for one event."""
    memory_limit: Annotated[int, _size(8 << 20, 4 << 30)] = 64 << 20
    """How much memory a function may use."""


_Module = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}(\.[A-Za-z_][A-Za-z0-9_]{0,63}){0,8}$")]


class AppSettings(msgspec.Struct, frozen=True):
    """The app of this name: what it may use (from its next deploy on), and how it is scaled."""

    time_limit: Annotated[int, _duration(0, 60 * 10**6)] = 0
    """How long a function may take for one event; 0 for what `[functions]` says."""
    load_time: Annotated[int, _duration(10_000, 60 * 10**6)] = 1_000_000
    """How long loading the app may take, its imports included."""
    memory_limit: Annotated[int, _size(0, 2 << 30)] = 0
    """How much memory an instance may use; 0 for what `[functions]` says."""
    output: Annotated[int, _size(1 << 10, 16 << 20)] = 256 << 10
    """How much a function may return, log and order for one event."""
    lines: Annotated[int, Meta(ge=0, le=10_000)] = 100
    """Log lines for one event."""
    effects: Annotated[int, Meta(ge=0, le=10_000)] = 100
    """Commands and emitted events for one event."""
    state: Annotated[int, _size(0, 1 << 20)] = 64 << 10
    """How much state a function may keep of one device."""
    cpu: Annotated[float, Meta(ge=0.01, le=1.0)] = 1.0
    """The share of one core that the app may use in the long run; beyond it, it waits while others go on."""
    tier: Literal["sandbox", "native"] = "sandbox"
    """What holds it: `"sandbox"` (WebAssembly in a jailed process) or `"native"` (a jailed process alone)."""
    preload: Annotated[tuple[_Module, ...], Meta(max_length=32)] = ()
    """Installed modules, such as `"numpy"`, that an app of the native tier may import."""
    min: Annotated[int, Meta(ge=0, le=256)] = 0
    """Instances that are kept while nobody calls."""
    max: Annotated[int, Meta(ge=0, le=256)] = 0
    """Instances at most, and so calls at a time; 0 for as many as there are executors, which is also the most."""
    idle: Annotated[int, _duration(10**6, 365 * 86400 * 10**6)] = 600_000_000
    """Instances above `min` are taken back when the app has not been called for so long."""


class HttpCloudEvents(msgspec.Struct, frozen=True):
    """A target of bridge routes: an HTTP endpoint that takes CloudEvents (a cloud function, for one)."""

    type: Literal["http-cloudevents"]
    """CloudEvents 1.0 over HTTP in binary mode: one POST for each event."""
    url: str
    """Where to POST: `http://` or `https://`."""
    timeout: Annotated[int, _duration(1000, 600 * 10**6)] = 10_000_000
    """How long one delivery may take before it is tried again."""
    source: Annotated[str, Meta(max_length=256)] = ""
    """What `ce-source` starts with; by default `//edge/` and the gateway's name."""


class Admission(msgspec.Struct, frozen=True):
    """How fast each device may send; one that is faster is slowed down, and what cannot be kept back is counted."""

    rate: Annotated[float, Meta(ge=0, le=1_000_000)] = 1000
    """Messages a second in the long run; 0 for no limit."""
    bytes: Annotated[int, _size(0, 1 << 40)] = 4 << 20
    """Bytes a second in the long run; 0 for no limit."""
    burst: Annotated[int, _duration(10**6, 3600 * 10**6)] = 5_000_000
    """What may come at once after a silence: as much as in so long a time."""
    clock_skew: Annotated[int, _duration(0, 365 * 86400 * 10**6)] = 300_000_000
    """A device whose clock seems to be off by more is reported; its events keep their own time. 0 for never."""


class SchemaSettings(msgspec.Struct, frozen=True):
    """What events of this kind must look like; one that does not becomes a dead letter."""

    file: Path
    """A JSON Schema (draft 2020-12), relative to this file."""


_Dialect = Literal["tasmota", "zigbee2mqtt", "esphome"]


_KIND = Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9][A-Za-z0-9_.-]*$")
_YEAR = 366 * 86_400_000_000


_Patterns = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=128)], ...],
    Meta(max_length=256, description='a list of ids or patterns of them, such as ["gh-*"]'),
]


class PaceSettings(msgspec.Struct, frozen=True):
    """How fast some devices may send. The first such table that a device fits stands in the place of [admission]."""

    devices: _Patterns = ()
    """Ids of devices, `*` and `?` stand for any letters and for one; without any: all devices."""
    tags: Annotated[dict[str, str], Meta(max_length=16)] = {}
    """Tags that a device must have, all of them."""
    rate: Annotated[float, Meta(ge=0, le=1_000_000)] = 1000
    """Messages a second in the long run; 0 for no limit."""
    bytes: Annotated[int, _size(0, 1 << 40)] = 4 << 20
    """Bytes a second in the long run; 0 for no limit."""
    burst: Annotated[int, _duration(10**6, 3600 * 10**6)] = 5_000_000
    """What may come at once after a silence: as much as in so long a time."""


class ControlSettings(msgspec.Struct, frozen=True):
    """A command that Home Assistant offers for some devices: a button, or with `off` a switch."""

    command: Annotated[str, _KIND]
    """The command's name."""
    devices: _Patterns = ()
    """Ids of devices, `*` and `?` stand for any letters and for one; without any: all devices."""
    on: Annotated[str, Meta(max_length=4096)] = "null"
    """The arguments, in JSON, with which a button, or a switch that is turned on, sends it."""
    off: Annotated[str, Meta(max_length=4096)] = ""
    """The same for a switch that is turned off; empty for a button."""
    state: Annotated[str, Meta(max_length=130)] = ""
    """For a switch: `kind.field`, the true-or-false field of an event that tells its state; empty to guess it."""


class StreamSettings(msgspec.Struct, frozen=True):
    """A computation over events without any code: windows where there is `compute`, else the steps alone."""

    kind: Annotated[str, _KIND]
    """The kind of events that it takes."""
    emit: Annotated[str, _KIND]
    """The kind of the events that it makes."""
    where: Annotated[str, Meta(max_length=1000)] = ""
    """A condition that events have to meet, such as `"temperature > -40"`."""
    steps: Annotated[
        tuple[str, ...], Meta(max_length=32, description='a list of steps, such as ["filter temperature > -40"]')
    ] = ()
    """What is done to events first, in order, such as `"map celsius = (f - 32) * 5 / 9"` (docs/streams.md)."""
    compute: Annotated[
        dict[str, str], Meta(max_length=64, description='a table of texts, such as { mean = "mean(temperature)" }')
    ] = {}
    """What is computed over each window, by name, such as `{ p95 = "quantile(temperature, 0.95)" }`."""
    every: Annotated[int, _duration(0, _YEAR)] = 0
    """How often a window begins."""
    size: Annotated[int, _duration(0, _YEAR)] = 0
    """How long a window is; 0 for as long as `every`."""
    gap: Annotated[int, _duration(0, _YEAR)] = 0
    """Makes sessions instead: windows that end where for so long there was no event."""
    by: Annotated[str, Meta(max_length=128)] = "device"
    """What windows are kept apart by: `device`, a field such as `data.zone`, or nothing."""
    lateness: Annotated[int, _duration(0, _YEAR)] = 0
    """How much later events may come."""
    delay: Annotated[int, _duration(0, _YEAR)] = 0
    """How far behind the newest event of a device others of it are waited for."""
    idle: Annotated[int, _duration(1_000_000, _YEAR)] = 60_000_000
    """A device that is silent for so long is not waited for."""
    accumulation: Literal["discarding", "accumulating", "retracting"] = "discarding"
    """What a further result of a window holds: what is new, all of it, or that after one that takes back the last."""
    early_count: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """A result before the end of a window after so many events; 0 for none."""
    early_every: Annotated[int, _duration(0, _YEAR)] = 0
    """A result before the end of a window every so often; 0 for none."""
    late_every: Annotated[int, _duration(0, _YEAR)] = 0
    """Results of events that came late are put together for so long; 0 for one with each."""
    time: Literal["event", "processing"] = "event"
    """By when a reading was taken, or by the gateway's clock."""
    absent: Annotated[int, _duration(0, _YEAR)] = 0
    """Instead of `compute`: an event when a device that was heard of is silent for so long."""
    late: Annotated[str, Meta(max_length=64, pattern="^([A-Za-z0-9][A-Za-z0-9_.-]*)?$")] = ""
    """The kind under which events that come too late are emitted; empty: they are dead letters."""
    start: Literal["latest", "earliest"] = "latest"
    """Where a new computation begins."""


class MappingSettings(msgspec.Struct, frozen=True):
    """A mapping of your own, under a free name: messages of other devices become events."""

    topic: Annotated[str, Meta(min_length=1, max_length=1024)]
    """Which topics: `{name}` stands for one level and names it, `+` for one level, `#` at the end for the rest."""
    kind: Annotated[str, Meta(min_length=1, max_length=256)]
    """The kind of event; may contain names of the topic in braces."""
    device: Annotated[str, Meta(min_length=1, max_length=256)] = "{device}"
    """The device; may contain names of the topic in braces. What a device id cannot have becomes `_`."""
    fields: Annotated[dict[str, str], Meta(max_length=64)] = {}
    """The event's fields and where they stand in the payload, as in `{ t = "ENERGY.Power" }`; by default all of it."""
    time: Annotated[str, Meta(max_length=256)] = ""
    """Where the time stands in the payload; empty for the time of arrival."""


class Mappings(msgspec.Struct, frozen=True):
    """Which messages of programs and of an attached broker become events."""

    use: Annotated[tuple[_Dialect, ...], Meta(max_length=8)] = ()
    """Ready-made mappings: `"tasmota"`, `"zigbee2mqtt"`, `"esphome"`."""
    own: dict[str, MappingSettings] = {}


class Attach(msgspec.Struct, frozen=True):
    """A broker that is there already, to take events from."""

    url: str = ""
    """`mqtt://host:1883` or `mqtts://host:8883`; empty for none."""
    client_id: Annotated[str, Meta(max_length=64)] = ""
    """The name of the session at the broker, where messages wait; by default `edge-` and the gateway's name."""
    user: Annotated[str, Meta(max_length=256)] = ""
    """The user name there."""
    password_file: str = ""
    """A file with the password, which only its owner can read."""
    ca: str = ""
    """Whose certificate the broker's must be signed by, a PEM file; by default the machine's authorities."""
    certificate: str = ""
    """A client certificate, a PEM file."""
    key: str = ""
    """Its private key, a PEM file."""
    group: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{0,64}$")] = ""
    """Several gateways with the same group share the messages among them; empty to get all of them."""
    devices: bool = True
    """Whether to take our own envelopes from `/devices/...` there; the mappings are used in any case."""
    max_waiting: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """Messages that the broker may send ahead of our acknowledgements."""
    discovery: Annotated[str, Meta(max_length=64)] = ""
    """Where to announce our devices for Home Assistant, such as `homeassistant`; without a `url`, at our own broker."""

    @property
    def address(self) -> tuple[bool, str, int]:
        """Whether with TLS, the host, the port."""
        parts = urlsplit(self.url)
        tls = parts.scheme == "mqtts"
        return tls, parts.hostname or "", parts.port or (8883 if tls else 1883)


TARGETS: dict[str, type[HttpCloudEvents]] = {"http-cloudevents": HttpCloudEvents}
"""The types of target and their settings."""


class Config(msgspec.Struct, frozen=True):
    """All of edge.toml. Durations are in microseconds, sizes in bytes, paths absolute."""

    gateway: Gateway = Gateway()
    mqtt: Mqtt = Mqtt()
    coap: Coap = Coap()
    http: Http = Http()
    iotcore: IotCore = IotCore()
    journal: Journal = Journal()
    admission: Admission = Admission()
    mappings: Mappings = Mappings()
    attach: Attach = Attach()
    functions: Functions = msgspec.field(default_factory=Functions)
    schemas: dict[str, SchemaSettings] = {}
    serial: dict[str, SerialSettings] = {}
    streams: dict[str, StreamSettings] = {}
    pace: dict[str, PaceSettings] = {}
    controls: dict[str, ControlSettings] = {}
    apps: dict[str, AppSettings] = {}
    targets: dict[str, HttpCloudEvents] = {}

    SOCKET: ClassVar[str] = "edge.sock"

    @property
    def authority(self) -> Path:
        """The folder of the gateway's own CA."""
        return self.gateway.data / "ca"

    @property
    def socket(self) -> Path:
        """The Unix socket of the running gateway's API."""
        return self.gateway.data / self.SOCKET


def load(path: Path) -> Config:
    """Read a configuration file. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"There is no configuration file {path}.", hint="'edge init' writes one; '--config' names another."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(raw) > MAX_FILE:
        raise ConfigError(f"{path} is larger than {MAX_FILE >> 20} MiB; that is no configuration file.")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 text.") from error
    return parse(text, path)


def parse(text: str, path: Path) -> Config:
    """The configuration in `text`; `path` is where relative paths start and what errors name. Raises `ConfigError`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_error(str(error), text, path)) from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply.") from None
    config: Config = _Reader(path).struct(raw, Config, "")
    return config


def _syntax_error(message: str, text: str, path: Path) -> str:
    """tomllib's message, with its place at the front."""
    what, _, place = message.rpartition(" (at ")
    place = place.rstrip(")")
    if place == "end of document":
        place = f"line {len(text.splitlines()) or 1}"
    return f"{path}, {place}: {what}."


class _Reader:
    """Turns parsed TOML into structs, one setting at a time, so that each error knows its path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _error(self, where: str, message: str, hint: str = "") -> ConfigError:
        return ConfigError(f"{self._path}: '{where}' {message}.", hint=hint)

    def struct(self, raw: Any, kind: type[Any], where: str) -> Any:
        if type(raw) is not dict:
            raise self._error(where, f"is a table: expected [{where}]")
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        prefix = f"{where}." if where else ""
        for key in raw:
            if key not in fields:
                raise self._error(prefix + key, "is not a setting", nearest(key, fields))
        for field in fields.values():
            if field.required and field.name not in raw:
                raise self._error(prefix + field.name, "is missing")
        values = {key: self._value(value, fields[key].type, prefix + key) for key, value in raw.items()}
        if kind is Gateway:
            values.setdefault("data", self._folder(str(Gateway().data)))
        elif kind is Config:
            values.setdefault("gateway", self.struct({}, Gateway, "gateway"))
            if values.get("controls") and "attach" in values and values["attach"].url:
                hint = "Commands do not go through an attached broker: have Home Assistant connect to this gateway."
                raise self._error("controls", "cannot be offered at the broker of attach.url", hint)
        elif kind is Mqtt:
            self._check_mqtt(kind(**values))
        elif kind is Http:
            self._check_http(kind(**values))
        return kind(**values)

    def _check_mqtt(self, mqtt: Mqtt) -> None:
        for name in ("listen", "websocket_listen"):
            address = getattr(mqtt, name)
            if address and not mqtt.insecure and not _loopback(address):
                hint = f"Set mqtt.{name.replace('listen', 'tls_listen')}, or insecure = true on a network of your own."
                raise self._error(f"mqtt.{name}", "is an address that others can reach, without TLS", hint)
        if bool(mqtt.certificate) != bool(mqtt.key):
            missing = "mqtt.key" if mqtt.certificate else "mqtt.certificate"
            raise self._error(missing, "is missing: a certificate needs its key, and a key its certificate")

    def _check_http(self, http: Http) -> None:
        if http.listen and not http.tls and not http.insecure and not _loopback(http.listen):
            hint = "Set http.tls = true, or http.insecure = true behind a TLS proxy or on a network of your own."
            raise self._error("http.listen", "is an address that others can reach, without TLS", hint)

    def _value(self, raw: Any, kind: Any, where: str) -> Any:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.struct(raw, kind, where)
        if get_origin(kind) is dict:
            return self._dicts[where](self, raw, where)
        if kind is Path:
            return self._folder(self._leaf(raw, str, where))
        value = self._leaf(raw, kind, where)
        try:
            if where == "mqtt.listen" or (where.endswith("listen") and value):
                _host_and_port(value)
            elif where in ("mqtt.certificate", "mqtt.key", "mqtt.client_ca") and value:
                return str(self._folder(value))
            elif where == "attach.url":
                _check_broker(value)
            elif where.startswith("attach.") and where.endswith(("_file", ".ca", ".certificate", ".key")) and value:
                return str(self._folder(value))
            elif where.endswith(".url"):
                _check_url(value)
        except ValueError as error:
            raise self._error(where, f"is wrong: {error}") from None
        return value

    def _leaf(self, raw: Any, kind: Any, where: str) -> Any:
        unit = _unit(kind)
        try:
            return msgspec.convert(raw if unit is None else unit.parse(raw), kind)
        except ValueError:  # msgspec's own ValidationError is one too; what it says is in terms of Python
            raise self._error(where, f"is {_shown(raw)}: expected {_expected(kind)}") from None

    def _apps(self, raw: Any, where: str) -> dict[str, AppSettings]:
        if type(raw) is not dict:
            raise self._error(where, "holds tables: expected [apps.NAME]")
        found = {}
        for name, table in raw.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
                raise self._error(f"{where}.{name[:80]}", "is not an app's name: 1 to 64 letters, digits, '_' or '-'")
            app: AppSettings = self.struct(table, AppSettings, f"{where}.{name}")
            if app.max and app.min > app.max:
                raise self._error(f"{where}.{name}.min", f"is {app.min}: more than max, which is {app.max}")
            found[name] = app
        return found

    def _targets(self, raw: Any, where: str) -> dict[str, HttpCloudEvents]:
        if type(raw) is not dict:
            raise self._error(where, "holds tables: expected [targets.NAME]")
        return {name: self._target(target, f"{where}.{name}") for name, target in raw.items()}

    def _target(self, raw: Any, where: str) -> HttpCloudEvents:
        # The type first: it decides which settings there are.
        if type(raw) is dict and "type" not in raw:
            raise self._error(f"{where}.type", "is missing", f"The types of target: {', '.join(TARGETS)}.")
        if type(raw) is dict and type(kind := raw.get("type")) is str and kind not in TARGETS:
            raise self._error(f"{where}.type", f"is {_shown(kind)}: no such type of target", nearest(kind, TARGETS))
        target: HttpCloudEvents = self.struct(raw, HttpCloudEvents, where)
        return target

    def _serial(self, raw: Any, where: str) -> dict[str, SerialSettings]:
        ports = self._named(raw, where, SerialSettings, r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "NAME")
        for name, port in ports.items():
            if not port.path:
                raise self._error(f"{where}.{name}.path", "is empty: expected a path or a pattern of paths")
            if port.usb and not re.fullmatch(r"[0-9A-Fa-f]{4}(:[0-9A-Fa-f]{4})?", port.usb):
                raise self._error(f"{where}.{name}.usb", f'is {_shown(port.usb)}: expected an id such as "2e8a:0005"')
        return ports

    def _schemas(self, raw: Any, where: str) -> dict[str, SchemaSettings]:
        return self._named(raw, where, SchemaSettings, r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "KIND")

    def _streams(self, raw: Any, where: str) -> dict[str, StreamSettings]:
        return self._named(raw, where, StreamSettings, r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "NAME")

    def _pace(self, raw: Any, where: str) -> dict[str, PaceSettings]:
        return self._named(raw, where, PaceSettings, r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "NAME")

    def _controls(self, raw: Any, where: str) -> dict[str, ControlSettings]:
        found = self._named(raw, where, ControlSettings, r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "NAME")
        for name, control in found.items():
            for setting in ("on", "off"):
                try:
                    json.loads(getattr(control, setting) or "null")
                except ValueError:
                    raise self._error(f"{where}.{name}.{setting}", "is no JSON") from None
            if control.state and (not control.off or not all(control.state.rpartition("."))):
                raise self._error(f"{where}.{name}.state", "is for switches: expected kind.field, and 'off'")
        return found

    def _own_mappings(self, raw: Any, where: str) -> dict[str, MappingSettings]:
        return self._named(raw, where, MappingSettings, r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "NAME")

    def _named(self, raw: Any, where: str, kind: type[Any], pattern: str, shown: str) -> dict[str, Any]:
        if type(raw) is not dict:
            raise self._error(where, f"holds tables: expected [{where}.{shown}]")
        for name in raw:
            if not re.fullmatch(pattern, name):
                raise self._error(f"{where}.{name[:80]}", f"is not a {shown.lower()}")
        return {name: self.struct(table, kind, f"{where}.{name}") for name, table in raw.items()}

    _dicts: ClassVar[dict[str, Any]] = {
        "apps": _apps,
        "targets": _targets,
        "schemas": _schemas,
        "serial": _serial,
        "streams": _streams,
        "pace": _pace,
        "controls": _controls,
        "mappings.own": _own_mappings,
    }

    def _folder(self, text: str) -> Path:
        # Not resolve(): a link stays a link, so that what it points to can be moved.
        return Path(os.path.abspath(self._path.parent / Path(text).expanduser()))


def _host_and_port(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError('expected an address and a port such as "127.0.0.1:1883" or "[::1]:1883"')
    return host, int(port)


def _loopback(listen: str) -> bool:
    host = _host_and_port(listen)[0]
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_broker(url: str) -> None:
    if not url:
        return
    parts = urlsplit(url)
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError('expected a URL such as "mqtt://127.0.0.1:1883"')
    if parts.username is not None:
        raise ValueError("a URL with a password in it would show up in logs: use 'attach.user' and 'password_file'")
    if parts.port == 0:
        raise ValueError("port 0 is none to connect to")


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\x00-\x1f]", url):
        raise ValueError('expected a URL such as "https://example.org/on-event"')
    if parts.username is not None:
        raise ValueError("a URL with a password in it would show up in logs")


# --- What a setting looks like, for messages, the template and the documentation ----------------------------------


def _meta(kind: Any) -> Meta | None:
    return next((item for item in get_args(kind)[1:] if isinstance(item, Meta)), None)


def _unit(kind: Any) -> _Unit | None:
    meta = _meta(kind) if get_origin(kind) is Annotated else None
    return meta.extra["unit"] if meta is not None and meta.extra else None


def _shown(raw: Any) -> str:
    if type(raw) is str:
        return json.dumps(raw if len(raw) <= 40 else raw[:40] + "…", ensure_ascii=False)
    if type(raw) is dict:
        return "a table"
    if type(raw) is list:
        return "a list"
    return str(raw).lower() if type(raw) is bool else str(raw)[:40]


def _expected(kind: Any) -> str:
    """What may stand there, in words."""
    described = _meta(kind)
    if described is not None and described.description:
        return described.description
    if get_origin(kind) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(kind))
    meta, unit = (_meta(kind), _unit(kind)) if get_origin(kind) is Annotated else (None, None)
    base = get_args(kind)[0] if meta is not None else kind
    if base is str:
        if meta is not None and meta.pattern:
            return "1 to 64 letters, digits, '_', '.' or '-', the first a letter or digit"
        return f"a text of at most {meta.max_length} characters" if meta is not None else "a text in quotes"
    if get_origin(base) is tuple:
        choices = get_args(get_args(base)[0]) if get_origin(get_args(base)[0]) is Literal else ()
        if choices:
            return "a list of " + ", ".join(f'"{choice}"' for choice in choices)
        return 'a list of modules, such as ["numpy"]'
    if get_origin(base) is dict:
        return 'a table of texts, such as { power = "ENERGY.Power" }'
    name = (
        f"a {unit.name}"
        if unit
        else "true or false"
        if base is bool
        else "a whole number"
        if base is int
        else "a number"
    )
    if meta is None:
        return name
    show = unit.show if unit else str
    return f"{name} from {show(meta.ge)} to {show(meta.le)}"  # type: ignore[arg-type]


class Setting(msgspec.Struct, frozen=True):
    """One line of the documentation."""

    table: str
    name: str
    default: str
    """In TOML; empty where it must be given."""
    doc: str


def _texts() -> dict[str, dict[str, str]]:
    """The text under each field of each struct of this file, and under `""` that of the struct itself."""
    tree = ast.parse(inspect.getsource(sys.modules[__name__]))
    texts: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found = texts[node.name] = {"": ast.get_docstring(node) or ""}
            for field, text in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                ):
                    found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return texts


def _tables() -> list[tuple[str, type[msgspec.Struct]]]:
    fields = msgspec.structs.fields(Config)
    tables = [(field.name, field.type) for field in fields if field.name not in _NAMED]
    named = [("mappings.own.NAME", MappingSettings), ("schemas.KIND", SchemaSettings), ("apps.NAME", AppSettings)]
    named[2:2] = [("serial.NAME", SerialSettings), ("streams.NAME", StreamSettings)]
    named[0:0] = [("pace.NAME", PaceSettings), ("controls.NAME", ControlSettings)]
    return [*tables, *named, *(("targets.NAME", kind) for kind in TARGETS.values())]


_NAMED = ("schemas", "serial", "streams", "pace", "controls", "apps", "targets")
_EXAMPLES = {
    "mappings.own.NAME": "mappings.own.shelly",
    "schemas.KIND": "schemas.climate",
    "serial.NAME": "serial.boards",
    "streams.NAME": "streams.minute",
    "pace.NAME": "pace.loggers",
    "controls.NAME": "controls.fan",
    "apps.NAME": "apps.greenhouse",
    "targets.NAME": "targets.cloud",
}
_EXAMPLE_VALUES = {
    "topic": '"shellies/{device}/status"',
    "kind": '"power"',
    "file": '"climate.schema.json"',
    "emit": '"power.minute"',
    "command": '"fan"',
}


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the file."""
    texts = _texts()
    for table, kind in _tables():
        for field in msgspec.structs.fields(kind):
            if field.name != "own":  # has its own table
                yield Setting(table, field.name, _default(field), texts[kind.__name__][field.name])


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return json.dumps(get_args(field.type)[0]) if get_origin(field.type) is Literal else ""
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    unit = _unit(field.type)
    if unit is not None:
        return unit.show(value)
    return json.dumps(str(value) if isinstance(value, Path) else value)


def default_text() -> str:
    """A configuration file for a person to start from: every setting with its default, as a comment."""
    texts = _texts()
    lines = [
        "# The configuration of an edge gateway. A line that starts with '#' shows a default.",
        '# Durations: "500ms", "10s", "5m", "1h", or a number of seconds.',
        '# Sizes: "64KiB", "64MiB", "2GiB", or a number of bytes.',
    ]
    for table, kind in _tables():
        # A table with a free name is an example and stays a comment as a whole.
        mark, shown = ("# ", _EXAMPLES[table]) if table in _EXAMPLES else ("", table)
        lines += ["", f"# {texts[kind.__name__]['']}", f"{mark}[{shown}]"]
        for setting in (setting for setting in settings() if setting.table == table):
            default = setting.default or _EXAMPLE_VALUES.get(setting.name, '"https://example.org/on-event"')
            lines += [*(f"# {line}" for line in setting.doc.splitlines()), f"# {setting.name} = {default}"]
    return "\n".join(lines) + "\n"


def lan_text() -> str:
    """The same for a gateway that boards reach over the network: with TLS, and announced."""
    text = default_text()
    for default, chosen in (
        ('# tls_listen = ""', 'tls_listen = "0.0.0.0:8883"'),
        ("# announce = false", "announce = true"),
    ):
        text = text.replace(default, chosen, 1)
    return text
