"""Whether a stream can be what its specification says: asked at a deploy and at the start, in the daemon."""

from __future__ import annotations

from edge_runtime.errors import ConfigError, nearest
from edge_runtime.events import NAME
from edge_runtime.streams.paths import key_of, reader
from edge_runtime.streams.steps import Steps, condition
from edge_runtime.streamspec import (
    Absent,
    Aggregate,
    Deduplicate,
    Fixed,
    Flatten,
    Join,
    Latest,
    Sample,
    Sequence,
    Session,
    Sliding,
    Split,
    Step,
    Stream,
    Throttle,
    Window,
)

MAX_OVERLAP = 1000
"""Sliding windows that one event may belong to."""
MAX_SPOKEN = 256
"""The same where each event may make a pane of each, and matches of an event: what follows from one is stored in one
piece."""
LONGEST = 366 * 86_400 * 1_000_000
"""Any length of time: a year, microseconds."""
MAX_SOURCES = 3
MAX_STEPS = 32
MAX_VALUES = 64
MAX_COUNT = 1_000_000

_FIELDLESS = ("count", "rate")
_OPS = (
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "variance",
    "first",
    "last",
    "collect",
    "rate",
    "delta",
    "time_mean",
    "distinct",
    "quantile",
    "top",
    "custom",
    "combine",
)
_ARGS: dict[str, dict[str, tuple[float, float]]] = {
    "quantile": {"q": (0, 1)},
    "top": {"k": (1, 1000)},
    "collect": {"limit": (1, 10_000)},
    "custom": {"limit": (1, 10_000)},
    "time_mean": {"limit": (2, 10_000)},
}


def check(stream: Stream) -> None:
    """Raises ConfigError, which says what is wrong and what to write instead."""
    _sources(stream)
    for steps in (stream.steps, stream.after):
        if len(steps) > MAX_STEPS:
            raise ConfigError(f"{len(steps)} steps are too many: at most {MAX_STEPS}")
        for step in steps:
            _step(step)
        Steps(steps, lambda device: {})
    if len(stream.sources) > 1 and any(isinstance(step, Split) for step in stream.steps):
        raise ConfigError("split changes the kinds by which the events of a join or a sequence are told apart")
    match stream.computation:
        case Window() as window:
            _window(window)
        case Join(within=within, by=by, lateness=lateness) | Sequence(within=within, by=by, lateness=lateness) as pair:
            _length("within", within)
            _length("lateness", lateness, 0)
            key_of(by)
            if isinstance(pair, Join) and not 0 < pair.most <= MAX_SPOKEN:
                raise ConfigError(f"'most' is {pair.most}: it can be 1 to {MAX_SPOKEN}")
        case Latest(by=by, keep=keep):
            _length("keep", keep, 0)
            key_of(by)
        case Absent(length=length, by=by):
            _length("after", length)
            key_of(by)


def _sources(stream: Stream) -> None:
    least, most = {Join: (2, 2), Latest: (2, 2), Sequence: (2, 3)}.get(type(stream.computation), (1, 1))  # type: ignore[arg-type]
    if not least <= len(stream.sources) <= most:
        raise ConfigError(f"{len(stream.sources)} kinds of events are given: it takes {least} to {most}")
    for source in stream.sources:
        condition(source.where)


def _step(step: Step) -> None:
    match step:
        case Flatten(field=field):
            reader(field)
        case Sample(every=every):
            _above("sample", every)
        case Deduplicate(fields=fields, within=within):
            _length("within", within)
            if not fields:
                raise ConfigError("deduplicate needs the fields by which events are the same")
        case Split(kinds=kinds, otherwise=otherwise):
            for kind in (*kinds, *([otherwise] if otherwise else ())):
                if not NAME.fullmatch(kind):
                    raise ConfigError(f"'{kind}' is no kind of events: 1 to 64 letters, digits, '_', '.' or '-'")
        case Throttle(most=most, within=within):
            _above("throttle", most)
            _length("within", within)
            if most > 1000:
                raise ConfigError(f"throttle to {most} events is more than it can remember: at most 1000")
        case _:
            pass


def _window(window: Window) -> None:
    trigger = window.trigger
    early = bool(trigger.early_count or trigger.early_every)
    match window.shape:
        case Fixed(size=size):
            _length("every", size)
        case Sliding(size=size, every=every):
            _length("every", every)
            _length("size", size)
            if every > size:
                raise ConfigError(
                    "the windows' size is less than every so often one begins: events between them would be lost",
                    hint="Leave 'size' out, or make it longer than 'every'.",
                )
            if size > MAX_OVERLAP * every:
                raise ConfigError(f"an event would belong to more than {MAX_OVERLAP} windows: size / every is too much")
            if size > MAX_SPOKEN * every and (window.lateness or early):
                raise ConfigError(
                    f"an event would make panes of more than {MAX_SPOKEN} windows: size / every is too much",
                    hint=f"Up to {MAX_OVERLAP} without 'lateness' and early panes.",
                )
        case Session(gap=gap):
            _length("gap", gap)
        case _:
            if not early:
                raise ConfigError(
                    "a window for all time never ends: nothing would come of it",
                    hint='Give every="1m", or early_count=100 or early_every="1m".',
                )
    if not 0 < len(window.compute) <= MAX_VALUES:
        raise ConfigError(f"{len(window.compute)} values are to be computed: it can be 1 to {MAX_VALUES}")
    for name, aggregate in window.compute.items():
        _aggregate(name, aggregate)
    key_of(window.by)
    if window.time not in ("event", "processing"):
        raise ConfigError(f"time is '{window.time}': 'event' or 'processing'")
    if window.accumulation not in ("discarding", "accumulating", "retracting"):
        raise ConfigError(f"accumulation is '{window.accumulation}': 'discarding', 'accumulating' or 'retracting'")
    for field in ("lateness", "delay"):
        _length(field, getattr(window, field), 0)
    for field in ("idle", "ahead", "behind"):
        _length(field, getattr(window, field))
    for field in ("early_every", "late_every"):
        _length(field, getattr(trigger, field), 0)
    if not 0 <= trigger.early_count <= MAX_COUNT:
        raise ConfigError(f"early_count is {trigger.early_count}: it can be 0 to {MAX_COUNT}")


def _aggregate(name: str, aggregate: Aggregate) -> None:
    if aggregate.op not in _OPS:
        raise ConfigError(f"'{name}': there is no aggregate '{aggregate.op}'", hint=nearest(aggregate.op, _OPS))
    if not aggregate.field and aggregate.op not in _FIELDLESS:
        raise ConfigError(f"'{name}': {aggregate.op} is of a field, such as {aggregate.op}(temperature)")
    reader(aggregate.field)
    bounds = _ARGS.get(aggregate.op, {})
    for argument, value in aggregate.args.items():
        if (aggregate.op, argument) == ("variance", "population"):
            if type(value) is not bool:
                raise ConfigError(f"'{name}': 'population' of variance is {value!r}: true or false")
            continue
        if (aggregate.op, argument) == ("combine", "of") and isinstance(value, str):
            continue
        if argument not in bounds:
            raise ConfigError(f"'{name}': {aggregate.op} has no '{argument}'")
        least, most = bounds[argument]
        whole = argument != "q"
        if type(value) is bool or not isinstance(value, int if whole else (int, float)) or not least <= value <= most:
            raise ConfigError(f"'{name}': '{argument}' of {aggregate.op} is {value!r}: from {least} to {most}")
    if aggregate.op == "combine" and "of" not in aggregate.args:
        raise ConfigError(f"'{name}': combine is for classes of an app", hint="There: fold(path, Class).")
    if aggregate.op == "quantile" and "q" not in aggregate.args:
        raise ConfigError(f"'{name}': which quantile? Such as quantile({aggregate.field}, 0.95)")


def _above(name: str, value: int) -> None:
    if value <= 0:
        raise ConfigError(f"'{name}' is {value}: it has to be more than 0")


def _length(name: str, value: int, least: int = 1) -> None:
    if value < least:
        raise ConfigError(f"'{name}' is {value}: it has to be {'more than 0' if least else '0 or more'}")
    if value > LONGEST:
        raise ConfigError(f"'{name}' is {value // 86_400_000_000} days: at most 366")
