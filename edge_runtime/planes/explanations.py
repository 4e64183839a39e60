"""How an app's triggers will run, and why: as native stream operators or as sandboxed functions."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_runtime.config import DURATION
from edge_runtime.manifest import Endpoint, Manifest, OnEvent, Route, Schedule, StreamTrigger, Trigger
from edge_runtime.streamspec import (
    Absent,
    Aggregate,
    Fixed,
    Join,
    Latest,
    Sequence,
    Session,
    Sliding,
    Step,
    Stream,
    Window,
)

FILTER_US = 0.3
"""A `where`, per event: docs/bench.md."""
CALL_US = 240
BATCHED_US = 30
"""A call into the sandbox: alone, and one of a batch of 256. docs/bench.md."""
STREAM_US = 5.0
"""An event through the daemon to the stream worker and back, without the computation."""
COMPUTE_US = {"window": 2.0, "join": 6.0, "latest": 3.0, "absent": 2.0, "sequence": 4.0}
"""The computation, per event: docs/bench.md."""
STEP_US = 1.0


class Part(msgspec.Struct):
    """One thing that runs for a trigger."""

    flow: str
    runs_as: str
    """`native stream operator`, `sandboxed function` or `bridge route`."""
    why: str
    """By the attributes that decide between stream processing and functions."""
    takes: str
    """What comes in."""
    state: str
    """What it keeps, and per what."""
    cost: str
    """Expected, from measured figures."""


class Explained(msgspec.Struct):
    """One trigger."""

    trigger: str
    parts: list[Part]


class Explanation(msgspec.Struct):
    """An app."""

    app: str
    version: str
    triggers: list[Explained]


def explain(manifest: Manifest, version: str) -> Explanation:
    """Say how the triggers of a version run."""
    found = [Explained(trigger.name, _parts(manifest.app, trigger)) for trigger in manifest.triggers]
    return Explanation(manifest.app, version, found)


def _parts(app: str, trigger: Trigger) -> list[Part]:
    flow = f"{app}.{trigger.name}"
    where = f" where {trigger.where}" if trigger.where else ""
    filtered = f"{FILTER_US} us for each event of the kind; " if trigger.where else ""
    called = f"{filtered}about {BATCHED_US} us a call in batches, {CALL_US} us alone, and nothing when there is none"
    kept = "what the function puts into ctx.state, per device"
    match trigger:
        case Route(to=to):
            why = "stateless, and delivers to the outside: a call for each event, waiting for the target"
            return [
                Part(flow, "bridge route", why, f"{trigger.kind}{where}", "none", f"{called}, and the delivery to {to}")
            ]
        case StreamTrigger(stream=Stream() as stream):
            why = "a function takes its results: work that is only done when there is a result"
            result = "results of the computation"
            return [
                _stream(trigger.flow(app), stream),
                Part(flow, "sandboxed function", why, result, kept, called),
            ]
        case OnEvent(serial=serial):
            why = "stateless or with state of its own making: work that is only done when there is an event"
            state = "what the function puts into ctx.state, one for all" if serial else kept
            return [Part(flow, "sandboxed function", why, f"{trigger.kind}{where}", state, called)]
        case Schedule() | Endpoint():
            why = "runs at moments or for requests: nothing to keep warm in between"
            return [Part(flow, "sandboxed function", why, trigger.kind, kept, called)]
        case _:
            return [Part(flow, "sandboxed function", "", trigger.kind, kept, called)]


def _stream(flow: str, stream: Stream) -> Part:
    computation = stream.computation
    name = type(computation).__name__.lower() if computation is not None else "steps"
    cost = STREAM_US + COMPUTE_US.get(name, 0.0) + STEP_US * len(stream.steps)
    if isinstance(computation, Window):
        cost += 0.3 * max(0, len(computation.compute) - 1)
    cost += FILTER_US * sum(bool(source.where) for source in stream.sources)
    why = (
        "stateful over event time, keeps order, reacts in milliseconds at high load: stream processing"
        if computation is not None
        else "stateless, for every event, without code: stream processing"
    )
    takes = ", ".join(
        f"{source.kind} where {source.where}" if source.where else source.kind for source in stream.sources
    )
    return Part(flow, "native stream operator", why, takes, _state(stream), f"about {cost:.0f} us an event")


def _state(stream: Stream) -> str:
    computation = stream.computation
    match computation:
        case Window(shape=shape, lateness=lateness, compute=compute):
            per = f"per {_by(computation.by)}"
            held = {Fixed: "the open window", Sliding: "the open windows, in slices", Session: "the open sessions"}
            what = held.get(type(shape), "one window")
            late = f", {duration(lateness)} longer for late events" if lateness else ""
            return f"{what} {per} ({', '.join(_aggregate(a) for a in compute.values())}){late}"
        case Join(within=within, by=by):
            return f"the events of both kinds of the last {duration(within)} per {_by(by)}"
        case Latest(by=by):
            return f"the latest event of the second kind per {_by(by)}"
        case Absent(by=by):
            return f"when it was last heard of, per {_by(by)}"
        case Sequence(within=within, by=by):
            return f"the beginnings of the last {duration(within)} per {_by(by)}"
        case _:
            return "none"


def in_words(stream: Stream) -> str:
    """A stream in a line."""
    kinds = [source.kind for source in stream.sources]
    steps = f", after {', '.join(map(_step, stream.steps))}" if stream.steps else ""
    match stream.computation:
        case Window(shape=shape, compute=compute) as window:
            what = ", ".join(_aggregate(aggregate) for aggregate in compute.values())
            return f"{what} of {kinds[0]}{steps}, {_shape(shape)}, by {_by(window.by)}"
        case Join(within=within):
            return f"{' and '.join(kinds)} at most {duration(within)} apart{steps}"
        case Latest():
            return f"{kinds[0]} with the latest {kinds[1]}{steps}"
        case Absent(length=length):
            return f"no {kinds[0]} for {duration(length)}{steps}"
        case Sequence(within=within):
            without = f" without {kinds[2]}" if len(kinds) > 2 else ""
            return f"{kinds[0]}, then {kinds[1]} within {duration(within)}{without}{steps}"
        case _:
            return f"{kinds[0]}{steps}"


def _shape(shape: Any) -> str:
    match shape:
        case Fixed(size=size):
            return f"every {duration(size)}"
        case Sliding(size=size, every=every):
            return f"over {duration(size)}, every {duration(every)}"
        case Session(gap=gap):
            return f"in sessions with gaps of {duration(gap)}"
        case _:
            return "over all time"


def _aggregate(aggregate: Aggregate) -> str:
    arguments = [aggregate.field] if aggregate.field else []
    arguments += [str(value) for name, value in aggregate.args.items() if name in ("q", "k", "limit")]
    return f"{aggregate.op}({', '.join(arguments)})"


def _step(step: Step) -> str:
    return type(step).__name__.lower()


def _by(by: str) -> str:
    return by.removeprefix("data.") or "nothing (all together)"


def duration(micros: int) -> str:
    """A duration as one writes it in an app or in edge.toml: `90s`, `5m`, `1h`."""
    return DURATION.show(micros).strip('"')
