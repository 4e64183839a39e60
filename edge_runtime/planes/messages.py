"""What the API says: a typed JSON message for each request and reply. Times are microseconds since 1970-01-01 UTC."""

from __future__ import annotations

from typing import Any

import msgspec


class Problem(msgspec.Struct):
    """Any request's failure: what was wrong, and what to do."""

    error: str
    hint: str = ""


class AddDevice(msgspec.Struct, forbid_unknown_fields=True):
    """Register a device."""

    device: str


class DeviceKey(msgspec.Struct):
    """A device's key, shown this once."""

    device: str
    key: str


class DeviceRow(msgspec.Struct):
    """One registered device."""

    device: str
    created: int
    blocked: bool
    connected: bool
    last_seen: int | None


class Deploy(msgspec.Struct, forbid_unknown_fields=True):
    """Put an app live, or with `check` only see whether it could be. File names to their text."""

    files: dict[str, str]
    check: bool = False


class TriggerRow(msgspec.Struct):
    """One trigger of an app."""

    name: str
    type: str
    kind: str
    where: str
    to: str


class Deployed(msgspec.Struct):
    """An app's version as the sandbox found it."""

    app: str
    version: str
    triggers: list[TriggerRow]
    cold_start: int
    """From handing over the source to a loaded app, inside the sandbox; microseconds."""
    live: bool
    """False after a check."""
    unchanged: bool
    """This version was live already."""


class AppRow(msgspec.Struct):
    """One live app."""

    app: str
    version: str
    deployed: int
    triggers: list[TriggerRow]


class FlowRow(msgspec.Struct):
    """One flow, since the gateway started."""

    flow: str
    type: str
    """`function` or `route`."""
    generation: int
    epoch: int
    cursor: int
    lag: int
    """Records between the newest one and what the flow has dealt with."""
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


class Status(msgspec.Struct):
    """The gateway at a glance."""

    name: str
    version: str
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
    outbox: int
    """Commands without an end."""
    commands_delivered: int
    commands_ended: int
    flows: list[FlowRow]
    calls: int
    """Function calls since the start: one for each event a function was run on."""
    failures: dict[str, int]
    """Function calls that failed, by reason."""
    cold_starts: list[int]
    """The newest durations from source to loaded app, microseconds."""
    jail: list[str]
    """What holds the executors, one line each."""


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
