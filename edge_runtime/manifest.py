"""What an app says about itself: its triggers. Neutral ground between functions, streams and the bridge."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge_runtime.streamspec import Stream


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


class Schedule(Trigger, frozen=True, tag="schedule"):
    """Run the function at moments: every so often, or by the calendar. Its kind is `$schedule.<app>.<name>`."""

    every: int = 0
    """Microseconds of running time between two moments; 0 where the calendar decides."""
    cron: str = ""
    """The moments as a cron expression (`edge_runtime/cron.py`)."""
    tz: str = "UTC"
    """The time zone of the expression."""
    missed: str = "skip"
    """What becomes of moments at which the gateway was off: `skip`, or `once` for all of them together."""

    @property
    def words(self) -> str:
        """The moments, in a line: two schedules with the same words have the same moments."""
        return f"every {self.every} us" if self.every else f"cron {self.cron} {self.tz}"


class Endpoint(Trigger, frozen=True, tag="http"):
    """Run the function for each request to `/apps/<app><path>` and answer with what it returns.

    Its kind is `$http.<app>.<name>`.
    """

    path: str = "/"
    methods: list[str] = msgspec.field(default_factory=lambda: ["POST"])
    public: bool = False
    """Anybody may ask; otherwise those with the app's token."""
    headers: list[str] = []
    """What the function gets to see of a request's headers, besides those that everybody sees."""


class StreamTrigger(Trigger, frozen=True, tag="stream"):
    """Run the function for each result of a computation over events: a pane, a match, an absence.

    The computation is a flow of its own, `<app>.<name>.stream`. Its results are events of the kind
    `$stream.<app>.<name>`, which the function's flow takes.
    """

    stream: Stream | None = None
    late: str = ""
    """The kind under which events that come too late are emitted; without it they are dead letters."""

    def flow(self, app: str) -> str:
        """The name of the computation's flow."""
        return f"{app}.{self.name}.stream"


AnyTrigger = OnEvent | Route | Schedule | Endpoint | StreamTrigger


class Manifest(msgspec.Struct, frozen=True):
    """An app as found by loading it."""

    app: str
    triggers: list[AnyTrigger]
    grants: list[str] = []
    """What it asks for beyond its own events (`edge_runtime/grants.py`)."""


def flows_of(app: str, triggers: Sequence[Trigger]) -> list[str]:
    """The names of an app's flows."""
    names = [f"{app}.{trigger.name}" for trigger in triggers]
    return names + [trigger.flow(app) for trigger in triggers if isinstance(trigger, StreamTrigger)]


class FunctionRef(msgspec.Struct, frozen=True):
    """One function of one immutable version of an app."""

    app: str
    version: str
    name: str
