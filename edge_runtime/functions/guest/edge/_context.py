"""What a function can do to the world: effects, collected while it runs and carried out only if it succeeds."""

from __future__ import annotations

import re
from typing import Any

from edge._durations import microseconds
from edge._event import Event
from edge._files import Files
from edge._http import Http
from edge._plain import dumps
from edge._state import State, Stored
from edge._terms import Given, Terms

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LEVELS = ("debug", "info", "warning", "error")

MAX_METRICS = 20
"""Metrics of one call."""
MAX_REFUSED = 8
"""Refusals of one call that the gateway is told of."""


class NotGranted(PermissionError):
    """The app asked for something that it was not granted."""


class OutputLimit(BaseException):
    """More output than the limits allow. Not an `Exception`: a function must not swallow it."""


class Context:
    """Handed to a function with each event: state, commands, events and log lines go through it."""

    __slots__ = (
        *("_effects", "_event", "_exceeded", "_given", "_http", "_limits", "_logs", "_metrics", "_partial", "_refused"),
        *("_room", "_state", "_stored", "_terms"),
    )

    def __init__(self, event: Event, terms: Terms, given: Given, stored: Stored | None) -> None:
        """`stored` is what the function keeps for the event's device; None for a route, which only returns a value."""
        self._event = event
        self._terms = terms
        self._given = given
        self._stored = stored
        self._state: State | None = None
        self._http: Http | None = None
        self._limits = terms.limits
        self._room = terms.limits.output
        self._effects: list[str] = []
        self._logs: list[str] = []
        self._metrics: list[str] = []
        self._refused: list[str] = []
        self._partial = ""
        self._exceeded = ""

    @property
    def state(self) -> State:
        """What this function keeps for this device: a dict of plain values that lasts."""
        if self._state is None:
            self._state = State(self._kept("keep state"), self._event.received)
        return self._state

    @property
    def http(self) -> Http:
        """Requests to the hosts that the app was granted: `ctx.http.get("https://api.example.com/weather").json()`."""
        if self._http is None:
            self._kept("make requests")
            self._http = Http(self, self._given.answers.get(self._event.id, []))
        return self._http

    @property
    def files(self) -> Files:
        """The files in the app's folder that are not Python: `ctx.files.json("table.json")`."""
        self._require("files")
        return Files(self._terms.files)

    def secret(self, name: str) -> str:
        """A secret that the app was granted. Raises `LookupError` while the operator has not set it."""
        self._require("secret", name)
        try:
            return self._given.secrets[name]
        except KeyError:
            raise LookupError(f"the secret {name!r} has no value yet; on the gateway: edge secret set {name}") from None

    def metric(self, name: str, value: float = 1) -> None:
        """Note a measured value, or without one that something has happened once more.

        The gateway counts and sums the values of each name, and keeps the last, the least and the greatest:
        `edge apps metrics`.
        """
        self._kept("note metrics")
        _check_name(name, "a metric's name")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e300 < value < 1e300:
            raise ValueError(f"value={value!r} is not a number")
        if len(self._metrics) >= MAX_METRICS:
            self._exceed(f"more than {MAX_METRICS} metrics in one call")
        self._metrics.append(f'["{name}",{dumps(float(value))}]')

    def command(self, device: str, name: str, args: Any = None, *, expires: float | str = "60s", key: str = "") -> None:
        """Order `device` to do something, once the call has succeeded and its effects are stored.

        `args` are plain values, usually a dict. A device that does not connect before `expires` (seconds, or text
        such as "90s" or "5m") never gets the command. Only the device that caused the event can be commanded, unless
        the app was granted others (`App(..., grants=["command:pump-1"])`).

        With a `key`, the newest command stands: it replaces those with the same key that the device has not answered
        yet, whichever app gave them.
        """
        self._kept("give commands")
        if device == "gateway":
            raise ValueError("'gateway' is no device: the event at hand has none, so name the one that is meant")
        if device != self._event.device:
            self._require("command", device)
        _check_name(name, "a command's name")
        ttl = microseconds(expires, "expires", "7 days")
        latest = ""
        if key:
            _check_name(key, "a command's key")
            latest = f',"key":"{key}"'
        self._effect(
            f'{{"type":"command","device":{dumps(device)},"name":"{name}","args":{dumps(args)},"ttl":{ttl}{latest}}}'
        )

    def emit(self, kind: str, data: Any) -> None:
        """Put a new event of `kind` into the log, under the device of the event at hand; `data` is plain values."""
        self._kept("emit events")
        _check_name(kind, "a kind of event")
        self._effect(f'{{"type":"emit","kind":"{kind}","data":{dumps(data)}}}')

    def defer(self, kind: str, data: Any = None, *, after: float | str, key: str = "") -> None:
        """Have an event of `kind` come later, under the device of the event at hand; `data` is plain values.

        It enters the log `after` so long (seconds, or text such as "90s" or "5m", at most a year), counting the time
        that the gateway runs, and that it is off where its clock can be trusted; any `@app.on(kind)` may answer to it.
        With a `key` it takes the place of the pending one of this function, device and key; `cancel` takes it back.
        """
        self._kept("defer events")
        _check_name(kind, "a kind of event")
        wait = microseconds(after, "after", "a year")
        named = ""
        if key:
            _check_name(key, "a deferred event's key")
            named = f',"key":"{key}"'
        self._effect(f'{{"type":"defer","kind":"{kind}","data":{dumps(data)},"after":{wait}{named}}}')

    def cancel(self, key: str) -> None:
        """Take back the event that this function has deferred for this device under `key`, if there is one."""
        self._kept("cancel deferred events")
        _check_name(key, "a deferred event's key")
        self._effect(f'{{"type":"cancel","key":"{key}"}}')

    def log(self, *values: object, level: str = "info") -> None:
        """Write a line to the app's log; `level` is debug, info, warning or error."""
        if level not in _LEVELS:
            raise ValueError(f"level={level!r} is not one of {', '.join(_LEVELS)}")
        for line in " ".join(map(str, values)).splitlines() or [""]:
            self._line(line, level)

    def _require(self, kind: str, what: str = "") -> None:
        """Raise `NotGranted`, and have the gateway hear of it, unless it was granted."""
        if not self._terms.allow(kind, what):
            grant = f"{kind}:{what}" if what else kind
            if len(self._refused) < MAX_REFUSED:
                self._refused.append("".join(c if "!" <= c <= "~" else "?" for c in grant[:200]))
            own = f"only the device that caused the event ({self._event.device!r}) can be commanded, not {what!r}; "
            raise NotGranted(
                (own if kind == "command" else f"this app was not granted '{grant}'; ")
                + f"ask for it with App(..., grants=[{grant!r}])"
            )

    def _kept(self, what: str) -> Stored:
        """What the function keeps. Raises `NotGranted` in a route."""
        if self._stored is None:
            raise NotGranted(f"a route cannot {what}: do it in an @app.on function, which may emit what is to be sent")
        return self._stored

    def _changes(self) -> dict[str, tuple[str, int] | None]:
        """What the call has changed in its state. Notes an excess as the other limits do."""
        changes = {} if self._state is None else self._state._changes()
        if changes and self._state is not None:
            size = sum(len(name) + len(entry[0]) for name, entry in self._state._after(changes).items())
            if size > self._limits.state:
                self._exceeded = f"more than {self._limits.state // 1024} KiB of state"
        return changes

    def _line(self, text: str, level: str) -> None:
        if len(self._logs) >= self._limits.lines:
            self._exceed(f"more than {self._limits.lines} log lines in one call")
        entry = f'{{"level":"{level}","text":{dumps(text[: self._room])}}}'
        self._take(len(entry), "logs")
        self._logs.append(entry)

    def _effect(self, effect: str) -> None:
        if len(self._effects) >= self._limits.effects:
            self._exceed(f"more than {self._limits.effects} commands and emitted events in one call")
        self._take(len(effect), "effects")
        self._effects.append(effect)

    def _take(self, size: int, what: str) -> None:
        self._room -= size
        if self._room < 0:
            self._exceed(f"more than {self._limits.output // 1024} KiB of output in one call ({what})")

    def _exceed(self, why: str) -> None:
        self._exceeded = self._exceeded or why
        raise OutputLimit(why)

    def _write(self, text: str, level: str) -> None:
        """Printed text: whole lines become log lines, the rest waits for its end."""
        if "\n" not in text:
            if len(self._partial) + len(text) > self._room:
                self._exceed(f"more than {self._limits.output // 1024} KiB of output in one call (printed)")
            self._partial += text
            return
        *lines, rest = (self._partial + text).split("\n")
        self._partial = ""
        for line in lines:
            self._line(line, level)
        self._partial = rest

    def _flush(self) -> None:
        if self._partial:
            rest, self._partial = self._partial, ""
            self._line(rest, "info")


def _check_name(name: str, what: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not {what}: 1 to 64 letters, digits, '_', '.' or '-'")
