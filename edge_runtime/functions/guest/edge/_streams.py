"""Computations over streams of events: what `@app.window`, `@app.join`, `@app.absent` and `@app.sequence` are told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from edge._durations import microseconds


class Terms(ValueError):
    """A computation is not well described; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """One value of a window: made by `mean("temperature")` and the like."""

    op: str
    field: str = ""
    args: dict[str, Any] = dataclasses.field(default_factory=dict)
    fold: Callable[..., Any] | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """One step before or after a computation: made by `filtered(...)` and the like."""

    plain: dict[str, Any]


@dataclasses.dataclass(slots=True)
class Pane:
    """A result of a computation over a stream. Times are microseconds since 1970-01-01 UTC."""

    key: str
    """What the window is of: the device, unless the computation is `by` something else."""
    start: int
    """Where the window begins; of a match or an absence: when its oldest event was."""
    end: int
    """Where the window ends (exclusive); of a match or an absence: when its newest event was."""
    values: Any
    """What was computed, by name."""
    timing: str = "on_time"
    """`early` (before all events can be there), `on_time`, or `late` (after events that came late)."""
    number: int = 0
    """Counts the panes of a window."""
    retraction: bool = False
    """It takes back what the pane before has said (with `accumulation="retracting"`)."""


def _aggregate(op: str, path: str, **args: Any) -> Aggregate:
    if not isinstance(path, str) or (not path and op != "count"):
        raise Terms(f"{op}({path!r}): name a field of the events' data, such as {op}('temperature')")
    return Aggregate(op, path, args)


def count(path: str = "") -> Aggregate:
    """How many events there are; with a field, how many that have it."""
    return _aggregate("count", path)


def total(path: str) -> Aggregate:
    """The sum of a field."""
    return _aggregate("sum", path)


def mean(path: str) -> Aggregate:
    """The mean of a field."""
    return _aggregate("mean", path)


def minimum(path: str) -> Aggregate:
    """The least value of a field."""
    return _aggregate("min", path)


def maximum(path: str) -> Aggregate:
    """The greatest value of a field."""
    return _aggregate("max", path)


def variance(path: str) -> Aggregate:
    """The variance of a field, of the sample (n - 1)."""
    return _aggregate("variance", path)


def first(path: str) -> Aggregate:
    """The value with the earliest event time."""
    return _aggregate("first", path)


def last(path: str) -> Aggregate:
    """The value with the latest event time."""
    return _aggregate("last", path)


def collect(path: str, limit: int = 100) -> Aggregate:
    """The values themselves, at most `limit` of them."""
    return _aggregate("collect", path, limit=limit)


def rate(path: str = "") -> Aggregate:
    """Events per second of the window; with a field, its sum per second."""
    return Aggregate("rate", path, {})


def delta(path: str) -> Aggregate:
    """The last value less the first: of meters that only go up."""
    return _aggregate("delta", path)


def time_mean(path: str) -> Aggregate:
    """The mean over time: each value counts as long as it was the newest one."""
    return _aggregate("time_mean", path)


def distinct(path: str) -> Aggregate:
    """How many different values there are, about."""
    return _aggregate("distinct", path)


def quantile(path: str, q: float) -> Aggregate:
    """The value below which the part `q` (0 to 1) of all values lies, about."""
    if isinstance(q, bool) or not isinstance(q, (int, float)) or not 0 <= q <= 1:
        raise Terms(f"quantile({path!r}, {q!r}): q is a number from 0 to 1, such as 0.95")
    return _aggregate("quantile", path, q=q)


def top(path: str, k: int = 10) -> Aggregate:
    """The `k` most frequent values with their counts, about."""
    return _aggregate("top", path, k=k)


def fold(path: str, function: Callable[..., Any], limit: int = 1000) -> Aggregate:
    """Your own aggregate, run in the sandbox.

    `function` gets the list of the earliest `limit` values and returns one. Or it is a class, of which one is made
    with nothing, has `add(value)` called for each of them, and is asked for its `result()`. Where it has
    `merge(other)` too, there may be any number of values, in any order: many are made one every now and then, what it
    has in its attributes (plain values: numbers, text, lists, dicts) is kept in their place, and these are merged.
    """
    if not callable(function):
        raise Terms(f"fold({path!r}, {function!r}): the second is a function of a list, or a class")
    if isinstance(function, type):
        lacking = [name for name in ("add", "result") if not callable(getattr(function, name, None))]
        if lacking:
            raise Terms(f"fold({path!r}, {function.__name__}): the class has no {' and no '.join(lacking)}")
        if hasattr(function, "merge"):
            if limit != 1000:
                raise Terms(f"fold({path!r}, {function.__name__}): it can merge, so there is no limit")
            # State begins anew where another class takes its place, or where it keeps other things.
            return Aggregate(
                "combine", path, {"of": f"{function.__name__}({', '.join(_kept(function, path))})"}, function
            )
    return Aggregate("custom", path, {"limit": limit}, function)


def _kept(function: type[Any], path: str) -> list[str]:
    try:
        return sorted(vars(function()))
    except TypeError as error:
        what = f"fold({path!r}, {function.__name__})"
        raise Terms(f"{what}: it is to be made with nothing, and to keep attributes: {error}") from None


def filtered(where: str) -> Step:
    """Let through what an expression holds for."""
    return Step({"type": "filter", "where": where})


def mapped(fields: Mapping[str, str], *, keep: bool = False) -> Step:
    """Make the data of expressions, such as `mapped({"celsius": "(fahrenheit - 32) * 5 / 9"})`.

    With `keep` the fields are added to those that are there.
    """
    return Step({"type": "map", "fields": dict(fields), "keep": keep})


def enriched(into: str, *, tags: Iterable[str] = (), table: Mapping[str, Any] | None = None, on: str = "") -> Step:
    """Add as the field `into` these tags of the device, or what `table` has under the value of the field `on`."""
    return Step({"type": "enrich", "into": into, "tags": list(tags), "table": dict(table or {}), "on": on})


def flattened(path: str) -> Step:
    """Make an event of each item of a list."""
    return Step({"type": "flatten", "field": path})


def deduplicated(fields: Iterable[str], *, within: float | str, by: str = "device") -> Step:
    """Leave out what is the same in these fields as something within so long (event time)."""
    length = microseconds(within, "within", "a year")
    return Step({"type": "deduplicate", "fields": list(fields), "within": length, "by": by})


def throttled(most: int, *, within: float | str, by: str = "device") -> Step:
    """Let at most so many events of a key through in any so long (event time)."""
    return Step({"type": "throttle", "most": most, "within": microseconds(within, "within", "a year"), "by": by})


def sampled(every: int) -> Step:
    """Let every so-manieth event through."""
    return Step({"type": "sample", "every": every})


def split(kinds: Mapping[str, str], *, otherwise: str = "") -> Step:
    """Give an event the kind whose expression holds, the first of them."""
    return Step({"type": "split", "kinds": dict(kinds), "otherwise": otherwise})


# What the decorators make of it


def window(
    every: float | str | None,
    size: float | str | None,
    gap: float | str | None,
    by: str,
    time: str,
    lateness: float | str,
    compute: Mapping[str, Aggregate],
    early_count: int,
    early_every: float | str,
    late_every: float | str,
    accumulation: str,
    idle: float | str,
    delay: float | str,
    offset: float | str,
) -> dict[str, Any]:
    """A window as plain values. Raises Terms."""
    shape: dict[str, Any]
    if gap is not None:
        if every is not None or size is not None:
            raise Terms('a session has a gap="30s" alone; every= and size= are of windows of fixed length')
        shape = {"type": "session", "gap": length("gap", gap)}
    elif every is None and size is None:
        shape = {"type": "global"}
    elif size is None or every is None or size == every:
        shape = {"type": "fixed", "size": length("every", size if every is None else every)}  # type: ignore[arg-type]
        shape["offset"] = optional_length("offset", offset)
    else:
        shape = {"type": "sliding", "size": length("size", size), "every": length("every", every)}
        shape["offset"] = optional_length("offset", offset)
    if not isinstance(compute, Mapping) or not compute:
        raise Terms('say what to compute: compute={"mean": mean("temperature")}')
    for name, aggregate in compute.items():
        if not isinstance(name, str) or not isinstance(aggregate, Aggregate):
            raise Terms(f'compute={{{name!r}: {aggregate!r}}}: give a name and such as mean("temperature")')
    return {
        "type": "window",
        "shape": shape,
        "compute": {name: {"op": a.op, "field": a.field, "args": a.args} for name, a in compute.items()},
        "by": by,
        "time": time,
        "lateness": optional_length("lateness", lateness),
        "trigger": {
            "early_count": early_count,
            "early_every": optional_length("early_every", early_every),
            "late_every": optional_length("late_every", late_every),
        },
        "accumulation": accumulation,
        "idle": length("idle", idle),
        "delay": optional_length("delay", delay),
    }


def length(name: str, value: float | str) -> int:
    """A length of time in microseconds. Raises Terms."""
    try:
        return microseconds(value, name, "a year")
    except (TypeError, ValueError) as error:
        raise Terms(str(error)) from None


def optional_length(name: str, value: float | str) -> int:
    """The same, and 0 for nothing. Raises Terms."""
    return 0 if value in (0, "") else length(name, value)


def plain_steps(steps: Iterable[Step], name: str) -> list[dict[str, Any]]:
    """Steps as plain values. Raises Terms."""
    found = list(steps)
    for step in found:
        if not isinstance(step, Step):
            raise Terms(f"{name}=[{step!r}]: a step is such as filtered('temperature > 0')")
    return [step.plain for step in found]
