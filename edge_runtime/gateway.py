"""The composition root: the only file that knows everybody. Builds the house, starts it, stops it."""

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

import msgspec

from cloud_bridge.route import RouteFlow
from cloud_bridge.targets.http_cloudevents import HttpCloudEventsTarget
from devices.authority import Authority, is_outside, own_names, renew_apart
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
from edge_runtime.functions.http_out import HttpOut
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.functions.secrets import Secrets
from edge_runtime.functions.settings import default_limits, limits_by_app, scaling_of
from edge_runtime.functions.stats import AppStats
from edge_runtime.grants import Grants
from edge_runtime.ingress import schemas
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.allowances import PaceRule, allowance_of
from edge_runtime.ingress.announce import Announcer
from edge_runtime.ingress.apps import Apps, figures
from edge_runtime.ingress.attach import Attachment, Broker
from edge_runtime.ingress.coap import CoapFrontDoor, CoapLimits, Elsewhere
from edge_runtime.ingress.dialects import Dialects
from edge_runtime.ingress.doors import Doors
from edge_runtime.ingress.endpoints import EndpointDoor
from edge_runtime.ingress.endpoints import Limits as EndpointLimits
from edge_runtime.ingress.homeassistant import Control, HomeAssistant
from edge_runtime.ingress.http import DeviceHttp
from edge_runtime.ingress.iotcore import Names
from edge_runtime.ingress.iotcore_connection import Profile
from edge_runtime.ingress.mappings import Rule, mapper
from edge_runtime.ingress.mqtt import MqttFrontDoor, MqttLimits
from edge_runtime.ingress.pace import Allowance, Pace
from edge_runtime.ingress.serial import SerialFrontDoor
from edge_runtime.ingress.serial_find import SerialRule
from edge_runtime.ingress.skew import Skews
from edge_runtime.ingress.stamps import Stamps
from edge_runtime.ingress.tls import Certificates
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

CERTIFICATE_LOOK = 6 * 3_600_000_000
"""How often the gateway looks whether its certificate is due, or the machine has a new address; microseconds."""

_log = logging.getLogger("edge.gateway")
_security = logging.getLogger(SECURITY)


class Gateway:
    """One running gateway. Implements the planes' `House`. Make it with `await Gateway.start(config)`."""

    def __init__(self, config: Config, clock: Clock, rng: random.Random) -> None:
        self.config = config
        self._clock = clock
        self._rng = rng
        self.coap: CoapFrontDoor | None = None
        self.attachment: Attachment | None = None
        self.serial: SerialFrontDoor | None = None
        self.device_http: DeviceHttp | None = None
        self.mqtt_more: list[str] = []
        self.tls_port = 0
        """Where MQTT with TLS listens; 0 for nowhere."""
        self.coap_port = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = contextlib.AsyncExitStack()
        self._stored_events = 0
        self._refused = 0
        """Messages refused when something was last stored: more than these mean that nothing can be stored now."""
        self._usage = Usage(0, -1, 0, config.journal.max_size, full=False)
        """How full the journal was when it was last told the time."""
        self._started = clock.now()
        self._certificate_due = 0
        self._tls: Certificates | None = None

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
        iotcore = _iotcore_names(config)
        stamps = Stamps(secrets.token_bytes(8))
        self.mqtt_users = await Apps.open(self.journal, self.registry, clock, _log.warning)
        stack.push_async_callback(self.mqtt_users.stop)
        self.dialects = _dialects(config, admission)
        if self.dialects is not None:
            self.mqtt_users.broker.events = self.dialects.take_published
        self.door = MqttFrontDoor(
            admission,
            self.registry,
            clock,
            security=_security.warning,
            log=_log.warning,
            limits=MqttLimits(max_packet=config.mqtt.max_packet, max_connections=config.mqtt.max_connections),
            apps=self.mqtt_users,
            iotcore=Profile(iotcore, stamps, clock) if iotcore is not None else None,
        )
        self.journal.listen(self._count)
        self.doors = Doors([self.door])
        self.ota.tell = lambda device, word, payload: self.doors.tell(device, f"ota/{word}", payload)
        self.ota.connected = self.doors.connected
        self.inventory = Inventory(
            self.registry,
            admission.twin,
            orders,
            self.authority,
            clock,
            self.doors.connected,
            admission.skews.of,
            self.mqtt_users.broker.users,
        )
        self.outbox = Outbox(self.journal, self.doors, clock, tables.outbox)
        self.door.on_listening = self.outbox.listening
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
        self.streams = Streams(clock, self.timers, self._tags_of)
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
        if config.coap.listen:
            self.coap = CoapFrontDoor(
                admission,
                self.registry,
                clock,
                security=_security.warning,
                log=_log.warning,
                random=self._rng.random,
                stamps=stamps,
                limits=CoapLimits(max_body=config.coap.max_body),
                insecure=config.coap.insecure,
                elsewhere=self._coap_site,
            )
            self.coap.on_listening = self.outbox.listening
            self.doors.add(self.coap)
            self.coap_port = await self.coap.start(config.coap.host, config.coap.port)
            stack.push_async_callback(self.coap.stop)
            _log.info("boards send to coap://%s:%d", config.coap.host, self.coap_port)
        if config.serial:
            self.serial = SerialFrontDoor(
                admission,
                self.registry,
                clock,
                [
                    SerialRule(name, port.path, port.usb, port.number, port.baud, port.auth)
                    for name, port in config.serial.items()
                ],
                security=_security.warning,
                log=_log.warning,
                random=secrets.token_bytes,
            )
            self.serial.on_listening = self.outbox.listening
            self.doors.add(self.serial)
            await self.serial.start()
            stack.push_async_callback(self.serial.stop)
        # The door opens last and closes first: whoever is let in finds everything in place.
        self.mqtt_port = await self.door.start(config.mqtt.host, config.mqtt.port)
        stack.push_async_callback(self.door.stop)
        await self._open_more_of_mqtt()
        if config.attach.url:
            self.attachment = Attachment(
                _broker(config),
                admission,
                self.registry,
                self.dialects,
                clock,
                log=_log.warning,
                security=_security.warning,
            )
            self.attachment.start()
            stack.push_async_callback(self.attachment.stop)
        if config.attach.discovery:
            publish = self.attachment.publish if self.attachment is not None else self.mqtt_users.broker.tell
            controls = [
                Control(name, some.command, some.devices, some.on, some.off, some.state)
                for name, some in config.controls.items()
            ]
            name = config.gateway.name
            assistant = HomeAssistant(config.attach.discovery, name, self.registry, publish, controls)
            self.journal.listen(assistant.hear)
            for known in self.registry.list():
                assistant.offer(known.id)
        elif config.controls:
            _log.warning("the [controls] of edge.toml are offered to nobody: attach.discovery is empty")
        if config.gateway.announce:
            await self._announce(stack)
        self.http_port = 0
        if config.http.listen and config.http.devices:
            self._let_devices_in(admission, iotcore, stamps)
        if config.http.listen:
            tls = self._certificates("HTTP") if config.http.tls else None
            self.http_port = await self.endpoints.start(config.http.host, config.http.port, tls)
            stack.push_async_callback(self.endpoints.stop)
            scheme = "https" if config.http.tls else "http"
            _log.info("apps answer requests to %s://%s:%d/apps/", scheme, config.http.host, self.http_port)
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
        _log.info("boards connect to mqtt://%s:%d; data in %s", config.mqtt.host, self.mqtt_port, data)

    def _let_devices_in(self, admission: Admission, iotcore: Names | None, stamps: Stamps) -> None:
        """Have devices answered where the endpoints of apps are."""
        http = self.config.http
        devices = self.device_http = DeviceHttp(
            admission,
            self.registry,
            self._clock,
            stamps,
            security=_security.warning,
            max_body=http.max_body,
            max_requests=http.max_requests,
            names=iotcore,
        )
        devices.on_listening = self.outbox.listening
        self.doors.add(devices)
        self.endpoints.others = devices

    async def _open_more_of_mqtt(self) -> None:
        """Listen on the MQTT door's addresses with TLS, and on those for WebSocket."""
        mqtt = self.config.mqtt
        for setting, host, port, secured, websocket in mqtt.others:
            used = self._certificates("MQTT") if secured else None
            bound = await self.door.listen(host, port, tls=used, websocket=websocket, setting=setting)
            scheme = ("wss" if secured else "ws") if websocket else "mqtts"
            self.mqtt_more.append(f"{scheme}://{host}:{bound}")
            self.tls_port = bound if scheme == "mqtts" else self.tls_port
            _log.info("the MQTT door also listens on %s", self.mqtt_more[-1])

    def _certificates(self, what: str) -> Certificates:
        """The same for all doors."""
        if self._tls is not None:
            return self._tls
        mqtt, authority = self.config.mqtt, self.authority
        if not mqtt.certificate and not authority.exists:
            raise EdgeError(
                f"{what} with TLS needs a certificate, and this gateway has none",
                hint="'edge init --lan' makes a CA and a certificate; 'mqtt.certificate' and 'mqtt.key' name others.",
            )
        own_ca = authority.certificate if authority.exists else None
        self._tls = Certificates(
            Path(mqtt.certificate) if mqtt.certificate else authority.server_certificate,
            Path(mqtt.key) if mqtt.key else authority.server_key,
            Path(mqtt.client_ca) if mqtt.client_ca else own_ca,
        )
        return self._tls

    async def _announce(self, stack: contextlib.AsyncExitStack) -> None:
        name, tls = self.config.gateway.name, bool(self.tls_port)
        addresses = [address for address in own_names() if is_outside(address)]
        try:
            announcer = await Announcer.start(name, self.tls_port or self.mqtt_port, addresses, tls=tls)
        except EdgeError as error:
            # A gateway that nobody finds by itself still does its work.
            _log.warning("%s. %s", error, error.hint)
        else:
            stack.push_async_callback(announcer.stop)

    def _coap_site(self, door: CoapFrontDoor) -> Elsewhere:
        # Not imported before it is needed: 11 MB of the daemon; boards that post plain events never need it.
        from edge_runtime.ingress.coap_site import CoapSite

        return CoapSite(door, self._clock, oscore=self.config.gateway.data / "oscore")

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
            await self._renew_certificate()
            if self._tls is not None and (said := self._tls.reload()):
                _log.warning("%s", said)
            for said in await self.admission.keep():
                _log.warning("%s", said)
            await self._clock.sleep(TICK)

    async def _renew_certificate(self) -> None:
        now = self._clock.now()
        if now <= TRUSTED_AFTER or now < self._certificate_due or not self.authority.exists:
            return
        self._certificate_due = now + CERTIFICATE_LOOK
        try:
            if await asyncio.to_thread(renew_apart, self.config.authority):
                _log.info("the gateway's certificate was renewed: %s", self.authority.server_certificate)
        except EdgeError as error:
            _log.error("the gateway's certificate could not be renewed: %s", error)

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
            self._refused = self._refusals()

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
        return [*flows, *(self.streams.of_trigger(manifest.app, trigger) for trigger in streams)]

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

    def _refusals(self) -> int:
        """Messages that could not be stored, at all doors."""
        others = [door.counters.refused for door in (self.coap, self.serial, self.device_http) if door is not None]
        return self.door.counters.refused + sum(others)

    def _health(self, rows: Sequence[FlowRow]) -> Health:
        return instrumentation.health(
            self._refusals() <= self._refused, rows, self.deployments.broken, self.timers.waiting_for
        )

    def status(self) -> Status:
        """The gateway at a glance."""
        stats = self.platform.stats()
        rows = self.control.rows()
        return Status(
            name=self.config.gateway.name,
            version=__version__,
            health=self._health(rows),
            started=self._started,
            now=self._clock.now(),
            mqtt=f"{self.config.mqtt.host}:{self.mqtt_port}",
            head=self.flows.feed.head,
            commits=self.journal.commits,
            events=self._stored_events,
            connections=len(self.door.connected()),
            devices=len(self.registry),
            storage=Storage(self._usage.bytes, self._usage.max_bytes, self.flows.first),
            door=instrumentation.door(self.door),
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
            mqtt_more=self.mqtt_more,
            broker=figures(self.mqtt_users.counters),
            attached=msgspec.structs.asdict(self.attachment.counters) if self.attachment is not None else {},
            skewed=self.admission.skews.off(),
            coap=f"{self.config.coap.host}:{self.coap_port}" if self.coap is not None else "",
            coap_door=instrumentation.coap_door(self.coap) if self.coap is not None else {},
            http_door=instrumentation.http_door(self.device_http) if self.device_http is not None else {},
            timers=len(self.timers),
            serial_door=instrumentation.serial_door(self.serial) if self.serial is not None else {},
        )

    def lend_port(self, path: str, seconds: float) -> bool:
        """As `House.lend_port`."""
        return self.serial is not None and self.serial.lend(path, seconds)

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


def _iotcore_names(config: Config) -> Names | None:
    names = config.iotcore
    return Names(names.project, names.region, names.registry) if names.project else None


def _broker(config: Config) -> Broker:
    """The broker that is there already."""
    there = config.attach
    tls, host, port = there.address
    return Broker(
        host,
        port,
        there.client_id or f"edge-{config.gateway.name}",
        tls,
        there.user,
        there.password_file,
        there.ca,
        there.certificate,
        there.key,
        there.group,
        there.devices,
        there.max_waiting,
    )


def _dialects(config: Config, admission: Admission) -> Dialects | None:
    """What makes events of foreign messages, if anything is to."""
    own = {
        name: Rule(rule.topic, rule.kind, rule.device, rule.fields, rule.time)
        for name, rule in config.mappings.own.items()
    }
    if not own and not config.mappings.use:
        return None
    # A boot of its own: these messages have no identity, and are numbered apart from all others.
    return Dialects(mapper(config.mappings.use, own), admission, Stamps(secrets.token_bytes(8)), _log.warning)


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
