"""A connection that speaks the contract of the retired Google IoT Core (`iotcore`), for boards written for it.

It is a device's connection in all that concerns acknowledgements, back-pressure and time; topics, payloads and what a
PUBACK of the board means are the contract's. Boards behind the board are attached to it and share the connection.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import cbor2
import msgspec

from devices.registry import Login
from devices.twin import BYTES, Content
from edge_runtime import wire
from edge_runtime.clock import Clock
from edge_runtime.errors import NotFound, StorageError, WireError
from edge_runtime.ingress import iotcore
from edge_runtime.ingress.admission import Settle, Verdict
from edge_runtime.ingress.iotcore import Names, Place
from edge_runtime.ingress.mqtt_connection import ROUTES, Connection, Route, shown
from edge_runtime.ingress.pace import Allowance, Pace
from edge_runtime.ingress.stamps import Stamps
from edge_runtime.journal.records import Command
from edge_runtime.proto import mqtt
from edge_runtime.throttle import SECOND

if TYPE_CHECKING:
    from edge_runtime.ingress.mqtt import MqttFrontDoor

PROFILE = "iotcore"
BOUND_TO = "gateway"
"""The tag of a board that may be attached without a key of its own: the id of the board before it."""
FILTERS = 16
"""Subscriptions for each device of a connection."""
IN_FLIGHT = 100
"""Configurations and commands that wait for their PUBACK."""


class Profile:
    """What all such connections share."""

    def __init__(self, names: Names, stamps: Stamps, clock: Clock) -> None:
        self.names = names
        self.stamps = stamps
        self.pace = Pace(clock, lambda _: Allowance(iotcore.EVENTS_PER_SECOND, iotcore.BYTES_PER_SECOND, SECOND))
        self.state_pace = Pace(clock, lambda _: Allowance(iotcore.STATES_PER_SECOND, 0, SECOND))

    def connection(self, door: MqttFrontDoor) -> IotCoreConnection:
        """One more."""
        return IotCoreConnection(door, self)


class _Sent(msgspec.Struct, frozen=True):
    """What waits for the board's PUBACK."""

    device: str
    version: int = 0
    """Of a configuration."""
    command: bytes = b""


class IotCoreConnection(Connection):
    """The asyncio protocol of one such connection; another `Connection` has read its CONNECT."""

    def __init__(self, door: MqttFrontDoor, profile: Profile) -> None:
        super().__init__(door)
        self._profile = profile
        self._attached: dict[str, int] = {}
        """The boards behind this one, and when by the wall clock their JWTs end; 0 for never."""
        self._until = 0
        self._filters: dict[str, tuple[Place, int]] = {}
        self._sent: dict[int, _Sent] = {}
        self._last_id = 0
        self._due: set[str] = set()
        """Devices whose configuration could not be sent yet."""
        self._bringing: set[asyncio.Task[None]] = set()

    def entered(self, packet: mqtt.Connect, login: Login) -> None:
        """The board has shown its key."""
        super().entered(packet, login)
        self._until = login.until
        self._patience = min(self._patience, iotcore.IDLE)

    # What the board sends

    def _publish(self, packet: mqtt.Publish, now: int) -> None:
        debt = self._debt
        super()._publish(packet, now)
        found = iotcore.place(packet.topic)
        if found is not None:
            pace = self._profile.state_pace if found.verb == "state" else self._profile.pace
            self._debt = max(debt, self._debt, pace.spend(found.device, len(packet.payload)))

    def _find_route(self, topic: str) -> Route | None:
        admission, found = self._door.admission, iotcore.place(topic)
        if found is None or found.verb in ("config", "commands", "errors"):
            return None
        route: Route
        if found.verb in ("attach", "detach"):
            return partial(self._attach if found.verb == "attach" else self._detach, found.device)
        if not self._speaks_for(found.device):
            return partial(self._foreign, found.device)
        if found.verb == "state":
            route = partial(self._state_of, found.device)
        else:
            try:
                iotcore.kind(found.folder)
            except WireError as error:
                route = partial(admission.submit_dead, found.device, str(error))
            else:
                route = partial(self._event, found)
        if len(self._routes) >= ROUTES:
            self._routes.clear()
        self._routes[topic] = route
        return route

    def _speaks_for(self, device: str) -> bool:
        return device == self._device or device in self._attached

    def _event(self, found: Place, payload: bytes, topic: str, settle: Settle) -> None:
        admission, device = self._door.admission, found.device
        try:
            identity = self._profile.stamps.take(device, 1)
            envelope = self._profile.names.event(device, found.folder, payload, identity)
        except WireError as error:
            admission.submit_dead(device, str(error), payload, topic, settle)
        else:
            admission.submit_decoded(device, envelope, settle)

    def _state_of(self, device: str, payload: bytes, topic: str, settle: Settle) -> None:
        self._door.admission.submit_content(device, Content(BYTES, payload), topic, settle)

    def _foreign(self, device: str, payload: bytes, topic: str, settle: Settle) -> None:
        door = self._door
        door.counters.trespasses += 1
        door.security(f"device {self.name} published on {shown(topic)}, which is not attached to it; not taken")
        self._complain("GATEWAY_DEVICE_NOT_ATTACHED", "the device is not attached", topic, device)
        door.admission.submit_dead(self._device, "the device of this topic is not attached", payload, topic, settle)

    # Boards behind the board

    def _attach(self, device: str, payload: bytes, topic: str, settle: Settle) -> None:
        login = self._judge(device, payload)
        if login.refused:
            self._door.counters.failed_logins += 1
            self._door.security(f"device {self.name} could not attach {shown(device)}: {login.refused}")
            self._complain("GATEWAY_ATTACHMENT_ERROR", "the device cannot be attached", topic, device)
        else:
            self._attached[device] = login.until
            self._door.attached(self, login)
        asyncio.get_running_loop().call_soon(settle, Verdict.ACCEPTED)

    def _judge(self, device: str, payload: bytes) -> Login:
        registry = self._door.registry
        if device == self._device:
            return Login(device, "it is the device itself")
        if len(self._attached) >= iotcore.MAX_ATTACHED and device not in self._attached:
            return Login(device, f"it has {iotcore.MAX_ATTACHED} devices attached already")
        try:
            token = iotcore.authorization(payload)
            if token:
                login = registry.login(device, token)
            elif registry.info(device).tags.get(BOUND_TO) == self._device:
                login = registry.login_without_proof(device)
            else:
                login = Login(device, f"no JWT, and no tag {BOUND_TO}={self._device}")
        except (WireError, NotFound) as error:
            return Login(device, str(error))
        if not login.refused and login.profile != PROFILE:
            return Login(device, f"its profile is '{login.profile}', not '{PROFILE}'")
        return login

    def _detach(self, device: str, payload: bytes, topic: str, settle: Settle) -> None:
        self._let_go(device)
        asyncio.get_running_loop().call_soon(settle, Verdict.ACCEPTED)

    def _let_go(self, device: str) -> None:
        if self._attached.pop(device, None) is not None:
            self._door.detached(self, device)
            self._filters = {name: kept for name, kept in self._filters.items() if kept[0].device != device}
            self._routes.clear()
            self._due.discard(device)

    def release(self, device: str, why: str) -> None:
        """As `Connection.release`; of a board that is attached, that board alone."""
        if device == self._device:
            super().release(device, why)
        elif device in self._attached:
            self._let_go(device)
            self._door.log(f"device '{device}' was detached from {self.name}: {why}")
            self._complain("GATEWAY_DEVICE_DETACHED", why, f"/devices/{device}/attach", device)

    def outlived(self, now: int) -> None:
        """As `Connection.outlived`."""
        if self._until and now >= self._until:
            super().outlived(now)
            return
        for device in [device for device, until in self._attached.items() if until and now >= until]:
            self.release(device, "its key or JWT has expired")
        for until in (self._until, *self._attached.values()):
            if until:
                self._door.ends(self, until)

    def _complain(self, code: str, why: str, topic: str, device: str) -> None:
        errors = f"/devices/{self._device}/errors"
        if errors in self._filters and not self._writing_paused:
            self.send(mqtt.publish(errors, iotcore.error(code, why, topic, device)))

    # What the board wants to hear, and has heard

    def _control(self, packet: mqtt.Packet | mqtt.ProtocolViolation) -> None:
        match packet:
            case mqtt.PubAck():
                self._acknowledged(packet.packet_id)
            case mqtt.Unsubscribe():
                for pattern in packet.filters:
                    self._filters.pop(pattern, None)
                self.send(mqtt.unsuback(packet.packet_id))
            case _:
                super()._control(packet)

    def _subscribe(self, packet: mqtt.Subscribe) -> None:
        door, codes = self._door, []
        listening: set[str] = set()
        for pattern, qos in packet.filters:
            found = iotcore.place(pattern)
            if found is None or found.verb not in ("config", "commands", "errors"):
                codes.append(0x80)
                door.security(f"device {self.name} wanted to subscribe to {shown(pattern)}; refused")
            elif not self._speaks_for(found.device):
                codes.append(0x80)
                door.counters.trespasses += 1
                door.security(f"device {self.name} wanted to subscribe to {shown(pattern)}, not attached; refused")
                self._complain("GATEWAY_DEVICE_NOT_ATTACHED", "the device is not attached", pattern, found.device)
            elif pattern not in self._filters and len(self._filters) >= FILTERS * (1 + len(self._attached)):
                codes.append(0x80)
            else:
                codes.append(min(qos, 1))
                self._filters[pattern] = found, min(qos, 1)
                if found.verb == "commands":
                    listening.add(found.device)
                elif found.verb == "config":
                    self._due.add(found.device)
        self.send(mqtt.suback(packet.packet_id, codes))
        for device in listening:
            door.on_listening(device)
        self.configure()

    def _acknowledged(self, packet_id: int) -> None:
        sent = self._sent.pop(packet_id, None)
        if sent is not None and sent.command:
            self._taken(sent.device, sent.command)
        elif sent is not None:
            self._door.admission.submit_taken(sent.device, sent.version)
        if self._due:
            self.configure()

    def _taken(self, device: str, command: bytes) -> None:
        """The contract knows no replies: a command has ended when it has arrived."""
        reply = cbor2.dumps({0: command, 1: wire.DONE})
        self._door.admission.submit_reply(device, reply, f"/devices/{device}/commands", _ignored)

    def _granted(self, device: str, verb: str, topic: str) -> int | None:
        granted = [
            qos
            for pattern, (found, qos) in self._filters.items()
            if found.device == device and found.verb == verb and mqtt.matches(pattern, topic)
        ]
        return max(granted, default=None)

    # What the gateway sends

    def deliver(self, command: Command) -> bool:
        """As `Connection.deliver`, for the board and those attached to it."""
        if not self.writable:
            return False
        device, topic = command.device, f"/devices/{command.device}/commands/{command.name}"
        qos = self._granted(device, "commands", topic)
        if qos is None:
            return False
        if any(sent.command == command.id for sent in self._sent.values()):
            return True
        if qos and len(self._sent) >= IN_FLIGHT:
            return False
        packet_id = self._next_id() if qos else 0
        if qos:
            self._sent[packet_id] = _Sent(device, command=command.id)
        self.send(mqtt.publish(topic, _payload(command.args), qos=qos, packet_id=packet_id))
        if not qos:
            self._taken(device, command.id)
        return True

    def configured(self, device: str) -> None:
        """As `Connection.configured`."""
        self._due.add(device)
        self.configure()

    def configure(self) -> None:
        """Read and send the configurations that are due."""
        self._config_due = False
        due, self._due = self._due, set()
        for device in due:
            if self._granted(device, "config", f"/devices/{device}/config") is not None:
                task = asyncio.ensure_future(self._bring(device))
                self._bringing.add(task)
                task.add_done_callback(self._bringing.discard)

    async def _bring(self, device: str) -> None:
        try:
            found = await self._door.admission.twin.config(device)
        except StorageError as error:
            self._door.log(f"the configuration of '{device}' could not be read: {error}")
            return
        topic = f"/devices/{device}/config"
        qos = self._granted(device, "config", topic)
        if found is None or qos is None:
            return
        if not self.writable or (qos and len(self._sent) >= IN_FLIGHT):
            self._due.add(device)
            self._config_due = True
            return
        version, content = found
        packet_id = self._next_id() if qos else 0
        if qos:
            self._sent[packet_id] = _Sent(device, version)
        self.send(mqtt.publish(topic, content.data, qos=qos, packet_id=packet_id))

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65_535 + 1
            if self._last_id not in self._sent:  # [MQTT-2.3.1-2]
                return self._last_id

    # The end

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        self._detach_all()
        super().connection_lost(error)

    def _close(self) -> None:
        self._detach_all()
        super()._close()

    def _detach_all(self) -> None:
        attached, self._attached = self._attached, {}
        for device in attached:
            self._door.detached(self, device)


def _payload(args: Any) -> bytes:
    """A command's arguments as the contract's bytes: these themselves, a text in UTF-8, all else in JSON."""
    if isinstance(args, bytes):
        return args
    return args.encode() if isinstance(args, str) else msgspec.json.encode(args)


def _ignored(_verdict: Verdict) -> None:
    """Nobody waits for it."""
