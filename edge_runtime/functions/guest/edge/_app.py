"""Apps and their triggers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeVar

from edge import _streams
from edge._durations import microseconds
from edge._streams import Aggregate, Pane, Step, Terms

Function = TypeVar("Function", bound=Callable[..., Any])

_APP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_STARTS = ("latest", "earliest")
_POLICIES = ("skip", "hold", "stop")
_MOST_RETRIES = 100
_MISSED = ("skip", "once")
_TRIGGERS = ("on", "route", "schedule", "http", "window", "join", "absent", "sequence")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_PATH = re.compile(r"/|(/[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,63}){1,8}")
_HEADER = re.compile(r"[a-z0-9-]{1,64}")
_SECRET_HEADERS = ("authorization", "cookie", "proxy-authorization")


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


@dataclass(slots=True)
class ScheduleTrigger(OnTrigger):
    """Runs a function at moments."""

    every: int = 0
    cron: str = ""
    tz: str = "UTC"
    missed: str = "skip"

    def manifest(self) -> dict[str, Any]:
        """The trigger as plain values."""
        plain = OnTrigger.manifest(self)
        del plain["serial"]
        return {
            **plain,
            "type": "schedule",
            "every": self.every,
            "cron": self.cron,
            "tz": self.tz,
            "missed": self.missed,
        }


@dataclass(slots=True)
class StreamTrigger(OnTrigger):
    """Runs a function for each result of a computation over a stream of events."""

    stream: dict[str, Any] = field(default_factory=dict)
    late: str = ""
    folds: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def manifest(self) -> dict[str, Any]:
        """The trigger as plain values."""
        plain = OnTrigger.manifest(self)
        del plain["serial"]
        return {**plain, "type": "stream", "stream": self.stream, "late": self.late}

    def pane(self, data: dict[str, Any]) -> Pane:
        """The result that an event of its kind carries."""
        values = data["values"]
        for name, fold in self.folds.items():
            if name in values:
                values[name] = _folded(name, fold, values[name])
        return Pane(data["key"], data["start"], data["end"], values, data["timing"], data["number"], data["retraction"])

    def part(self, name: str, parts: list[dict[str, Any]], values: list[Any]) -> dict[str, Any]:
        """What one of its aggregates that can merge keeps of parts and values."""
        kept: dict[str, Any] = vars(joined(self.folds[name], parts, values))
        return kept


def joined(fold: Any, parts: list[dict[str, Any]], values: list[Any]) -> Any:
    """One of the class, of what others have kept in their attributes and of values."""
    found = None
    for part in parts:
        one = fold.__new__(fold)
        vars(one).update(part)
        if found is None:
            found = one
        else:
            found.merge(one)
    if found is None:
        found = fold()
    for value in values:
        found.add(value)
    return found


def _folded(name: str, fold: Callable[..., Any], values: Any) -> Any:
    parts: list[dict[str, Any]] = []
    if isinstance(values, dict):
        if "failed" in values:
            lost, why = values["left_out"], values["failed"]
            raise RuntimeError(f"'{name}' could not be folded, and {lost} values are left out: {why}")
        parts = values.get("parts", parts)
        values = values["values"] if "values" in values else values["items"]
    if not isinstance(fold, type):
        return fold(values)
    return joined(fold, parts, values).result()


@dataclass(slots=True)
class HttpTrigger(OnTrigger):
    """Runs a function for each request to an endpoint of the gateway, and answers with what it returns."""

    path: str = "/"
    methods: list[str] = field(default_factory=list)
    public: bool = False
    headers: list[str] = field(default_factory=list)

    def manifest(self) -> dict[str, Any]:
        """The trigger as plain values."""
        plain = OnTrigger.manifest(self)
        del plain["serial"]
        return {
            **plain,
            "type": "http",
            "path": self.path,
            "methods": self.methods,
            "public": self.public,
            "headers": self.headers,
        }


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

    def schedule(
        self,
        *,
        every: float | str | None = None,
        cron: str = "",
        tz: str = "UTC",
        missed: str = "skip",
        retries: int = 2,
        on_error: str = "skip",
    ) -> Callable[[Function], Function]:
        """Run the function below at moments: `every="10m"`, or `cron="0 6 * * *"` by the clock of `tz`.

        The function takes `(event)` or `(event, ctx)`; `event.data["due"]` is the moment in microseconds, and
        `event.device` is `gateway`. `every` (seconds, or text such as "10m") counts the time that the gateway runs;
        `cron` has the five fields minute, hour, day of the month, month and day of the week, and waits until the
        gateway's clock can be trusted. Moments at which the gateway is off are `missed`: `skip` leaves them out, `once`
        runs the function one time for all of them.
        """

        def register(function: Function) -> Function:
            described = _described(function, "schedule", "", "", "latest", retries, on_error, timed=True)
            if (every is None) == (not cron):
                raise AppError('@app.schedule takes one of every="10m" and cron="0 6 * * *"')
            if not isinstance(cron, str) or not isinstance(tz, str):
                raise AppError(f"@app.schedule(cron={cron!r}, tz={tz!r}): both are text")
            if missed not in _MISSED:
                raise AppError(f"@app.schedule(missed={missed!r}) is neither 'skip' nor 'once'")
            try:
                length = 0 if every is None else microseconds(every, "every", "a year")
            except (TypeError, ValueError) as error:
                raise AppError(f"@app.schedule: {error}") from None
            if 0 < length < 1_000_000:
                raise AppError(f"@app.schedule(every={every!r}): a second is the least")
            trigger = ScheduleTrigger(*described, every=length, cron=cron, tz=tz, missed=missed)
            trigger.kind = f"$schedule.{self.name}.{trigger.name}"
            self._add(trigger)
            return function

        return register

    def http(
        self,
        path: str,
        *,
        methods: Iterable[str] = ("POST",),
        public: bool = False,
        headers: Iterable[str] = (),
        retries: int = 0,
        on_error: str = "skip",
    ) -> Callable[[Function], Function]:
        """Answer requests to `/apps/<app><path>` of the gateway with what the function below returns.

        The function takes `(event)` or `(event, ctx)`; `event.data` holds `method`, `path`, `query`, `type` (of the
        content), `body` (text, or base64 if `base64` is true) and `headers`: some that are of use to many, and those
        named here. A dict or list is answered as JSON, text as text, None with 204, a `Reply` as it says. The answer
        leaves once the effects are stored. A request needs the app's token (`edge apps token`), unless the endpoint is
        `public`.
        """

        def register(function: Function) -> Function:
            described = _described(function, "http", "", "", "latest", retries, on_error, timed=True)
            wanted = [methods] if isinstance(methods, str) else list(methods)
            named = [headers] if isinstance(headers, str) else list(headers)
            decorator = f"@app.http({path!r})"
            if not isinstance(path, str) or not _PATH.fullmatch(path):
                raise AppError(f"{decorator}: a path is '/', or such as '/orders/new': letters, digits, '_', '.', '-'")
            if not wanted or not all(method in _METHODS for method in wanted):
                raise AppError(f"{decorator}: methods={wanted!r} are not some of {', '.join(_METHODS)}")
            if type(public) is not bool:
                raise AppError(f"{decorator}: public={public!r} is neither True nor False")
            for header in named:
                if not isinstance(header, str) or not _HEADER.fullmatch(header.lower()):
                    raise AppError(f"{decorator}: {header!r} is not the name of a header")
                if header.lower() in _SECRET_HEADERS:
                    raise AppError(
                        f"{decorator}: the header '{header}' is not handed on: what it holds would be stored"
                    )
            for other in self.triggers.values():
                if isinstance(other, HttpTrigger) and other.path == path and set(other.methods) & set(wanted):
                    raise AppError(f"{decorator}: '{other.name}' answers there already")
            trigger = HttpTrigger(
                *described, path=path, methods=wanted, public=public, headers=[name.lower() for name in named]
            )
            trigger.kind = f"$http.{self.name}.{trigger.name}"
            self._add(trigger)
            return function

        return register

    def window(
        self,
        kind: str,
        *,
        compute: Mapping[str, Aggregate],
        every: float | str | None = None,
        size: float | str | None = None,
        gap: float | str | None = None,
        by: str = "device",
        time: str = "event",
        lateness: float | str = 0,
        delay: float | str = 0,
        idle: float | str = "1m",
        offset: float | str = 0,
        early_count: int = 0,
        early_every: float | str = 0,
        late_every: float | str = 0,
        accumulation: str = "discarding",
        where: str = "",
        steps: Iterable[Step] = (),
        after: Iterable[Step] = (),
        late: str = "",
        start: str = "latest",
        retries: int = 2,
        on_error: str = "skip",
    ) -> Callable[[Function], Function]:
        """Run the function below for each pane: what was `compute`d over the events of `kind` within a window.

        The function takes `(pane)` or `(pane, ctx)`. Windows are by event time (`time="processing"`: by the gateway's
        clock) and by device (`by="data.zone"`: by that field; `by=""`: over all). `every="1m"` makes them follow each
        other, with `size="5m"` they overlap; `gap="30s"` makes sessions; without any there is one for all time.

        A pane leaves when the watermark passes the end of its window: when every device has sent events from behind it
        (`delay` behind the newest), or none for `idle`. Events may come `lateness` later, and cause another pane; what
        comes later still is put with the dead letters, or emitted as the kind `late`. `early_count` and `early_every`
        give panes before the end, `late_every` batches those after it. `accumulation` says whether a further pane has
        what is new (`discarding`), all of the window (`accumulating`), or that behind one that takes back what was
        said before (`retracting`).
        """

        def register(function: Function) -> Function:
            try:
                computation = _streams.window(
                    every,
                    size,
                    gap,
                    by,
                    time,
                    lateness,
                    compute,
                    early_count,
                    early_every,
                    late_every,
                    accumulation,
                    idle,
                    delay,
                    offset,
                )
            except Terms as error:
                raise AppError(f"@app.window({kind!r}): {error}") from None
            folds = {name: a.fold for name, a in compute.items() if a.fold is not None}
            self._stream("window", function, [(kind, where)], computation, steps, after, late, start, retries, on_error)
            self.triggers[function.__name__].folds = folds  # type: ignore[attr-defined]
            return function

        return register

    def join(
        self,
        kind: str,
        other: str,
        *,
        within: float | str | None = None,
        latest: bool = False,
        keep: float | str = 0,
        by: str = "device",
        lateness: float | str = 0,
        where: str = "",
        other_where: str = "",
        steps: Iterable[Step] = (),
        after: Iterable[Step] = (),
        late: str = "",
        start: str = "latest",
        retries: int = 2,
        on_error: str = "skip",
    ) -> Callable[[Function], Function]:
        """Run the function below for each two events of `kind` and `other` of a device at most `within` apart.

        With `latest`, for each event of `kind` with the latest one of `other` (no older than `keep`, if that is given).
        `pane.values` holds the data of both, as `left` and `right`.
        """

        def register(function: Function) -> Function:
            try:
                if latest == (within is not None):
                    raise Terms('say within="10s", or latest=True')
                length = 0 if within is None else _streams.length("within", within)
                behind = _streams.optional_length("lateness", lateness)
                computation: dict[str, Any]
                if latest:
                    computation = {"type": "latest", "by": by, "keep": _streams.optional_length("keep", keep)}
                else:
                    computation = {"type": "join", "within": length, "by": by, "lateness": behind}
            except Terms as error:
                raise AppError(f"@app.join({kind!r}, {other!r}): {error}") from None
            sources = [(kind, where), (other, other_where)]
            self._stream("join", function, sources, computation, steps, after, late, start, retries, on_error)
            return function

        return register

    def absent(
        self,
        kind: str,
        *,
        after: float | str,
        back: bool = False,
        by: str = "device",
        where: str = "",
        steps: Iterable[Step] = (),
        start: str = "latest",
        retries: int = 2,
        on_error: str = "skip",
    ) -> Callable[[Function], Function]:
        """Run the function below when a device that sent events of `kind` has sent none for `after` so long.

        With `back` it runs also when the device is heard of again; `pane.values["absent"]` tells which it is.
        """

        def register(function: Function) -> Function:
            try:
                computation = {"type": "absent", "length": _streams.length("after", after), "by": by, "back": back}
            except Terms as error:
                raise AppError(f"@app.absent({kind!r}): {error}") from None
            self._stream("absent", function, [(kind, where)], computation, steps, (), "", start, retries, on_error)
            return function

        return register

    def sequence(
        self,
        kind: str,
        *,
        then: str,
        within: float | str,
        without: str = "",
        by: str = "device",
        lateness: float | str = 0,
        where: str = "",
        then_where: str = "",
        without_where: str = "",
        steps: Iterable[Step] = (),
        after: Iterable[Step] = (),
        late: str = "",
        start: str = "latest",
        retries: int = 2,
        on_error: str = "skip",
    ) -> Callable[[Function], Function]:
        """Run the function below when an event of `kind` is followed by one of `then` of the same device.

        That is `within` so long, and without one of `without` between them. `pane.values` holds the data of both, as
        `first` and `then`.
        """

        def register(function: Function) -> Function:
            try:
                length, behind = _streams.length("within", within), _streams.optional_length("lateness", lateness)
            except Terms as error:
                raise AppError(f"@app.sequence({kind!r}): {error}") from None
            computation = {"type": "sequence", "within": length, "by": by, "lateness": behind}
            sources = [(kind, where), (then, then_where)]
            if without:
                sources.append((without, without_where))
            self._stream("sequence", function, sources, computation, steps, after, late, start, retries, on_error)
            return function

        return register

    def _stream(
        self,
        trigger: str,
        function: Callable[..., Any],
        sources: list[tuple[str, str]],
        computation: dict[str, Any],
        steps: Iterable[Step],
        after: Iterable[Step],
        late: str,
        start: str,
        retries: int,
        on_error: str,
    ) -> None:
        decorator = f"@app.{trigger}({sources[0][0]!r})"
        for kind, where in sources:
            described = _described(function, trigger, kind, where, start, retries, on_error)
        if not isinstance(late, str) or (late and not _NAME.fullmatch(late)):
            raise AppError(f"{decorator}: late={late!r} is not a kind of events")
        try:
            stream = {
                "sources": [{"kind": kind, "where": where} for kind, where in sources],
                "computation": computation,
                "steps": _streams.plain_steps(steps, "steps"),
                "after": _streams.plain_steps(after, "after"),
            }
        except Terms as error:
            raise AppError(f"{decorator}: {error}") from None
        made = StreamTrigger(*described, stream=stream, late=late)
        made.kind, made.where = f"$stream.{self.name}.{made.name}", ""
        self._add(made)

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
        close = get_close_matches(name, _TRIGGERS, n=1, cutoff=0.5)
        hint = f"did you mean '@app.{close[0]}'?" if close else f"there are @app.{', .'.join(_TRIGGERS)}"
        raise AttributeError(f"an app has no trigger '{name}'; {hint}")


def _described(
    function: Callable[..., Any],
    trigger: str,
    kind: str,
    where: str,
    start: str,
    retries: int,
    on_error: str,
    *,
    timed: bool = False,
) -> tuple[Callable[..., Any], str, str, str, str, int, str, bool]:
    decorator = f"@app.{trigger}" if timed else f"@app.{trigger}({kind!r})"
    code = getattr(function, "__code__", None)
    if code is None:
        raise AppError(f"{decorator} stands before something that is not a function")
    name = function.__name__
    if not timed and (not isinstance(kind, str) or not _NAME.fullmatch(kind)):
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
