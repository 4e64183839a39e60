"""Tests of apps with plain pytest, on any machine: the same code that runs functions in the gateway, without one.

    from edge.testing import Command, run
    from greenhouse import overheat

    def test_fan_starts():
        result = run(overheat, "climate", {"temperature": 31})
        assert result.commands == [Command("test", "fan", {"on": True})]

Time and memory limits are the sandbox's; they do not hold here. `where` is evaluated by the gateway before a function
is called; here every event reaches the function.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edge._app import App
from edge._context import OutputLimits
from edge._event import Event
from edge._load import Loaded
from edge._plain import dumps
from edge._runtime import capture
from edge._runtime import run as _run

__all__ = ["Command", "Emitted", "FunctionFailed", "Log", "Result", "run"]


@dataclass(frozen=True)
class Command:
    """A command that a function gave."""

    device: str
    name: str
    args: Any = None
    expires: float = 60.0
    """Seconds."""
    key: str = ""


@dataclass(frozen=True)
class Emitted:
    """An event that a function emitted."""

    kind: str
    data: Any


@dataclass(frozen=True)
class Log:
    """A line that a function logged or printed."""

    level: str
    text: str


@dataclass
class Result:
    """What a function did with an event."""

    commands: list[Command] = field(default_factory=list)
    emitted: list[Emitted] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    value: Any = None
    """What a route returned, as it would be sent."""
    state: dict[str, Any] = field(default_factory=dict)
    """What the function keeps afterwards; of several functions, the last one's."""


class FunctionFailed(AssertionError):
    """The function did not return; the event would have gone to the dead letters. `reason` is `error` or `output`."""

    def __init__(self, reason: str, detail: str, logs: list[Log]) -> None:
        super().__init__(detail)
        self.reason = reason
        self.logs = logs


def run(
    target: App | Callable[..., Any],
    kind: str,
    data: Any,
    *,
    device: str = "test",
    time: int = 1_700_000_000_000_000,
    seq: int = 0,
    state: dict[str, Any] | None = None,
    limits: OutputLimits | None = None,
) -> Result:
    """Run a function, or all functions of an app that listen to `kind`, on one event.

    `target` is an app or one of its functions; `time` is in microseconds since 1970. What the functions do is
    collected in one result, in order. `state` is what each keeps beforehand: hand in the `state` of the last result to
    go on from there. Raises `FunctionFailed` where one does not return, `LookupError` where none
    listens.
    """
    app, names = _selected(target, kind)
    plain = json.loads(json.dumps(data))
    boot = "0" * 16
    result = Result()
    for name in names:
        event = Event(device, kind, time, plain, f"{device}/{boot}/{seq}", seq, boot, time)
        files = _files_beside(app.triggers[name].function.__code__.co_filename)
        key = "" if app.triggers[name].serial else device
        states = {key: {entry: (dumps(value), 0) for entry, value in (state or {}).items()}}
        streams = capture()
        try:
            outcome = json.loads(_run(Loaded(app, files), name, event, limits or OutputLimits(), states))
        finally:
            sys.stdout, sys.stderr = streams
        _collect(outcome, result)
        result.state = {entry: json.loads(text) for entry, (text, _) in states[key].items()}
    return result


def _files_beside(file: str) -> frozenset[str]:
    """The file and those of the modules that lie beside it or deeper: what would be deployed as the app's folder."""
    folder = os.path.dirname(file) + os.sep
    found = {str(getattr(module, "__file__", None)) for module in list(sys.modules.values())}
    return frozenset({file, *(path for path in found if path.startswith(folder))})


def _selected(target: App | Callable[..., Any], kind: str) -> tuple[App, list[str]]:
    if isinstance(target, App):
        names = [name for name, trigger in target.triggers.items() if trigger.kind == kind]
        if not names:
            raise LookupError(f"the app '{target.name}' has no function for events of kind '{kind}'")
        return target, names
    module = getattr(target, "__globals__", {})
    for app in module.values():
        if isinstance(app, App):
            for name, trigger in app.triggers.items():
                if trigger.function is target:
                    return app, [name]
    raise LookupError(f"'{getattr(target, '__name__', target)}' is not a function of an app")


def _collect(outcome: dict[str, Any], result: Result) -> None:
    logs = [Log(line["level"], line["text"]) for line in outcome.get("logs", ())]
    if outcome["type"] != "ok":
        raise FunctionFailed(outcome["reason"], outcome["detail"], logs)
    result.logs += logs
    for effect in outcome.get("effects", ()):
        if effect["type"] == "command":
            command = Command(
                effect["device"], effect["name"], effect["args"], effect["ttl"] / 1e6, effect.get("key", "")
            )
            result.commands.append(command)
        else:
            result.emitted.append(Emitted(effect["kind"], effect["data"]))
    if outcome["value"] is not None:
        result.value = outcome["value"]
