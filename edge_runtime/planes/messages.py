"""What the API says: a typed JSON message for each request and reply. Times are microseconds since 1970-01-01 UTC."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from edge_runtime.flows.metrics import Metric
from edge_runtime.flows.replay import Replayed
from edge_runtime.functions.stats import AppStats, Stops


class Problem(msgspec.Struct):
    """Any request's failure: what was wrong, and what to do."""

    error: str
    hint: str = ""


class DeviceKey(msgspec.Struct):
    """A device's key, shown this once."""

    device: str
    key: str
    type: str = "token"
    """`token` or `hs256`."""


class DeviceRow(msgspec.Struct):
    """One registered device."""

    device: str
    created: int
    blocked: bool
    connected: bool
    last_seen: int | None
    profile: str = "device"
    """Which contract it speaks."""
    tags: dict[str, str] = {}
    skew: int | None = None
    """Microseconds that its clock seems to be behind; None while too little came from it."""


class AppKey(msgspec.Struct):
    """The token of an app's endpoints, shown this once."""

    app: str
    token: str


class Deploy(msgspec.Struct, forbid_unknown_fields=True):
    """Put an app live, or with `check` only see whether it could be."""

    files: dict[str, bytes]
    """Its files by their path in the app; the content is base64."""
    check: bool = False
    grants: list[str] = []
    """What the operator approves of what it asks for. What the live version has needs no further approval."""
    dry_run: int = 0
    """First run it over so many of the last events of each function, without any effect; 0 for none."""
    force: bool = False
    """Put it live although it failed on some of them."""


class Backup(msgspec.Struct, forbid_unknown_fields=True):
    """Back the gateway up into a new folder, named by an absolute path."""

    to: str


class Lend(msgspec.Struct, forbid_unknown_fields=True):
    """Leave a serial port to who asks, for so long."""

    path: str
    seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)]
    """0 gives it back."""


class Lent(msgspec.Struct):
    """The answer to that."""

    held: bool
    """Whether the gateway had it open."""


class Secret(msgspec.Struct, forbid_unknown_fields=True):
    """A secret's new value."""

    value: str


class TriggerRow(msgspec.Struct):
    """One trigger of an app."""

    name: str
    type: str
    kind: str
    where: str
    to: str
    terms: str = ""
    """When the function of a schedule runs; where an endpoint is, and who may ask."""


class Deployed(msgspec.Struct):
    """An app's version as the sandbox found it."""

    app: str
    version: str
    triggers: list[TriggerRow]
    cold_start: int
    """From handing over the source to a loaded app, inside the sandbox; microseconds."""
    live: bool
    """False after a check, and where it `asks`."""
    unchanged: bool
    """This version was live already."""
    asks: list[str] = []
    """What it asks for and nobody has approved yet; unless that is done, it does not go live."""
    dry: list[Replayed] = []
    """What the dry run has found, for each function."""
    refused: str = ""
    """Why it does not go live although nothing is wrong with it otherwise; empty where it does."""


class AppRow(msgspec.Struct):
    """One live app."""

    app: str
    version: str
    deployed: int
    triggers: list[TriggerRow]
    instances: int
    """How many run just now; 0 while the app rests, until its next call."""
    stats: AppStats
    """All its versions, since the gateway started."""
    held_us: int
    """How long its live version was held back, because it was beyond its share of the processor."""

    health: str = "ok"
    """What is wrong with it, in words; `ok` for nothing."""
    earlier: str = ""
    """The version that a rollback would put live; empty for none."""
    grants: list[str] = []
    """What it may reach beyond its own events."""
    metrics: dict[str, Metric] = {}
    """What its functions have measured since the gateway started, by name."""


class RouteCounts(msgspec.Struct):
    """What a bridge route has done since its app went live."""

    delivered: int
    """Events that the target accepted."""
    repeated: int
    """Those of them that had been sent before without a clear answer."""
    withheld: int
    """Events for which the function returned None."""
    rejected: int
    """Events that the target refused."""
    failed: int
    """Events for which the function failed."""
    retries: int
    """Batches that were cut short because the target or the sandbox was out of reach."""
    last_error: str


class FlowRow(msgspec.Struct):
    """One flow, since the gateway started."""

    flow: str
    type: str
    """`function` or `route`."""
    state: str
    """`running`, `waiting` (see `waiting`), `paused`, or `stopped` (by its own policy)."""
    generation: int
    epoch: int
    cursor: int
    lag: int
    """Records between the newest one and what the flow has dealt with."""
    lag_us: int
    """How long ago the oldest event arrived that waits for the flow; 0 if none does."""
    rate: float
    """Events a second, of late."""
    events: int
    effects: int
    dead_letters: int
    p50: int
    """Of a batch, its commit included; microseconds."""
    p99: int
    retries: int
    waiting: str
    """What it waits for; empty while it runs freely."""
    paused: bool
    held: dict[str, bool]
    """Partition keys that are held back; True for those that wait for an operator."""
    lanes: int
    """Batches that may be under way at a time."""
    rate_limit: float | None
    """Events a second that may pass; None for no limit."""
    quiet_until: int
    """Up to this record it only catches up and sends nothing to the outside; -1 where that is over."""
    route: RouteCounts | None = None
    results: dict[str, int] | None = None
    """Of a stream, since the start: panes (`early`, `on_time`, `late_pane`), `late` events, what was said (`note`)."""


class Health(msgspec.Struct):
    """Whether the gateway does all that it promises just now."""

    state: str
    """`ok`, `degraded` (something waits, or does not run) or `full` (nothing can be stored)."""
    reasons: list[str]
    """What is wrong, the worst first; empty when all is well."""

    @property
    def words(self) -> str:
        """One line."""
        return "; ".join(self.reasons) or "ok"


class Door(msgspec.Struct):
    """The MQTT front door, since the start."""

    p50: int
    """From the receipt of a message to the writing of its PUBACK, microseconds."""
    p99: int
    connections: int
    accepted: int
    messages: int
    acknowledged: int
    duplicates: int
    dead: int
    """Messages that became a dead letter."""
    refused: int
    """Messages that could not be stored and were not acknowledged."""
    failed_logins: int
    violations: int
    trespasses: int
    turned_away: int
    commands: int
    """Commands handed to devices."""
    slowed: int = 0
    """How often a connection was not heard for a while, since its device sent too fast."""
    throttled: int = 0
    """Messages of QoS 0 that were given up, since their device sent too fast."""


class Storage(msgspec.Struct):
    """The journal on disk, as of some seconds ago."""

    bytes: int
    """What the kept records and the tables take."""
    max_bytes: int
    """The quota; 0 for none."""
    first: int
    """The oldest record that is kept."""


class Status(msgspec.Struct):
    """The gateway at a glance."""

    name: str
    version: str
    health: Health
    started: int
    now: int
    mqtt: str
    """Where boards connect, as host:port."""
    head: int
    """The offset of the newest record of the journal."""
    commits: int
    events: int
    """Events stored since the start, by devices and functions."""
    connections: int
    devices: int
    storage: Storage
    door: Door
    outbox: int
    """Commands without an end."""
    commands_delivered: int
    commands_ended: int
    flows: list[FlowRow]
    calls: int
    """Function calls since the start: one for each event a function was run on."""
    failures: dict[str, int]
    """Function calls that failed, by reason."""
    stops: Stops
    restarts: int
    """How often an executor died and was started again."""
    cold_starts: list[int]
    """The newest durations from source to loaded app, microseconds."""
    jail: list[str]
    """What holds the executors, one line each."""
    mqtt_more: list[str] = []
    """Other addresses of the MQTT door: with TLS, or for WebSocket."""
    broker: dict[str, int] = {}
    """What programs have done over MQTT since the start, and given up messages by reason."""
    coap: str = ""
    """Where boards send over CoAP, as host:port; empty without that door."""
    serial_door: dict[str, int] = {}
    """The serial door's figures, with `p50` and `p99` from message to acknowledgement; empty without that door."""
    coap_door: dict[str, int] = {}
    """Its figures: counts since the start, and `p50` and `p99` from request to answer in microseconds."""
    http_door: dict[str, int] = {}
    """The same of the HTTP door of devices; empty without that door."""
    timers: int = 0
    """Events that are to come, of delays and schedules."""
    attached: dict[str, int] = {}
    """Figures of the broker that the gateway is attached to: `connected` (0 or 1), and counts since the start."""
    skewed: dict[str, int] = {}
    """Devices whose clock seems to be off by too much, and by how many microseconds it is behind."""


class Line(msgspec.Struct):
    """One record of the journal, for people and programs that watch."""

    offset: int
    type: str
    """`event`, `command`, `command-end`, `dead-letter`, `app`, `device` or `flow`."""
    time: int
    device: str
    id: str
    """Of the event or command; for a dead letter that of its event."""
    name: str
    """Kind of event, name of command, reason of dead letter, app or flow."""
    data: Any = None
    cause: str = ""
    """The id of the event that caused it."""


class Finding(msgspec.Struct):
    """One thing `edge doctor` looked at."""

    ok: bool
    what: str
    found: str
    advice: str = ""
