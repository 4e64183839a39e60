"""The composition root: the only file that knows everybody. Builds the house, starts it, stops it.

The front doors are put together in `frontdoors.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from cloud_bridge.route import RouteFlow
from cloud_bridge.targets.http_cloudevents import HttpCloudEventsTarget
from devices.authority import Authority
from devices.orders import Orders
from devices.ota import Ota
from devices.registry import Registry
from devices.release_store import ReleaseStore
from edge_runtime import __version__, expr
from edge_runtime.clock import TRUSTED_AFTER, Clock, SystemClock
from edge_runtime.config import Config, Journal
from edge_runtime.cron import Cron, CronError, zone_of
from edge_runtime.errors import DeployError, EdgeError, StorageError, nearest
from edge_runtime.events import GATEWAY, Event
from edge_runtime.flows.deadletters import DeadLetters
from edge_runtime.flows.endpoint import EndpointFlow
from edge_runtime.flows.flow import Flow
from edge_runtime.flows.flows import Flows
from edge_runtime.flows.function import FunctionFlow
from edge_runtime.flows.lineage import Lineage
from edge_runtime.flows.metrics import Metrics
from edge_runtime.flows.outbox import Outbox
from edge_runtime.flows.ports import Target
from edge_runtime.flows.reach import Reach
from edge_runtime.flows.timers import Timers
from edge_runtime.frontdoors import FrontDoors
from edge_runtime.functions.http_out import HttpOut
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.functions.secrets import Secrets
from edge_runtime.functions.settings import default_limits, limits_by_app, scaling_of
from edge_runtime.functions.stats import AppStats
from edge_runtime.grants import Grants
from edge_runtime.ingress import schemas
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.allowances import PaceRule, allowance_of
from edge_runtime.ingress.apps import Apps, figures
from edge_runtime.ingress.endpoints import EndpointDoor
from edge_runtime.ingress.endpoints import Limits as EndpointLimits
from edge_runtime.ingress.pace import Allowance, Pace
from edge_runtime.ingress.skew import Skews
from edge_runtime.ingress.tokens import Tokens
from edge_runtime.journal.interface import Usage
from edge_runtime.journal.records import DeadLetter, Device, Stored
from edge_runtime.journal.retention import Retention
from edge_runtime.journal.sqlite.client import SqliteJournal
from edge_runtime.manifest import AnyTrigger, Endpoint, Manifest, Route, Schedule, StreamTrigger
from edge_runtime.planes import backups, instrumentation
from edge_runtime.planes.backups import Saved
from edge_runtime.planes.control import FlowControl
from edge_runtime.planes.deployments import Deployments, triggers
from edge_runtime.planes.fleet import Fleet
from edge_runtime.planes.inventory import Inventory, NewDevice
from edge_runtime.planes.lines import line
from edge_runtime.planes.logs import SECURITY
from edge_runtime.planes.messages import (
    AppKey,
    AppRow,
    Deploy,
    Deployed,
    DeviceKey,
    DeviceRow,
    FlowRow,
    Health,
    Line,
    Status,
    Storage,
)
from edge_runtime.planes.scaling import AppScaling
from edge_runtime.streams.streams import TABLE, Streams

TAIL_BATCH = 500
RECOVERY = 1_000_000
"""Before work in the background that a defect has ended begins again, microseconds."""
TICK = 60_000_000
"""How often the journal is told the time, microseconds."""

_log = logging.getLogger("edge.gateway")
_security = logging.getLogger(SECURITY)


class Gateway:
    """One running gateway. Implements the planes' `House`. Make it with `await Gateway.start(config)`."""

    def __init__(self, config: Config, clock: Clock, rng: random.Random) -> None:
        self.config = config
        self._clock = clock
        self._rng = rng
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = contextlib.AsyncExitStack()
        self._stored_events = 0
        self._refused = 0
        """Messages refused when something was last stored: more than these mean that nothing can be stored now."""
        self._usage = Usage(0, -1, 0, config.journal.max_size, full=False)
        """How full the journal was when it was last told the time."""
        self._started = clock.now()

    @classmethod
    async def start(
        cls,
        config: Config,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        progress: Callable[[str, float], None] | None = None,
    ) -> Gateway:
        """Bring everything up, in the order in which it is needed; what was started is stopped again on failure.

        `progress(phase, fraction)` hears about the one long part, building the sandbox guest the first time.
        """
        gateway = cls(config, clock or SystemClock(), rng or random.Random())
        async with contextlib.AsyncExitStack() as stack:
            await gateway._build(stack, progress)
            gateway._stack = stack.pop_all()
        return gateway

    async def _build(self, stack: contextlib.AsyncExitStack, progress: Callable[[str, float], None] | None) -> None:
        config, clock = self.config, self._clock
        data = config.gateway.data
        stack.enter_context(_held(data))
        self._limits_of = limits_by_app(config)
        self.platform = FunctionPlatform(
            data / "apps",
            clock,
            executors=config.functions.executors,
            limits=default_limits(config),
            limits_of=self._limits_of,
        )
        await self.platform.start(progress)
        stack.push_async_callback(self.platform.stop)

        self.journal = await SqliteJournal.open(
            data / "journal.db",
            max_bytes=config.journal.max_size,
            max_delay=config.journal.max_delay_ms / 1e3,
            retention=_retention(config.journal),
        )
        stack.push_async_callback(self.journal.close)
        tables = await self.journal.tables()
        self.registry = await Registry.open(
            self.journal, clock, filter(None, (config.gateway.name, config.iotcore.project))
        )
        stack.push_async_callback(self._remember_seen)
        self.authority = Authority(config.authority)
        orders = await Orders.open(self.journal, self.registry, clock)
        allowed = Allowance(config.admission.rate, config.admission.bytes, config.admission.burst)
        pace = Pace(clock, allowance_of(_pace_rules(config), allowed, self._tags_of))
        self.journal.listen(partial(_look_again, pace), events=False)
        admission = self.admission = await Admission.open(
            self.journal,
            self.registry,
            clock,
            _security.warning,
            pace=pace,
            skews=Skews(config.admission.clock_skew),
            schemas=schemas.load({kind: settings.file for kind, settings in config.schemas.items()}),
        )
        self.ota = await Ota.open(self.journal, self.registry, clock, ReleaseStore(data / "releases"), _log.warning)
        admission.ota = self.ota
        self.fleet = Fleet(self.ota, self.registry, clock)
        self.mqtt_users = await Apps.open(self.journal, self.registry, clock, _log.warning)
        stack.push_async_callback(self.mqtt_users.stop)
        self.front = FrontDoors(config, clock, self._rng, admission, self.registry, self.authority, self.mqtt_users)
        self.journal.listen(self._count)
        doors = self.front.all
        self.ota.tell = lambda device, word, payload: doors.tell(device, f"ota/{word}", payload)
        self.ota.connected = doors.connected
        self.inventory = Inventory(
            self.registry,
            admission.twin,
            orders,
            self.authority,
            clock,
            doors.connected,
            admission.skews.of,
            self.mqtt_users.broker.users,
        )
        self.outbox = Outbox(self.journal, doors, clock, tables.outbox)
        self.targets = {}
        for name, settings in config.targets.items():
            source = settings.source or f"//edge/{config.gateway.name}"
            target = HttpCloudEventsTarget(settings.url, source, settings.timeout, clock)
            stack.push_async_callback(target.aclose)
            self.targets[name] = target

        self.secrets = Secrets(data / "secrets")
        self.metrics = Metrics()
        self._http_out = HttpOut()
        stack.push_async_callback(self._http_out.aclose)
        self.flows = Flows(self.journal, tables, clock, self._rng)
        self.tokens = Tokens(self.journal, tables, clock)
        self.endpoints = EndpointDoor(
            self.journal,
            clock,
            self.tokens,
            self._live_manifest,
            secrets.token_bytes(8),
            security=_security.warning,
            limits=EndpointLimits(config.http.timeout, config.http.max_body, config.http.max_requests),
        )
        self.timers = Timers(self.journal, tables, clock, done=self._dealt_with, draw=lambda: secrets.token_bytes(8))
        self.streams = Streams(clock, self.timers, self._tags_of, self.platform, config.functions.stream_memory)
        stack.push_async_callback(self.streams.worker.stop)
        self.control = FlowControl(self.flows, self.journal, clock)
        self.letters = DeadLetters(self.journal, self.flows, clock)
        self.lineage = Lineage(self.journal, self.flows, lambda runner: isinstance(runner.flow, RouteFlow))
        self.deployments = Deployments(
            self.platform, self.flows, self.journal, clock, self.control, self._flows_of, tables.apps, self.timers
        )
        self.scaling = AppScaling(
            self.flows,
            self.platform,
            clock,
            lambda: {app: record.version for app, (record, _) in self.deployments.live.items()},
            lambda app: scaling_of(config, app),
        )
        stack.push_async_callback(self.flows.stop)
        await self.deployments.resume()
        await self._resume_streams()
        await self.front.open(stack, self.journal, self.outbox.listening, self.endpoints)
        for work in (
            self.flows.run,
            self.outbox.run,
            self.timers.run,
            self.scaling.run,
            self.ota.run,
            self._keep_house,
        ):
            self._tasks.append(asyncio.create_task(_for_ever(work, clock)))
        stack.push_async_callback(self._cancel)
        _log.info("boards connect to mqtt://%s:%d; data in %s", config.mqtt.host, self.front.mqtt_port, data)

    async def stop(self) -> None:
        """Close the doors, let the flows commit, close the journal."""
        await self._stack.aclose()

    async def broken(self) -> None:
        """Return when the gateway cannot go on: its journal's writer has ended."""
        await asyncio.shield(self.journal.lost)

    async def _keep_house(self) -> None:
        """Tell the journal the time, by which it removes what is too old."""
        while True:
            now = self._clock.now()
            try:
                self._usage = await self.journal.tick(now, self._clock.monotonic(), trusted=now > TRUSTED_AFTER)
            except StorageError as error:
                _log.warning("the journal could not be kept in order: %s", error)
            await self._remember_seen()
            await self.front.keep()
            for said in await self.admission.keep():
                _log.warning("%s", said)
            await self._clock.sleep(TICK)

    async def _remember_seen(self) -> None:
        with contextlib.suppress(StorageError):  # it is told again in a minute
            await self.registry.save_seen()

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _dealt_with(self, flow: str, offset: int) -> bool:
        """Whether a flow has dealt with the event of its schedule at an offset."""
        runner = self.flows.runners.get(flow)
        return runner is None or runner.position().done(offset, GATEWAY)

    def _count(self, stored: Sequence[Stored]) -> None:
        self._stored_events += sum(type(item.record) is Event for item in stored)
        if any(type(item.record) in (Event, DeadLetter) for item in stored):
            self._refused = self.front.refusals()

    # Apps

    async def deploy(self, request: Deploy) -> Deployed:
        """Check an app in the sandbox and, unless only that was asked, put it live; the old one serves until then."""
        return await self.deployments.deploy(request)

    async def app_token(self, app: str) -> AppKey:
        """Give an app a new token for its endpoints, shown this once."""
        self.deployments.record(app)
        text = await self.tokens.create(app)
        _security.warning("the app %s has a new token for its endpoints", app)
        return AppKey(app, text)

    async def _resume_streams(self) -> None:
        """Start the computations of edge.toml, and end those that are no longer in it."""
        flows = self.streams.of_settings(self.config.streams)
        for flow in flows:
            await self.flows.install(flow, resume=True)
        for name in self.flows.known(TABLE):
            if name not in {flow.name for flow in flows}:
                await self.flows.remove(name)

    def _tags_of(self, device: str) -> Mapping[str, str]:
        found = self.registry.record(device)
        return {} if found is None else found.tags

    def _live_manifest(self, app: str) -> Manifest | None:
        live = self.deployments.live.get(app)
        return None if live is None else live[1]

    def _flows_of(self, manifest: Manifest, version: str) -> list[Flow]:
        # A version is live only with all that it asks for approved; others are only run dry.
        limits = self._limits_of(manifest.app)
        reach = Reach(
            Grants.of(manifest.grants), self.secrets.get, self._http_out.of(manifest.app), self.metrics, limits.state
        )
        if manifest.app == TABLE:
            raise DeployError(f"no app can be called '{TABLE}': the computations of edge.toml are")
        flows = [self._flow(manifest.app, version, trigger, reach) for trigger in manifest.triggers]
        streams = [trigger for trigger in manifest.triggers if isinstance(trigger, StreamTrigger)]
        return [*flows, *(self.streams.of_trigger(manifest.app, version, trigger) for trigger in streams)]

    def _flow(self, app: str, version: str, trigger: AnyTrigger, reach: Reach) -> Flow:
        try:
            matches = expr.compile(trigger.where).matches
        except expr.ExpressionError as error:
            raise DeployError(f"{app}.{trigger.name}: where={trigger.where!r} is not an expression: {error}") from error
        if isinstance(trigger, Route):
            return RouteFlow(app, version, trigger, self.platform, self._target(app, trigger), self._clock)
        if isinstance(trigger, Schedule) and trigger.cron:
            try:
                Cron.parse(trigger.cron)
                zone_of(trigger.tz)
            except CronError as error:
                raise DeployError(f"{app}.{trigger.name}: {error}", hint=error.hint) from error
        if isinstance(trigger, Endpoint):
            return EndpointFlow(
                app,
                version,
                trigger,
                matches=matches,
                invoker=self.platform,
                clock=self._clock,
                answers=self.endpoints,
                reach=reach,
                timers=self.timers,
            )
        return FunctionFlow(
            app,
            version,
            trigger,
            matches=matches,
            invoker=self.platform,
            clock=self._clock,
            reach=reach,
            timers=self.timers,
        )

    def _target(self, app: str, trigger: Route) -> Target:
        target = self.targets.get(trigger.to)
        if target is None:
            raise DeployError(
                f"{app}.{trigger.name}: there is no target '{trigger.to}' in edge.toml",
                hint=nearest(trigger.to, self.targets) or f"Add a section [targets.{trigger.to}].",
            )
        return target

    async def backup(self, to: Path) -> Saved:
        """Back the gateway up into a new folder; commits go on meanwhile."""
        with self.deployments.kept_whole():
            return await backups.backup(self.journal, self.config.gateway.data, to)

    def apps(self) -> list[AppRow]:
        """All apps: those that run, and those that should."""
        stats, flows = self.platform.stats().apps, self.control.rows()
        return [self._app_row(app, stats.get(app, AppStats()), flows) for app in self.deployments.names()]

    def _app_row(self, app: str, stats: AppStats, flows: Sequence[FlowRow]) -> AppRow:
        record, manifest = self.deployments.live.get(app, (self.deployments.record(app), None))
        load = self.platform.load_of(app, record.version)
        instances, held = (load.instances, load.held) if load is not None else (0, 0)
        rows = [row for row in flows if row.flow.startswith(f"{app}.")]
        broken = {name: why for name, why in self.deployments.broken.items() if name == app}
        return AppRow(
            app,
            record.version,
            record.time,
            triggers(manifest) if manifest is not None else [],
            instances,
            stats,
            held,
            health=instrumentation.health(True, rows, broken).words,
            earlier=record.earlier[0][0] if record.earlier else "",
            grants=list(Grants.of(manifest.grants).all) if manifest is not None else [],
            metrics=self.metrics.of(app),
        )

    # Devices

    async def add_device(self, device: str) -> DeviceKey:
        """Register a device; its key is shown this once."""
        return await self.inventory.add(NewDevice(device))

    async def rotate_key(self, device: str) -> DeviceKey:
        """Give a registered device a new key; the old one is void at once."""
        return await self.inventory.rotate(device)

    def devices(self) -> list[DeviceRow]:
        """The registered devices."""
        return self.inventory.rows()

    # Watching

    async def tail(self, after: int | None, follow: bool) -> AsyncIterator[Line]:
        """Records after an offset (None: from now on), and with `follow` those that come."""
        feed = self.flows.feed
        cursor = feed.head if after is None else max(after, -1)
        while follow or cursor < feed.head:
            batch = await feed.after(cursor, TAIL_BATCH)
            for stored in batch:
                shown = line(stored)
                if shown is not None:
                    yield shown
            cursor = batch[-1].offset

    def health(self) -> Health:
        """Whether it does all that it promises just now."""
        return self._health(self.control.rows())

    def _health(self, rows: Sequence[FlowRow]) -> Health:
        return instrumentation.health(
            self.front.refusals() <= self._refused, rows, self.deployments.broken, self.timers.waiting_for
        )

    def status(self) -> Status:
        """The gateway at a glance."""
        stats = self.platform.stats()
        rows, front = self.control.rows(), self.front
        return Status(
            name=self.config.gateway.name,
            version=__version__,
            health=self._health(rows),
            started=self._started,
            now=self._clock.now(),
            mqtt=f"{self.config.mqtt.host}:{front.mqtt_port}",
            head=self.flows.feed.head,
            commits=self.journal.commits,
            events=self._stored_events,
            connections=len(front.mqtt.connected()),
            devices=len(self.registry),
            storage=Storage(self._usage.bytes, self._usage.max_bytes, self.flows.first),
            door=instrumentation.door(front.mqtt),
            outbox=len(self.outbox),
            commands_delivered=self.outbox.delivered,
            commands_ended=self.outbox.ended,
            flows=rows,
            calls=stats.calls,
            failures=dict(stats.failures),
            stops=stats.stops,
            restarts=stats.restarts,
            cold_starts=list(stats.cold_starts),
            jail=self._jail(),
            mqtt_more=front.mqtt_more,
            broker=figures(self.mqtt_users.counters),
            attached=front.attached(),
            skewed=self.admission.skews.off(),
            coap=f"{self.config.coap.host}:{front.coap_port}" if front.coap is not None else "",
            coap_door=instrumentation.coap_door(front.coap) if front.coap is not None else {},
            http_door=instrumentation.http_door(front.http) if front.http is not None else {},
            timers=len(self.timers),
            serial_door=instrumentation.serial_door(front.serial) if front.serial is not None else {},
        )

    def lend_port(self, path: str, seconds: float) -> bool:
        """As `House.lend_port`."""
        serial = self.front.serial
        return serial is not None and serial.lend(path, seconds)

    def _jail(self) -> list[str]:
        jails = {found.engine: found.jail for found in self.platform.report().executors if found.jail is not None}
        if not jails:
            return ["missing: no executor runs"]
        lines: list[str] = []
        for engine, jail in jails.items():
            layers = ["seccomp"] * jail.seccomp + ["no new privileges", "resource limits"]
            layers += [f"Landlock {jail.landlock}"] * bool(jail.landlock) + ["root given up"] * jail.root_dropped
            of = " around native functions, which have no other wall" if engine == "native" else ""
            lines += [f"in force{of}: {', '.join(layers)}", *(f"missing{of}: {what}" for what in jail.missing)]
        return list(dict.fromkeys(lines))


async def _for_ever(work: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Do work that has no end; should a defect of ours end it, say so and begin again."""
    while True:
        try:
            await work()
        except Exception:
            _log.exception("work in the background failed; it begins again")
        await clock.sleep(RECOVERY)


def _pace_rules(config: Config) -> list[PaceRule]:
    return [
        PaceRule(some.devices, some.tags, Allowance(some.rate, some.bytes, some.burst)) for some in config.pace.values()
    ]


def _look_again(pace: Pace, stored: Sequence[Stored]) -> None:
    """Devices with other tags may have another pace."""
    for item in stored:
        if type(item.record) is Device:
            pace.changed(item.record.id)


def _retention(settings: Journal) -> Retention:
    kept = round(settings.max_size * settings.keep) if settings.keep < 1 else 0
    return Retention(max_age=settings.max_age, max_bytes=kept, flow_budget=settings.flow_budget)


@contextlib.contextmanager
def _held(data: Path) -> Iterator[None]:
    """The data folder, made if missing, for this process alone."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (data / "lock").open("a")
    except OSError as error:
        raise EdgeError(
            f"the data folder {data} cannot be used: {error.strerror}",
            hint="Name another gateway.data, or run the gateway as the folder's owner.",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EdgeError(
                f"a gateway is running on {data} already", hint="Stop it first, or name another gateway.data."
            ) from None
        yield
