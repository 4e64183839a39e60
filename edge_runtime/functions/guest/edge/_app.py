"""Apps and their triggers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

_APP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_STARTS = ("latest", "earliest")
_POLICIES = ("skip", "hold", "stop")
_MOST_RETRIES = 100


class AppError(Exception):
    """The app is not well formed; the message says what to change."""


@dataclass(slots=True)
class OnTrigger:
    """Runs a function for each event of a kind."""

    function: Callable[..., Any]
    name: str
    kind: str
    where: str
    start: str
    retries: int
    on_error: str
    wants_context: bool
    serial: bool = False

    def manifest(self) -> dict[str, Any]:
        """The trigger as plain values."""
        return {
            "type": "on",
            "name": self.name,
            "kind": self.kind,
            "where": self.where,
            "start": self.start,
            "retries": self.retries,
            "on_error": self.on_error,
            "serial": self.serial,
        }


@dataclass(slots=True)
class RouteTrigger(OnTrigger):
    """Runs a function for each event of a kind and sends what it returns to a target."""

    to: str = field(default="")

    def manifest(self) -> dict[str, Any]:
        """The trigger as plain values."""
        plain = OnTrigger.manifest(self)
        del plain["serial"]
        return {**plain, "type": "route", "to": self.to}


class App:
    """A set of functions that are deployed together. One file holds one app.

    `name` is 1 to 64 letters, digits, `_` or `-`, and names the app in the gateway. `grants` asks for what a function
    does not have by itself, and the operator approves when the app is deployed: `command:pump-1` or `command:pump-*`
    (commands to other devices), `http:api.example.com` (requests to a host), `secret:weather-key`, `files` (the files
    in the app's folder).
    """

    def __init__(self, name: str, *, grants: Iterable[str] = ()) -> None:
        if not isinstance(name, str) or not _APP.fullmatch(name):
            raise AppError(f"App({name!r}): a name is 1 to 64 letters, digits, '_' or '-', the first a letter or digit")
        if isinstance(grants, str) or not all(isinstance(grant, str) for grant in grants):
            raise AppError(f"App({name!r}, grants={grants!r}): grants is a list, such as ['http:api.example.com']")
        self.name = name
        self.grants = list(grants)
        self.triggers: dict[str, OnTrigger] = {}

    def on(
        self,
        kind: str,
        *,
        where: str = "",
        start: str = "latest",
        retries: int = 2,
        on_error: str = "skip",
        serial: bool = False,
    ) -> Callable[[Function], Function]:
        """Run the function below for each event of `kind`.

        The function takes `(event)` or `(event, ctx)`. `where` is an expression over the fields of the event's data,
        such as `"temperature > 30"`, looked at before the function is called. `start` says where a function that is
        new begins: with events still to come (`latest`) or with the oldest one kept (`earliest`).

        An event on which the function fails is tried again `retries` times, with growing pauses, while later events
        of its device wait and all others go on. Then `on_error` says what happens: `skip` puts it with the dead
        letters, `hold` holds its device back until somebody releases it, `stop` pauses the function.

        Functions run side by side for different devices, and `ctx.state` is kept for each. With `serial` there is one
        state for all devices, and the events of all come one after the other.
        """

        def register(function: Function) -> Function:
            if type(serial) is not bool:
                raise AppError(f"@app.on({kind!r}): serial={serial!r} is neither True nor False")
            self._add(OnTrigger(*_described(function, "on", kind, where, start, retries, on_error), serial))
            return function

        return register

    def route(
        self,
        kind: str,
        *,
        to: str,
        where: str = "",
        start: str = "latest",
        retries: int = 2,
        on_error: str = "skip",
    ) -> Callable[[Function], Function]:
        """Send what the function below returns, for each event of `kind`, to the target `to` of edge.toml.

        The function takes `(event)` or `(event, ctx)`; returning None sends nothing. The rest is as for `on`; a target
        that cannot be reached is waited for and uses up no retries.
        """

        def register(function: Function) -> Function:
            if not isinstance(to, str) or not _NAME.fullmatch(to):
                raise AppError(f"@app.route(..., to={to!r}): name a target of edge.toml, such as to='cloud'")
            self._add(RouteTrigger(*_described(function, "route", kind, where, start, retries, on_error), to=to))
            return function

        return register

    def manifest(self) -> dict[str, Any]:
        """What the app says about itself, as plain values."""
        return {
            "app": self.name,
            "grants": self.grants,
            "triggers": [trigger.manifest() for trigger in self.triggers.values()],
        }

    def _add(self, trigger: OnTrigger) -> None:
        if trigger.name in self.triggers:
            raise AppError(
                f"'{trigger.name}' has a trigger already: a function has one trigger and a name of its own; "
                "for a second trigger write a second function that calls the first"
            )
        self.triggers[trigger.name] = trigger

    def __getattr__(self, name: str) -> Any:
        close = get_close_matches(name, ("on", "route"), n=1, cutoff=0.5)
        hint = f"did you mean '@app.{close[0]}'?" if close else "there are @app.on and @app.route"
        raise AttributeError(f"an app has no trigger '{name}'; {hint}")


def _described(
    function: Callable[..., Any], trigger: str, kind: str, where: str, start: str, retries: int, on_error: str
) -> tuple[Callable[..., Any], str, str, str, str, int, str, bool]:
    decorator = f"@app.{trigger}({kind!r})"
    code = getattr(function, "__code__", None)
    if code is None:
        raise AppError(f"{decorator} stands before something that is not a function")
    name = function.__name__
    if not isinstance(kind, str) or not _NAME.fullmatch(kind):
        raise AppError(f"{decorator}: a kind is 1 to 64 letters, digits, '_', '.' or '-'")
    if not _NAME.fullmatch(name):
        raise AppError(
            f"the function '{name}' under {decorator} needs a name in ASCII letters of at most 64 characters"
        )
    if not isinstance(where, str):
        raise AppError(f'{decorator}: where={where!r} is not text; write where="temperature > 30"')
    if start not in _STARTS:
        raise AppError(f"{decorator}: start={start!r} is neither 'latest' nor 'earliest'")
    if type(retries) is not int or not 0 <= retries <= _MOST_RETRIES:
        raise AppError(f"{decorator}: retries={retries!r} is not a number from 0 to {_MOST_RETRIES}")
    if on_error not in _POLICIES:
        raise AppError(f"{decorator}: on_error={on_error!r} is none of 'skip', 'hold' and 'stop'")
    if code.co_flags & 0x2A0:  # coroutine, generator, asynchronous generator: their body would never run
        raise AppError(f"'{name}' under {decorator} must be a plain 'def' without 'async' or 'yield'")
    required = code.co_argcount - len(function.__defaults__ or ()) if hasattr(function, "__defaults__") else 0
    if required > 2 or code.co_argcount < 1 or code.co_kwonlyargcount > len(function.__kwdefaults__ or ()):
        raise AppError(f"'{name}' under {decorator} must take (event) or (event, ctx)")
    return function, name, kind, where, start, retries, on_error, code.co_argcount >= 2
