"""Streams without code: what a table `[streams.NAME]` of edge.toml means.

Aggregates are written as they are in code, `quantile(temperature, 0.95)`, and steps in a few words each:

    filter EXPRESSION               map NAME = EXPRESSION           add NAME = EXPRESSION
    flatten FIELD                   sample NUMBER                   enrich NAME from tags TAG, TAG
    deduplicate FIELD, FIELD within DURATION                        throttle NUMBER within DURATION
"""

from __future__ import annotations

import re
from typing import Any

from edge_runtime.config import DURATION, StreamSettings
from edge_runtime.errors import ConfigError
from edge_runtime.streams.check import check
from edge_runtime.streamspec import (
    Absent,
    Aggregate,
    Deduplicate,
    Enrich,
    Filter,
    Fixed,
    Flatten,
    Global,
    Map,
    Sample,
    Session,
    Shape,
    Sliding,
    Source,
    Step,
    Stream,
    Throttle,
    Trigger,
    Window,
)

_CALL = re.compile(r"\s*([a-z_]+)\s*\(\s*([^,()]*?)\s*(?:,\s*([0-9.]+)\s*)?\)\s*")
_SECOND = {"quantile": "q", "top": "k", "collect": "limit"}
_NAMES = {"total": "sum", "minimum": "min", "maximum": "max"}
_STEPS = "filter, map, add, flatten, sample, enrich, deduplicate or throttle"


def stream_of(name: str, settings: StreamSettings) -> Stream:
    """The stream of a table. Raises ConfigError, with the table's name and what to write instead."""
    try:
        computation: Window | Absent | None = None
        if settings.compute and settings.absent:
            raise ConfigError("it has both 'compute' and 'absent'", hint="Make two of it, under two names.")
        if settings.compute:
            computation = _window(settings)
        elif settings.absent:
            computation = Absent(settings.absent, settings.by)
        elif settings.every or settings.size or settings.gap:
            raise ConfigError("it has windows, but nothing to compute", hint='Add compute = { n = "count()" }.')
        stream = Stream([Source(settings.kind, settings.where)], computation, _steps(settings))
        check(stream)
    except ConfigError as error:
        raise ConfigError(f"[streams.{name}]: {error}", hint=error.hint) from error
    return stream


def _window(settings: StreamSettings) -> Window:
    return Window(
        _shape(settings),
        {name: _aggregate(text) for name, text in settings.compute.items()},
        settings.by,
        time=settings.time,
        lateness=settings.lateness,
        trigger=Trigger(settings.early_count, settings.early_every, settings.late_every),
        accumulation=settings.accumulation,
        idle=settings.idle,
        delay=settings.delay,
    )


def _shape(settings: StreamSettings) -> Shape:
    if settings.gap:
        if settings.every or settings.size:
            raise ConfigError("it has a 'gap' and windows of fixed length", hint="Leave out 'every' and 'size'.")
        return Session(settings.gap)
    if not settings.every and not settings.size:
        return Global()
    size = settings.size or settings.every
    return Fixed(size) if settings.every in (0, size) else Sliding(size, settings.every)


def _aggregate(text: str) -> Aggregate:
    match = _CALL.fullmatch(text)
    if match is None:
        raise ConfigError(f'"{text}" is not such as "mean(temperature)" or "quantile(temperature, 0.95)"')
    op, path, second = _NAMES.get(match[1], match[1]), match[2], match[3]
    args: dict[str, Any] = {}
    if second is not None:
        if op not in _SECOND:
            raise ConfigError(f'"{text}": {op} takes a field alone')
        args[_SECOND[op]] = float(second) if op == "quantile" else int(float(second))
    return Aggregate(op, path, args)


def _steps(settings: StreamSettings) -> list[Step]:
    return [_step(text) for text in settings.steps]


def _step(text: str) -> Step:
    word, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    within = re.fullmatch(r"(.+?)\s+within\s+(\S+)", rest)
    named = re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)\s*=(?!=)\s*(.+)", rest)
    tagged = re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)\s+from\s+tags\s+(.+)", rest)
    try:
        if word == "filter" and rest:
            return Filter(rest)
        if word in ("map", "add") and named:
            return Map({named[1]: named[2]}, keep=word == "add")
        if word == "flatten" and rest:
            return Flatten(rest)
        if word == "sample":
            return Sample(int(rest))
        if word == "enrich" and tagged:
            return Enrich(tagged[1], tags=_list(tagged[2]))
        if word == "deduplicate" and within:
            return Deduplicate(_list(within[1]), DURATION.parse(within[2]))
        if word == "throttle" and within:
            return Throttle(int(within[1]), DURATION.parse(within[2]))
    except ValueError:
        pass
    raise ConfigError(f'the step "{text}" is not understood', hint=f"A step is {_STEPS}: docs/streams.md.")


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
