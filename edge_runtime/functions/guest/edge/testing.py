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

import base64
import json
import math
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from edge._app import App, HttpTrigger, OnTrigger, StreamTrigger, joined
from edge._event import Event
from edge._http import HttpError
from edge._load import Loaded
from edge._plain import dumps
from edge._runtime import capture
from edge._runtime import run as _run
from edge._streams import Pane
from edge._terms import Given, OutputLimits, Terms

__all__ = [
    "Answer",
    "Command",
    "Deferred",
    "Emitted",
    "FunctionFailed",
    "Log",
    "Request",
    "Result",
    "check_merge",
    "pane",
    "panes",
    "request",
    "run",
    "tick",
]


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
class Deferred:
    """An event that a function has deferred."""

    kind: str
    data: Any = None
    after: float = 0.0
    """Seconds."""
    key: str = ""


@dataclass(frozen=True)
class Log:
    """A line that a function logged or printed."""

    level: str
    text: str


@dataclass(frozen=True)
class Request:
    """A request that a function sends."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes = b""

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What comes back for a request; a body that is neither text nor bytes is sent as JSON."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Result:
    """What a function did with an event."""

    commands: list[Command] = field(default_factory=list)
    emitted: list[Emitted] = field(default_factory=list)
    deferred: list[Deferred] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    """The keys under which deferred events were taken back."""
    logs: list[Log] = field(default_factory=list)
    value: Any = None
    """What a route returned, as it would be sent; of an endpoint, the description of its answer."""
    reply: Answer | None = None
    """What an endpoint answered: `body` is text, or bytes."""
    state: dict[str, Any] = field(default_factory=dict)
    """What the function keeps afterwards; of several functions, the last one's."""
    metrics: list[tuple[str, float]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)


Http = Callable[[Request], Any]


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
    secrets: dict[str, str] | None = None,
    http: Http | None = None,
    limits: OutputLimits | None = None,
) -> Result:
    """Run a function, or all functions of an app that listen to `kind`, on one event.

    `target` is an app or one of its functions; `time` is in microseconds since 1970. What the functions do is
    collected in one result, in order. `state` is what each keeps beforehand: hand in the `state` of the last result to
    go on from there. What the app asks for in `grants` counts as granted: `secrets` are its secrets, and `http` is
    called with each `Request` and answers with an `Answer`, or just its body (JSON, text or bytes), or raises
    `HttpError`. Raises `FunctionFailed` where a function does not return, `LookupError` where none listens.
    """
    app, names = _selected(target, kind)
    plain = json.loads(json.dumps(data))
    boot = "0" * 16
    result = Result()
    for name in names:
        event = Event(device, kind, time, plain, f"{device}/{boot}/{seq}", seq, boot, time)
        file = app.triggers[name].function.__code__.co_filename
        loaded = Loaded(app, _files_beside(file))
        key = "" if app.triggers[name].serial else device
        given = Given(
            {key: {entry: (dumps(value), 0) for entry, value in (state or {}).items()}}, secrets=secrets or {}
        )
        terms = Terms(limits or OutputLimits(), _granted(app), _data_beside(file) if "files" in app.grants else {})
        outcome = _outcome(loaded, name, event, terms, given)
        while outcome["type"] == "unanswered":
            given.answers.setdefault(event.id, []).append(_answer(outcome["request"], http, result))
            outcome = _outcome(loaded, name, event, terms, given)
        _collect(outcome, result)
        result.state = {entry: json.loads(text) for entry, (text, _) in given.states[key].items()}
    return result


def _outcome(loaded: Loaded, name: str, event: Event, terms: Terms, given: Given) -> dict[str, Any]:
    streams = capture()
    try:
        found: dict[str, Any] = json.loads(_run(loaded, name, event, terms, given))
    finally:
        sys.stdout, sys.stderr = streams
    return found


def _granted(app: App) -> tuple[str, ...]:
    """What the app asks for, as if it were approved: a host alone stands for its address over TLS."""
    return tuple(
        f"http:https://{grant[5:].rstrip('/')}" if grant.startswith("http:") and "://" not in grant else grant
        for grant in app.grants
    )


def _answer(described: dict[str, Any], http: Http | None, result: Result) -> dict[str, Any]:
    request = Request(described["method"], described["url"], described["headers"], base64.b64decode(described["body"]))
    result.requests.append(request)
    if http is None:
        raise TypeError(
            f"the function sends {request.method} {request.url}; answer it: run(..., http=lambda request: ...)"
        )
    found: dict[str, Any] = {"method": request.method, "url": request.url}
    try:
        answer = http(request)
    except HttpError as error:
        return {**found, "error": str(error)}
    if not isinstance(answer, Answer):
        answer = Answer(body=answer)
    body = answer.body if isinstance(answer.body, (str, bytes)) else json.dumps(answer.body)
    content = body.encode() if isinstance(body, str) else body
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return {**found, "status": answer.status, "headers": headers, "body": base64.b64encode(content).decode()}


def _data_beside(file: str) -> dict[str, str]:
    """The files that would be deployed with the app's folder and are not Python."""
    folder = os.path.dirname(file)
    found = {}
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in names:
            path = os.path.join(where, name)
            if not name.endswith(".py"):
                with open(path, "rb") as content:
                    found[os.path.relpath(path, folder).replace(os.sep, "/")] = base64.b64encode(
                        content.read()
                    ).decode()
    return found


def tick(function: Callable[..., Any], *, due: int = 1_700_000_000_000_000, **more: Any) -> Result:
    """Run the function of a schedule at a moment (microseconds since 1970); `more` is as for `run`."""
    return run(function, _kind(function), {"due": due}, device="gateway", time=due, **more)


def pane(
    function: Callable[..., Any],
    values: dict[str, Any],
    *,
    key: str = "test",
    start: int = 1_700_000_000_000_000,
    end: int = 1_700_000_060_000_000,
    timing: str = "on_time",
    number: int = 0,
    retraction: bool = False,
    **more: Any,
) -> Result:
    """Run the function of a window, join, absence or sequence on a result with these `values`; `more` is as for `run`.

    What it computes from events, `panes` tells.
    """
    data = {"key": key, "start": start, "end": end, "values": values, "timing": timing, "number": number}
    return run(function, _kind(function), {**data, "retraction": retraction}, device=key, time=end, **more)


def panes(
    function: Callable[..., Any],
    events: Iterable[tuple[Any, ...]],
    *,
    until: float | None = None,
    tags: dict[str, dict[str, str]] | None = None,
) -> list[Pane]:
    """What the computation before a function makes of events: the results that the function would be run on.

    An event is `(seconds, kind, data)` or `(seconds, kind, data, device)`, or with `(taken, arrived)` for the seconds
    where it arrives later than it was taken. They arrive in the order in which they stand here. `until`: the second up
    to which time goes on behind the last of them. Needs the gateway's package, which brings the engine.
    """
    from edge_runtime.streams.trial import computed

    trigger = _trigger(function)
    if not isinstance(trigger, StreamTrigger):
        raise LookupError(f"'{function.__name__}' is not the function of a window, join, absence or sequence")
    return [trigger.pane(data) for data in computed(trigger.stream, events, until, tags or {}, _parts(trigger))]


def _parts(trigger: StreamTrigger) -> Callable[[str, list[Any], list[Any]], Any]:
    """Parts of its aggregates as the gateway gets them: through JSON."""
    return lambda name, parts, values: json.loads(dumps(trigger.part(name, parts, values)))


def check_merge(fold: type[Any], values: Iterable[Any], *, tries: int = 100, seed: int = 0) -> None:
    """Whether a class for `fold` gives the same result, however its values are put in order, cut and merged.

    Raises AssertionError that shows two ways with different results. Numbers may differ in the last digits.
    """
    known = list(values)
    random = Random(seed)
    expected = joined(fold, [], known).result()
    for _ in range(tries):
        mixed = random.sample(known, len(known))
        cuts = sorted(random.randint(0, len(mixed)) for _ in range(random.randint(0, 4)))
        pieces = [mixed[start:end] for start, end in zip([0, *cuts], [*cuts, len(mixed)], strict=True)]
        kept = [json.loads(dumps(vars(joined(fold, [], piece)))) for piece in pieces]
        while len(kept) > 1:
            at = random.randrange(len(kept) - 1)
            kept[at : at + 2] = [json.loads(dumps(vars(joined(fold, kept[at : at + 2], []))))]
        found = joined(fold, kept, []).result()
        if not _alike(found, expected):
            raise AssertionError(f"{found!r} by merging {pieces!r}, and {expected!r} by adding all of {known!r}")


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        return isinstance(one, (int, float)) and isinstance(other, (int, float)) and math.isclose(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    return bool(one == other)


def request(
    function: Callable[..., Any],
    body: Any = "",
    *,
    method: str = "",
    query: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Result:
    """Run the function of an endpoint on a request; `more` is as for `run`.

    `body` is text, bytes, or what is sent as JSON; `method` is the first that the endpoint answers to, unless it is
    given. The answer is the result's `reply`.
    """
    trigger = _trigger(function)
    if not isinstance(trigger, HttpTrigger):
        raise LookupError(f"'{function.__name__}' is not the function of an endpoint")
    content = body if isinstance(body, (str, bytes)) else json.dumps(body)
    data = {
        "method": method or trigger.methods[0],
        "path": trigger.path,
        "query": query or {},
        "type": "" if content is body else "application/json",
        "headers": {name.lower(): value for name, value in (headers or {}).items()},
        "body": content if isinstance(content, str) else base64.b64encode(content).decode(),
        "base64": isinstance(content, bytes),
    }
    result = run(function, trigger.kind, data, device="gateway", **more)
    found = result.value
    answered = found.get("body", "")
    result.reply = Answer(
        status=found["status"],
        headers=found["headers"],
        body=base64.b64decode(answered) if found.get("base64") else answered,
    )
    return result


def _kind(function: Callable[..., Any]) -> str:
    return _trigger(function).kind


def _trigger(function: Callable[..., Any]) -> OnTrigger:
    app, [name] = _selected(function, "")
    return app.triggers[name]


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
        elif effect["type"] == "defer":
            deferred = Deferred(effect["kind"], effect["data"], effect["after"] / 1e6, effect.get("key", ""))
            result.deferred.append(deferred)
        elif effect["type"] == "cancel":
            result.cancelled.append(effect["key"])
        else:
            result.emitted.append(Emitted(effect["kind"], effect["data"]))
    result.metrics += [(name, value) for name, value in outcome.get("metrics", ())]
    if outcome["value"] is not None:
        result.value = outcome["value"]
