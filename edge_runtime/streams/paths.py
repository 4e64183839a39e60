"""Paths into an event's data, and partition keys: compiled to closures that never raise.

`gps.lat`, `levels[0]`, `levels[-1]`; the empty path is the data itself. What is not there is None, like null.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.events import Event

MAX_KEY = 256
"""Characters of a partition key: what is longer is none."""

_STEP = re.compile(r"(?:^|\.)([^\W\d]\w*)|\[(-?[0-9]{1,6})\]")
_DATA = "data."


def reader(path: str) -> Callable[[Any], Any]:
    """From an event's data to what is at the path, or None. Raises `ConfigError` for what is no path."""
    steps = _steps(path)
    if not steps:
        return _itself
    if len(steps) == 1 and isinstance(steps[0], str):
        return _field(steps[0])

    def deep(data: Any) -> Any:
        for step in steps:
            if type(data) is dict:
                data = data.get(step)
            elif type(data) is list and type(step) is int and -len(data) <= step < len(data):
                data = data[step]
            else:
                return None
        return data

    return deep


def key_of(by: str) -> Callable[[Event], str | None]:
    """From an event to its partition key; None for one without: nothing there, a list, a map or a very long text.

    `by` is `device`, empty (one key, the empty text, for all events), or a path that begins with `data.`. Numbers
    become text: 3 and 3.0 are the same key; so do booleans. Raises `ConfigError`.
    """
    if by == "device":
        return _device
    if not by:
        return _nothing
    if not by.startswith(_DATA) or len(by) == len(_DATA):
        raise ConfigError(f"'{by}' is no partition key", hint="'device', nothing, or a field such as 'data.zone'.")
    read = reader(by.removeprefix(_DATA))

    def key(event: Event) -> str | None:
        value = read(event.data)
        if type(value) is str:
            return value if len(value) <= MAX_KEY else None
        return _text(value)

    return key


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    at = 0
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None or path[0] == ".":
            raise ConfigError(
                f"'{path}' is no path to a field", hint="Such as 'temperature', 'gps.lat' or 'levels[0]'."
            )
        steps.append(match[1] if match[1] is not None else int(match[2]))
        at = match.end()
    return steps


def _itself(data: Any) -> Any:
    return data


def _field(name: str) -> Callable[[Any], Any]:
    def top(data: Any) -> Any:
        return data.get(name) if type(data) is dict else None

    return top


def _device(event: Event) -> str:
    return event.device


def _nothing(event: Event) -> str:
    return ""


def _text(value: Any) -> str | None:
    kind = type(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is float and value.is_integer():
        value = int(value)
    return str(value) if kind is int or kind is float else None
