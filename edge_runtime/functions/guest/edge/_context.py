"""What a function can do to the world: effects, collected while it runs and carried out only if it succeeds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from edge._durations import microseconds
from edge._event import Event
from edge._plain import dumps
from edge._state import State, Stored

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LEVELS = ("debug", "info", "warning", "error")


class NotGranted(PermissionError):
    """The app asked for something that it was not granted."""


class OutputLimit(BaseException):
    """More output than the limits allow. Not an `Exception`: a function must not swallow it."""


@dataclass(slots=True, frozen=True)
class OutputLimits:
    """What one call may put out."""

    output: int = 256 * 1024
    """Bytes of effects, returned value and logs together."""
    lines: int = 100
    """Log lines, printed ones included."""
    effects: int = 100
    """Commands and emitted events together."""
    state: int = 64 * 1024
    """Bytes of state of one partition key: names and values as JSON."""


class Context:
    """Handed to a function with each event: state, commands, events and log lines go through it."""

    __slots__ = ("_effects", "_event", "_exceeded", "_limits", "_logs", "_partial", "_room", "_state", "_stored")

    def __init__(self, event: Event, limits: OutputLimits, stored: Stored | None = None) -> None:
        self._event = event
        self._stored = stored
        self._state: State | None = None
        self._limits = limits
        self._room = limits.output
        self._effects: list[str] = []
        self._logs: list[str] = []
        self._partial = ""
        self._exceeded = ""

    @property
    def state(self) -> State:
        """What this function keeps for this device: a dict of plain values that lasts."""
        if self._state is None:
            if self._stored is None:
                raise NotGranted("a route keeps no state: keep it in an @app.on function that emits what is to be sent")
            self._state = State(self._stored, self._event.received)
        return self._state

    def command(self, device: str, name: str, args: Any = None, *, expires: float | str = "60s", key: str = "") -> None:
        """Order `device` to do something, once the call has succeeded and its effects are stored.

        `args` are plain values, usually a dict. A device that does not connect before `expires` (seconds, or text
        such as "90s" or "5m") never gets the command. Only the device that caused the event can be commanded.

        With a `key`, the newest command stands: it replaces those with the same key that the device has not answered
        yet, whichever app gave them.
        """
        if device != self._event.device:
            raise NotGranted(
                f"this app may command only the device that caused the event ({self._event.device!r}), not {device!r}"
            )
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
        _check_name(kind, "a kind of event")
        self._effect(f'{{"type":"emit","kind":"{kind}","data":{dumps(data)}}}')

    def log(self, *values: object, level: str = "info") -> None:
        """Write a line to the app's log; `level` is debug, info, warning or error."""
        if level not in _LEVELS:
            raise ValueError(f"level={level!r} is not one of {', '.join(_LEVELS)}")
        for line in " ".join(map(str, values)).splitlines() or [""]:
            self._line(line, level)

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
