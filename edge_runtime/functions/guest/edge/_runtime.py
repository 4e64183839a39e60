"""Loads an app and runs its functions: the part that the sandbox and `edge.testing` have in common."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from typing import Any

from edge._app import App, AppError, OnTrigger, RouteTrigger
from edge._context import Context, OutputLimit, OutputLimits
from edge._event import Event
from edge._plain import dumps

MAX_DETAIL = 2000
"""Characters of an error's description."""


class LoadError(Exception):
    """An app could not be loaded. `line` is 0 where no line is to blame."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}:{line}: {reason}" if line else f"{file}: {reason}")
        self.file = file
        self.line = line
        self.reason = reason


class Loaded:
    """An app in memory, with the files its code came from."""

    def __init__(self, app: App, files: frozenset[str]) -> None:
        self.app = app
        self.files = files

    def manifest(self) -> str:
        """The app's manifest as JSON."""
        return dumps(self.app.manifest())


def load(files: Mapping[str, str], entry: str) -> Loaded:
    """Run the source of `entry` and find its one `App`. Raises `LoadError`."""
    names = frozenset(files)
    module = types.ModuleType(entry.removesuffix(".py").replace("/", "."))
    module.__file__ = entry
    sys.modules[module.__name__] = module
    try:
        code = compile(files[entry], entry, "exec", dont_inherit=True)
        exec(code, module.__dict__)
        app = _only_app(module, entry)
    except LoadError:
        raise
    except BaseException as error:
        file, line = _place(error, names)
        raise LoadError(file or entry, line, _message(error)) from None
    return Loaded(app, names)


def run(loaded: Loaded, function: str, event: Event, limits: OutputLimits) -> str:
    """Call one function on one event; answers the outcome as JSON. Never raises."""
    trigger = loaded.app.triggers.get(function)
    if trigger is None:
        return _failed("error", f"the app has no function '{function}'", [])
    ctx = Context(event, limits)
    _OUT.ctx = _ERR.ctx = ctx
    try:
        returned = _call(trigger, event, ctx)
        ctx._flush()
        if ctx._exceeded:
            return _failed("output", ctx._exceeded, ctx._logs)
    except BaseException as error:
        return _explained(error, ctx, loaded.files)
    finally:
        _OUT.ctx = _ERR.ctx = None
    if not ctx._effects and not ctx._logs:
        return f'{{"type":"ok","value":{returned}}}'
    return f'{{"type":"ok","effects":[{",".join(ctx._effects)}],"logs":[{",".join(ctx._logs)}],"value":{returned}}}'


def _call(trigger: OnTrigger, event: Event, ctx: Context) -> str:
    """What a route returned, as JSON; what another function returns is nobody's to use."""
    value = trigger.function(event, ctx) if trigger.wants_context else trigger.function(event)
    if value is None or not isinstance(trigger, RouteTrigger):
        return "null"
    try:
        returned = dumps(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"'{trigger.name}' returned something that cannot be sent: {error}") from None
    ctx._take(len(returned), "returned value")
    return returned


def _explained(error: BaseException, ctx: Context, files: frozenset[str]) -> str:
    try:
        if ctx._exceeded or isinstance(error, OutputLimit):
            return _failed("output", ctx._exceeded or "too much output", ctx._logs)
        if isinstance(error, MemoryError):
            ctx._effects.clear()
            return _failed("memory", _located("the memory limit was reached", error, files), ctx._logs)
        return _failed("error", _located(_message(error), error, files), ctx._logs)
    except BaseException:  # an exception whose description raises, or no memory left to describe it
        return '{"type":"failed","reason":"error","detail":"the function raised an error that cannot be described"}'


def _failed(reason: str, detail: str, logs: list[str]) -> str:
    return f'{{"type":"failed","reason":"{reason}","detail":{dumps(detail[:MAX_DETAIL])},"logs":[{",".join(logs)}]}}'


def _message(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg}: {error.text.strip()[:200]}" if error.text else str(error.msg)
    if isinstance(error, AppError):
        return str(error)
    text = str(error)[:MAX_DETAIL]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _frames(error: BaseException, files: frozenset[str]) -> list[tuple[str, int, str]]:
    found = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_filename in files:
            found.append((code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    return found


def _place(error: BaseException, files: frozenset[str]) -> tuple[str, int]:
    if isinstance(error, SyntaxError) and error.filename in files:
        return error.filename, error.lineno or 0
    frames = _frames(error, files)
    return (frames[-1][0], frames[-1][1]) if frames else ("", 0)


def _located(message: str, error: BaseException, files: frozenset[str]) -> str:
    """The message with the user's own frames, the innermost first; the gateway's are nobody's business."""
    frames = _frames(error, files)[::-1]
    if len(frames) > 6:
        frames = frames[:3] + frames[-3:]
    return " <- ".join([message, *(f"{file}, line {line}, in {name}" for file, line, name in frames)])


def _only_app(module: types.ModuleType, entry: str) -> App:
    apps = {id(value): value for value in vars(module).values() if isinstance(value, App)}
    if not apps:
        raise LoadError(entry, 0, 'no App found; add: from edge import App; app = App("name")')
    if len(apps) > 1:
        names = ", ".join(f"'{app.name}'" for app in apps.values())
        raise LoadError(entry, 0, f"{len(apps)} apps in one file ({names}); one file holds one app")
    app = next(iter(apps.values()))
    if not app.triggers:
        raise LoadError(
            entry, 0, f"the app '{app.name}' has no functions; put @app.on(...) or @app.route(...) before one"
        )
    return app


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
