"""Drives the scaling of apps: looks at their flows and instances, and does what is decided."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, NotFound, nearest
from edge_runtime.flows.flows import Flows
from edge_runtime.flows.runner import Runner
from edge_runtime.functions.scaling import Decision, Observation, Scaler, ScaleSettings

if TYPE_CHECKING:  # as in deployments: the command line reads the messages here
    from edge_runtime.functions.pool import Load

EVERY = 1_000_000
"""Microseconds between two looks."""
MAX_SAYS = 200
"""Characters of what an alert says."""
MAX_ALERTS = 100
"""Alerts that are read of one message."""

_log = logging.getLogger("edge.scaling")


class Alert(msgspec.Struct):
    """One alert of a webhook's message; what else it says is not read."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    fingerprint: str = ""

    @property
    def identity(self) -> str:
        """The same for every message about this alert."""
        return (self.fingerprint or repr(sorted(self.labels.items())))[:MAX_SAYS]

    @property
    def says(self) -> str:
        """What it is about, for people."""
        return (self.annotations.get("summary") or self.labels.get("alertname") or self.identity)[:MAX_SAYS]


class AlertMessage(msgspec.Struct):
    """What the webhook of Prometheus' Alertmanager posts (version 4)."""

    status: Literal["firing", "resolved"]
    alerts: list[Alert]


class Instances(msgspec.Struct):
    """How many instances an app has, and between what bounds."""

    app: str
    instances: int
    min: int
    max: int
    decisions: list[Decision]
    """The newest last."""


class Platform(Protocol):
    """Whoever runs the instances."""

    def load_of(self, app: str, version: str) -> Load | None:
        """How a version is doing; None where it is not loaded."""
        ...

    async def scale(self, app: str, version: str, instances: int) -> int:
        """Give a version so many instances; answers how many it has."""
        ...


class _Watched:
    """An app, and what was seen of it last."""

    def __init__(self, settings: ScaleSettings) -> None:
        self.scaler = Scaler(settings)
        self.version = ""
        self.busy = 0
        self.at = 0


class AppScaling:
    """One app after the other, every second. `live` are the live apps' versions; `settings` those of an app.

    A batch of a flow takes one instance. So with the first decision for more than one, the flows of an app get as many
    lanes as it may have instances: once, as that costs a new generation, and an idle lane costs nothing. A flow that an
    operator gave another number than 1, or puts back to 1 afterwards, keeps it.
    """

    def __init__(
        self,
        flows: Flows,
        platform: Platform,
        clock: Clock,
        live: Callable[[], Mapping[str, str]],
        settings: Callable[[str], ScaleSettings],
    ) -> None:
        self._flows = flows
        self._platform = platform
        self._clock = clock
        self._live = live
        self._settings = settings
        self._apps: dict[str, _Watched] = {}
        self._widened: set[str] = set()

    async def run(self) -> None:
        """Look and decide, until cancelled."""
        while True:
            await self._clock.sleep(EVERY)
            await self.step()

    async def step(self) -> None:
        """Look once, and do what is decided."""
        live = dict(self._live())
        for gone in [app for app in self._apps if app not in live]:
            del self._apps[gone]
        for app, version in live.items():
            load = self._platform.load_of(app, version)
            if load is not None:
                await self._decide(app, version, load)

    def alert(self, app: str, message: AlertMessage) -> Instances:
        """Alerts about an app fire or are resolved. Raises `NotFound` for an app that is not live."""
        watched = self._find(app)
        for alert in message.alerts[:MAX_ALERTS]:
            firing = alert.status == "firing"
            if watched.scaler.alert(alert.identity, alert.says, firing, self._clock.monotonic()):
                _log.info("app %s: alert '%s' is %s", app, alert.says, alert.status)
        return self.of(app)

    def of(self, app: str) -> Instances:
        """An app's instances and the newest decisions. Raises `NotFound`."""
        watched = self._find(app)
        load = self._platform.load_of(app, self._live()[app])
        settings = watched.scaler.settings
        instances = load.instances if load is not None else 0
        return Instances(app, instances, settings.min, settings.max, list(watched.scaler.decisions))

    def _find(self, app: str) -> _Watched:
        live = self._live()
        if app not in live:
            raise NotFound(f"there is no live app '{app}'", hint=nearest(app, live))
        if app not in self._apps:
            self._apps[app] = _Watched(self._settings(app))
        return self._apps[app]

    async def _decide(self, app: str, version: str, load: Load) -> None:
        watched = self._find(app)
        now = self._clock.monotonic()
        runners = [
            runner
            for name, runner in self._flows.runners.items()
            if name.startswith(f"{app}.") and not runner.state.paused and not runner.halted
        ]
        wish = watched.scaler.decide(self._observe(watched, version, load, runners, now), now, self._clock.now())
        if wish != load.instances:
            await self._apply(app, version, wish, load.instances, watched.scaler)
        if wish > 1:  # after that: batches that were there before an instance would not go to it
            await self._widen(runners, watched.scaler.settings.max)

    async def _apply(self, app: str, version: str, wish: int, before: int, scaler: Scaler) -> None:
        found, why = before, "its calls are under way"
        try:
            found = await self._platform.scale(app, version, wish)
        except EdgeError as error:
            why = str(error)
        if found == wish:
            _log.info("app %s has %d instances: %s", app, wish, scaler.decisions[-1].reason)
        else:
            scaler.refused(found, why, self._clock.now())

    def _observe(self, watched: _Watched, version: str, load: Load, runners: list[Runner], now: int) -> Observation:
        elapsed = now - watched.at
        busy = 0.0
        if watched.version == version and elapsed > 0 and load.instances:
            busy = min(1.0, (load.busy - watched.busy) / elapsed / load.instances)
        watched.version, watched.busy, watched.at = version, load.busy, now
        waits = [runner.waits for runner in runners]
        oldest = min((event.received for event in waits if event is not None), default=None)
        return Observation(
            instances=load.instances,
            busy=busy,
            waiting=load.waiting,
            lag=max((runner.lag for runner in runners), default=0),
            lag_us=0 if oldest is None else max(0, self._clock.now() - oldest),
            rate=sum(runner.stats.rate for runner in runners),
            quiet_us=now - load.last_call,
        )

    async def _widen(self, runners: list[Runner], lanes: int) -> None:
        for runner in runners:
            name = runner.flow.name
            if name in self._widened or runner.state.lanes != 1:
                continue
            self._widened.add(name)
            try:
                await self._flows.scale(name, lanes)
            except EdgeError as error:  # removed in this moment, or the journal is full
                self._widened.discard(name)
                _log.warning("flow %s stays at one lane: %s", name, error)
