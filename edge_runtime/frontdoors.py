"""The front doors of one gateway: made from edge.toml, opened in their order, counted together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec

from devices.authority import Authority, is_outside, own_names, renew_apart
from devices.registry import Registry
from edge_runtime.clock import TRUSTED_AFTER, Clock
from edge_runtime.config import Config
from edge_runtime.errors import EdgeError
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.announce import Announcer
from edge_runtime.ingress.apps import Apps
from edge_runtime.ingress.attach import Attachment, Broker
from edge_runtime.ingress.coap import CoapFrontDoor, CoapLimits, Elsewhere
from edge_runtime.ingress.controls import Controls
from edge_runtime.ingress.dialects import Dialects
from edge_runtime.ingress.doors import Doors
from edge_runtime.ingress.endpoints import EndpointDoor
from edge_runtime.ingress.homeassistant import Control, HomeAssistant, command_topic
from edge_runtime.ingress.http import DeviceHttp
from edge_runtime.ingress.iotcore import Names
from edge_runtime.ingress.iotcore_connection import Profile
from edge_runtime.ingress.mappings import Rule, mapper
from edge_runtime.ingress.mqtt import MqttFrontDoor, MqttLimits
from edge_runtime.ingress.serial import SerialFrontDoor
from edge_runtime.ingress.serial_find import SerialRule
from edge_runtime.ingress.stamps import Stamps
from edge_runtime.ingress.tls import Certificates
from edge_runtime.journal.interface import Journal
from edge_runtime.planes.logs import SECURITY

CERTIFICATE_LOOK = 6 * 3_600_000_000
"""How often the gateway looks whether its certificate is due, or the machine has a new address; microseconds."""

_log = logging.getLogger("edge.gateway")
_security = logging.getLogger(SECURITY)


class FrontDoors:
    """All doors. Those of MQTT and of the programs are there from the start; `open` brings up the rest and listens."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        rng: random.Random,
        admission: Admission,
        registry: Registry,
        authority: Authority,
        users: Apps,
    ) -> None:
        self._config = config
        self._clock = clock
        self._rng = rng
        self._admission = admission
        self._registry = registry
        self._authority = authority
        self._users = users
        self._stamps = Stamps(secrets.token_bytes(8))
        self._names = _iotcore_names(config)
        self._tls: Certificates | None = None
        self._certificate_due = 0
        self.dialects = _dialects(config, admission)
        if self.dialects is not None:
            users.broker.events = self.dialects.take_published
        self.mqtt = MqttFrontDoor(
            admission,
            registry,
            clock,
            security=_security.warning,
            log=_log.warning,
            limits=MqttLimits(max_packet=config.mqtt.max_packet, max_connections=config.mqtt.max_connections),
            apps=users,
            iotcore=Profile(self._names, self._stamps, clock) if self._names is not None else None,
        )
        self.coap: CoapFrontDoor | None = None
        self.serial: SerialFrontDoor | None = None
        self.http: DeviceHttp | None = None
        self.attachment: Attachment | None = None
        self.all = Doors([self.mqtt])
        """Whoever has something for a device asks here."""
        self.mqtt_port = 0
        self.mqtt_more: list[str] = []
        """The other addresses of the MQTT door, as URLs."""
        self.tls_port = 0
        """Where MQTT with TLS listens; 0 for nowhere."""
        self.coap_port = 0
        self.http_port = 0

    async def open(
        self,
        stack: contextlib.AsyncExitStack,
        journal: Journal,
        listening: Callable[[str], None],
        endpoints: EndpointDoor,
    ) -> None:
        """Listen wherever edge.toml says; `stack` closes again. Raises `EdgeError`.

        `listening(device)` is called when a device can take commands. `endpoints` is the HTTP server of the apps, in
        which devices are answered too.
        """
        if self._config.coap.listen:
            await self._open_coap(stack, listening)
        if self._config.serial:
            await self._open_serial(stack, listening)
        # Those of MQTT open after them and close before: whoever is let in finds everything in place.
        await self._open_mqtt(stack, listening)
        self._attach(stack, journal)
        if self._config.gateway.announce:
            await self._announce(stack)
        if self._config.http.listen:
            await self._open_http(stack, listening, endpoints)

    async def keep(self) -> None:
        """Once a minute or so: renew the gateway's certificate where it is due, and take up what has changed."""
        await self._renew_certificate()
        if self._tls is not None and (said := self._tls.reload()):
            _log.warning("%s", said)

    def refusals(self) -> int:
        """Messages that could not be stored, at all doors."""
        others = [door.counters.refused for door in (self.coap, self.serial, self.http) if door is not None]
        return self.mqtt.counters.refused + sum(others)

    def attached(self) -> dict[str, int]:
        """The figures of the attached broker; empty without one."""
        return msgspec.structs.asdict(self.attachment.counters) if self.attachment is not None else {}

    async def _open_coap(self, stack: contextlib.AsyncExitStack, listening: Callable[[str], None]) -> None:
        coap = self._config.coap
        self.coap = CoapFrontDoor(
            self._admission,
            self._registry,
            self._clock,
            security=_security.warning,
            log=_log.warning,
            random=self._rng.random,
            stamps=self._stamps,
            limits=CoapLimits(max_body=coap.max_body),
            insecure=coap.insecure,
            elsewhere=self._coap_site,
        )
        self.coap.on_listening = listening
        self.all.add(self.coap)
        self.coap_port = await self.coap.start(coap.host, coap.port)
        stack.push_async_callback(self.coap.stop)
        _log.info("boards send to coap://%s:%d", coap.host, self.coap_port)

    def _coap_site(self, door: CoapFrontDoor) -> Elsewhere:
        # Not imported before it is needed: 11 MB of the daemon; boards that post plain events never need it.
        from edge_runtime.ingress.coap_site import CoapSite

        return CoapSite(door, self._clock, oscore=self._config.gateway.data / "oscore")

    async def _open_serial(self, stack: contextlib.AsyncExitStack, listening: Callable[[str], None]) -> None:
        self.serial = SerialFrontDoor(
            self._admission,
            self._registry,
            self._clock,
            [
                SerialRule(name, port.path, port.usb, port.number, port.baud, port.auth)
                for name, port in self._config.serial.items()
            ],
            security=_security.warning,
            log=_log.warning,
            random=secrets.token_bytes,
        )
        self.serial.on_listening = listening
        self.all.add(self.serial)
        await self.serial.start()
        stack.push_async_callback(self.serial.stop)

    async def _open_mqtt(self, stack: contextlib.AsyncExitStack, listening: Callable[[str], None]) -> None:
        mqtt = self._config.mqtt
        self.mqtt.on_listening = listening
        self.mqtt_port = await self.mqtt.start(mqtt.host, mqtt.port)
        stack.push_async_callback(self.mqtt.stop)
        for setting, host, port, secured, websocket in mqtt.others:
            used = self._certificates("MQTT") if secured else None
            bound = await self.mqtt.listen(host, port, tls=used, websocket=websocket, setting=setting)
            scheme = ("wss" if secured else "ws") if websocket else "mqtts"
            self.mqtt_more.append(f"{scheme}://{host}:{bound}")
            self.tls_port = bound if scheme == "mqtts" else self.tls_port
            _log.info("the MQTT door also listens on %s", self.mqtt_more[-1])

    def _attach(self, stack: contextlib.AsyncExitStack, journal: Journal) -> None:
        """Connect to the broker that is there, and tell Home Assistant of our devices there or at our own."""
        config = self._config
        prefix, name = config.attach.discovery, config.gateway.name
        controls = [
            Control(name, some.command, some.devices, some.on, some.off, some.state)
            for name, some in config.controls.items()
        ]
        if controls and not prefix:
            _log.warning("the [controls] of edge.toml are offered to nobody: attach.discovery is empty")
        desk = Controls(name, controls, self._registry, journal, self._clock) if controls and prefix else None
        publish, pressed = self._users.broker.tell, command_topic
        if config.attach.url:
            self.attachment = Attachment(
                _broker(config),
                self._admission,
                self._registry,
                self.dialects,
                self._clock,
                log=_log.warning,
                security=_security.warning,
                controls=desk,
            )
            publish, pressed = self.attachment.publish, desk.topic if desk is not None else command_topic
        if prefix:
            assistant = HomeAssistant(prefix, name, self._registry, publish, controls, pressed)
            journal.listen(assistant.hear)

            def announce() -> None:
                assistant.announce(device.id for device in self._registry.list())

            if self.attachment is not None:
                self.attachment.on_connected = announce
            else:
                announce()
        if self.attachment is not None:
            self.attachment.start()
            stack.push_async_callback(self.attachment.stop)

    async def _announce(self, stack: contextlib.AsyncExitStack) -> None:
        name, tls = self._config.gateway.name, bool(self.tls_port)
        addresses = [address for address in own_names() if is_outside(address)]
        try:
            announcer = await Announcer.start(name, self.tls_port or self.mqtt_port, addresses, tls=tls)
        except EdgeError as error:
            # A gateway that nobody finds by itself still does its work.
            _log.warning("%s. %s", error, error.hint)
        else:
            stack.push_async_callback(announcer.stop)

    async def _open_http(
        self, stack: contextlib.AsyncExitStack, listening: Callable[[str], None], endpoints: EndpointDoor
    ) -> None:
        http = self._config.http
        if http.devices:
            self.http = DeviceHttp(
                self._admission,
                self._registry,
                self._clock,
                self._stamps,
                security=_security.warning,
                max_body=http.max_body,
                max_requests=http.max_requests,
                names=self._names,
            )
            self.http.on_listening = listening
            self.all.add(self.http)
            endpoints.others = self.http
        tls = self._certificates("HTTP") if http.tls else None
        self.http_port = await endpoints.start(http.host, http.port, tls)
        stack.push_async_callback(endpoints.stop)
        scheme = "https" if http.tls else "http"
        _log.info("apps answer requests to %s://%s:%d/apps/", scheme, http.host, self.http_port)

    def _certificates(self, what: str) -> Certificates:
        """The same for all doors."""
        if self._tls is not None:
            return self._tls
        mqtt, authority = self._config.mqtt, self._authority
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

    async def _renew_certificate(self) -> None:
        now = self._clock.now()
        if now <= TRUSTED_AFTER or now < self._certificate_due or not self._authority.exists:
            return
        self._certificate_due = now + CERTIFICATE_LOOK
        try:
            if await asyncio.to_thread(renew_apart, self._config.authority):
                _log.info("the gateway's certificate was renewed: %s", self._authority.server_certificate)
        except EdgeError as error:
            _log.error("the gateway's certificate could not be renewed: %s", error)


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
