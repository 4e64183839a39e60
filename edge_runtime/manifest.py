"""What an app says about itself: its triggers. Neutral ground between functions, streams and the bridge."""

from __future__ import annotations

import msgspec


class Trigger(msgspec.Struct, frozen=True, tag_field="type"):
    """What makes a function run. `name` is the function's own name; the flow is called `<app>.<name>`."""

    name: str
    kind: str
    where: str = ""
    """An expression over the event's data (`edge_runtime/expr.py`); empty for every event of the kind."""
    start: str = "latest"
    """Where a new flow begins: `latest` or `earliest`."""
    retries: int = 2
    """How often an event on which the function fails is tried again."""
    on_error: str = "skip"
    """What happens to it then: `skip`, `hold` or `stop`."""


class OnEvent(Trigger, frozen=True, tag="on"):
    """Run the function for each event; its effects are commands, emitted events and changes of its state."""

    serial: bool = False
    """All events one after the other, with one state for all devices; otherwise device by device."""


class Route(Trigger, frozen=True, tag="route"):
    """Run the function for each event and send what it returns to the target `to` of edge.toml (None: send nothing)."""

    to: str = ""


class Manifest(msgspec.Struct, frozen=True):
    """An app as found by loading it."""

    app: str
    triggers: list[OnEvent | Route]
    grants: list[str] = []
    """What it asks for beyond its own events (`edge_runtime/grants.py`)."""


class FunctionRef(msgspec.Struct, frozen=True):
    """One function of one immutable version of an app."""

    app: str
    version: str
    name: str
