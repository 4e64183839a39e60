"""The sections of edge.toml as typed structs, and what each setting may be.

The text under each field is its documentation: `text.settings()` hands it to the template of `edge init` and to the
test that keeps docs/configuration.md true.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from edge_runtime.config.values import DURATION, SIZE, host_and_port


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
        return host_and_port(self.listen)[0]

    @property
    def port(self) -> int:
        """The port of `listen`; 0 for any free one."""
        return host_and_port(self.listen)[1]

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
                yield (f"mqtt.{name}", *host_and_port(address), tls, websocket)


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
        return host_and_port(self.listen)[0]

    @property
    def port(self) -> int:
        """The port of `listen`; 0 for any free one."""
        return host_and_port(self.listen)[1]


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
        return host_and_port(self.listen)[0]

    @property
    def port(self) -> int:
        """The port of `listen`; 0 for any free one."""
        return host_and_port(self.listen)[1]


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
    stream_memory: Annotated[int, _size(8 << 20, 64 << 30)] = 256 << 20
    """How much memory the state of streams may take; the journal keeps all of it, and more is read when needed."""


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
