"""What is computed over a stream of events: the words in which apps and edge.toml say it. Neutral ground, no behaviour.

The vocabulary is that of the Dataflow model (Akidau et al., VLDB 2015) and Apache Beam. All lengths of time are integer
microseconds.
"""

from __future__ import annotations

from typing import Any

import msgspec

SECOND = 1_000_000


class Aggregate(msgspec.Struct, frozen=True, omit_defaults=True):
    """One value of a pane: `op` over the field `field` of each event's data."""

    op: str
    """`count`, `sum`, `mean`, `min`, `max`, `variance`, `first`, `last`, `collect`, `rate`, `delta`, `time_mean`,
    `distinct`, `quantile`, `top`, or `custom`."""
    field: str = ""
    """A path such as `gps.lat`; empty for the event itself, which only some can do with."""
    args: dict[str, Any] = {}
    """What else the operation needs: `q` (quantile), `k` (top), `limit` (collect, custom), `function` (custom), ..."""


class Fixed(msgspec.Struct, frozen=True, tag="fixed"):
    """Windows of `size` one after the other (tumbling), from the epoch on, moved by `offset`."""

    size: int
    offset: int = 0


class Sliding(msgspec.Struct, frozen=True, tag="sliding"):
    """Windows of `size` that begin every `every` (hopping)."""

    size: int
    every: int
    offset: int = 0


class Session(msgspec.Struct, frozen=True, tag="session"):
    """Windows that grow as long as no two events of a key are `gap` or more apart."""

    gap: int


class Global(msgspec.Struct, frozen=True, tag="global"):
    """One window for all time: only triggers cut it."""


Shape = Fixed | Sliding | Session | Global


class Trigger(msgspec.Struct, frozen=True, omit_defaults=True):
    """When panes leave, besides the one when the watermark passes the end of the window."""

    early_count: int = 0
    """A pane after so many events since the last one; 0 for none."""
    early_every: int = 0
    """A pane so long (processing time) after the first event since the last one; 0 for none."""
    late_every: int = 0
    """Late panes are batched for so long (processing time); 0 for one per late event."""


class Window(msgspec.Struct, frozen=True, omit_defaults=True, tag="window"):
    """Aggregates over windows, by key."""

    shape: Shape
    compute: dict[str, Aggregate]
    by: str = "device"
    """The partition key: `device`, a path into the data such as `data.zone`, or empty for all events together."""
    time: str = "event"
    """`event` time, or `processing` time."""
    lateness: int = 0
    """How long after the watermark has passed its end a window still takes events."""
    trigger: Trigger = Trigger()
    accumulation: str = "discarding"
    """What a pane says of what earlier ones of its window have said: `discarding`, `accumulating` or `retracting`."""
    idle: int = 60 * SECOND
    """A device that sends nothing for so long (processing time) does not hold the watermark back any more."""
    delay: int = 0
    """How far a device's watermark stays behind the newest event time it has sent: its events' disorder."""
    ahead: int = 60 * SECOND
    """A device whose clock is further ahead of processing time than this is quarantined; likewise `behind`."""
    behind: int = 86_400 * SECOND


class Join(msgspec.Struct, frozen=True, omit_defaults=True, tag="join"):
    """Events of two kinds (the sources) with the same key, at most `within` apart in event time."""

    within: int
    by: str = "device"
    lateness: int = 0
    most: int = 250
    """Events of a key and side that are kept at most; the oldest goes first, and is counted."""


class Latest(msgspec.Struct, frozen=True, omit_defaults=True, tag="latest"):
    """Each event of the first source with the latest one of the second with its key, as it is then known."""

    by: str = "device"
    keep: int = 0
    """How old (event time) the latest one may be; 0 for however old."""


class Absent(msgspec.Struct, frozen=True, omit_defaults=True, tag="absent"):
    """A key that was heard of and then is not for so long (processing time); and when it is heard of again."""

    length: int
    by: str = "device"
    back: bool = False
    """Say also when it is heard of again."""


class Sequence(msgspec.Struct, frozen=True, omit_defaults=True, tag="sequence"):
    """An event of the first source and then one of the second with its key, at most `within` later in event time,
    without one of the third, where there is a third, between them."""

    within: int
    by: str = "device"
    lateness: int = 0


class Filter(msgspec.Struct, frozen=True, tag="filter"):
    """Let through what the condition holds for."""

    where: str


class Map(msgspec.Struct, frozen=True, tag="map"):
    """Replace the data by these fields, each an expression over it; with `keep` add them to it."""

    fields: dict[str, str]
    keep: bool = False


class Enrich(msgspec.Struct, frozen=True, omit_defaults=True, tag="enrich"):
    """Add the device's tags, or what a table has under the value of `on`, as the field `into`."""

    into: str
    tags: list[str] = []
    table: dict[str, Any] = {}
    on: str = ""


class Flatten(msgspec.Struct, frozen=True, tag="flatten"):
    """An event for each item of the list in `field`, which it then holds; others pass as they are."""

    field: str


class Deduplicate(msgspec.Struct, frozen=True, tag="deduplicate"):
    """Leave out what has the same `fields` as one of its key within the last `within` (event time)."""

    fields: list[str]
    within: int
    by: str = "device"


class Throttle(msgspec.Struct, frozen=True, tag="throttle"):
    """At most `most` events of a key in any `within` (event time)."""

    most: int
    within: int
    by: str = "device"


class Sample(msgspec.Struct, frozen=True, tag="sample"):
    """Every `every`-th event, chosen by its identity: the same ones on a replay."""

    every: int


class Split(msgspec.Struct, frozen=True, tag="split"):
    """Give an event the kind of the first condition that holds; without one it is left out unless `otherwise` names a
    kind."""

    kinds: dict[str, str]
    """Kind -> condition, in order."""
    otherwise: str = ""


Step = Filter | Map | Enrich | Flatten | Deduplicate | Throttle | Sample | Split


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """The events that a stream takes: of a kind, and where a condition holds."""

    kind: str
    where: str = ""


class Stream(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is computed: sources, steps before, a stateful computation (none: the steps are all), and steps after."""

    sources: list[Source]
    computation: Window | Join | Latest | Absent | Sequence | None = None
    steps: list[Step] = []
    after: list[Step] = []
    """On its results; `data` is then the pane's `values`."""
