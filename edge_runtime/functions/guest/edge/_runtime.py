"""Runs the functions of an app: the part that the sandbox and `edge.testing` have in common."""

from __future__ import annotations

import sys
from typing import Any

from edge._app import HttpTrigger, OnTrigger, RouteTrigger, StreamTrigger
from edge._context import Context, OutputLimit
from edge._event import Event
from edge._http import Unanswered
from edge._load import MAX_DETAIL, Loaded, frames, message
from edge._plain import dumps
from edge._reply import described
from edge._state import Stored
from edge._terms import Given, Terms

FOLD = "$fold"
"""The kind of what the gateway asks of an aggregate: to make one part of parts and values."""


def run(loaded: Loaded, function: str, event: Event, terms: Terms, given: Given) -> str:
    """Call one function on one event; answers the outcome as JSON. Never raises.

    The states that are given change with an event on which it succeeds.
    """
    trigger = loaded.app.triggers.get(function)
    if trigger is None:
        return _failed("error", f"the app has no function '{function}'", None)
    key = "" if trigger.serial else event.device
    stored: Stored | None = None if isinstance(trigger, RouteTrigger) else given.states.get(key, {})
    ctx = Context(event, terms, given, stored)
    _OUT.ctx = _ERR.ctx = ctx
    try:
        returned = _call(trigger, event, ctx)
        ctx._flush()
        changes = ctx._changes()
        if ctx._exceeded:
            return _failed("output", ctx._exceeded, ctx)
    except Unanswered as unanswered:
        return f'{{"type":"unanswered","request":{unanswered.request}}}'
    except BaseException as error:
        return _explained(error, ctx, loaded.files)
    finally:
        _OUT.ctx = _ERR.ctx = None
    kept = ""
    if changes:
        given.states[key] = ctx.state._after(changes)
        kept = f'"state":{dumps(changes)},'
    if ctx._metrics:
        kept += f'"metrics":[{",".join(ctx._metrics)}],'
    if ctx._refused:
        kept += f'"refused":{dumps(ctx._refused)},'
    if not ctx._effects and not ctx._logs:
        return f'{{"type":"ok",{kept}"value":{returned}}}'
    return (
        f'{{"type":"ok",{kept}"effects":[{",".join(ctx._effects)}],"logs":[{",".join(ctx._logs)}],"value":{returned}}}'
    )


def _call(trigger: OnTrigger, event: Event, ctx: Context) -> str:
    """What a route or an endpoint returned, as JSON; what another function returns is nobody's to use."""
    if event.kind == FOLD and isinstance(trigger, StreamTrigger):
        kept = trigger.part(**event.data)
        try:
            part = dumps(kept)
        except (TypeError, ValueError) as error:
            raise type(error)(f"what '{event.data['name']}' keeps in its attributes: {error}") from None
        ctx._take(len(part), "part of an aggregate")
        return part
    given = trigger.pane(event.data) if isinstance(trigger, StreamTrigger) else event
    value = trigger.function(given, ctx) if trigger.wants_context else trigger.function(given)
    answers = isinstance(trigger, HttpTrigger)
    if not answers and (value is None or not isinstance(trigger, RouteTrigger)):
        return "null"
    try:
        returned = described(value) if answers else dumps(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"'{trigger.name}' returned something that cannot be sent: {error}") from None
    ctx._take(len(returned), "returned value")
    return returned


def _explained(error: BaseException, ctx: Context, files: frozenset[str]) -> str:
    try:
        if ctx._exceeded or isinstance(error, OutputLimit):
            return _failed("output", ctx._exceeded or "too much output", ctx)
        if isinstance(error, MemoryError):
            ctx._effects.clear()
            return _failed("memory", _located("the memory limit was reached", error, files), ctx)
        return _failed("error", _located(message(error), error, files), ctx)
    except BaseException:  # an exception whose description raises, or no memory left to describe it
        return '{"type":"failed","reason":"error","detail":"the function raised an error that cannot be described"}'


def _failed(reason: str, detail: str, ctx: Context | None) -> str:
    logs = "" if ctx is None else ",".join(ctx._logs)
    refused = f',"refused":{dumps(ctx._refused)}' if ctx is not None and ctx._refused else ""
    return f'{{"type":"failed","reason":"{reason}","detail":{dumps(detail[:MAX_DETAIL])},"logs":[{logs}]{refused}}}'


def _located(what: str, error: BaseException, files: frozenset[str]) -> str:
    """The message with the user's own frames, the innermost first; the gateway's are nobody's business."""
    found = frames(error, files)[::-1]
    if len(found) > 6:
        found = found[:3] + found[-3:]
    return " <- ".join([what, *(f"{file}, line {line}, in {name}" for file, line, name in found)])


class _Stream:
    """Stands in for stdout or stderr: what is printed becomes log lines of the call at hand."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, level: str) -> None:
        self.ctx: Context | None = None
        self._level = level

    def write(self, text: str) -> int:
        """Print."""
        if self.ctx is not None:
            self.ctx._write(text, self._level)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        """Nobody is watching."""
        return False


_OUT, _ERR = _Stream("info"), _Stream("warning")


def capture() -> tuple[Any, Any]:
    """From here on what is printed goes to the call at hand. Answers the streams that stood there before."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _OUT, _ERR
    return before


def refuse_sleep(seconds: float) -> None:
    """Put in the place of `time.sleep`: a function answers an event and ends; it cannot wait."""
    raise RuntimeError("a function cannot sleep: answer the event and return")
