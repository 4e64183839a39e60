"""One device's MQTT connection: who it is, what it may, what waits to be acknowledged."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from devices.registry import Login
from edge_runtime.errors import WireError
from edge_runtime.events import DEVICE, NAME
from edge_runtime.ingress.admission import Settle, Verdict
from edge_runtime.ingress.app_connection import AppConnection
from edge_runtime.ingress.mqtt_subscriptions import REFUSED, Subscriptions
from edge_runtime.ingress.tls import peer_certificate
from edge_runtime.ingress.turns import SLICE, Turns
from edge_runtime.journal.records import Command
from edge_runtime.proto import mqtt

if TYPE_CHECKING:
    from edge_runtime.ingress.iotcore_connection import Profile
    from edge_runtime.ingress.mqtt import MqttFrontDoor

ROUTES = 64
"""Topics per connection whose meaning is remembered."""
OVERHEAD = 512
"""What a message in waiting costs beside its payload, roughly, in bytes."""

Route = Callable[[bytes, str, Settle], None]


# Where a connection stands. Plain numbers, and the verdicts as plain names: in CPython 3.11 looking up a member of an
# enumeration takes 110 ns, ten times per message.
MOST_TOLD = 64
"""Packets that wait to be written beyond which a device is told nothing more that it may ask for again."""
_WAITING = 0
"""For its CONNECT."""
_OPEN = 1
_REFUSING = 2
"""Its key was wrong; it will be told so after a delay."""
_CLOSING = 3
_HANDED_OVER = 4
"""It is a program's: another object has the transport."""

_REFUSED, _DUPLICATE, _DEAD = Verdict.REFUSED, Verdict.DUPLICATE, Verdict.DEAD


NO_QOS_2 = "QoS 2, which is not offered to devices: QoS 1 does, since repeated events are recognised"
_CODES: dict[int, mqtt.ConnectCode] = {mqtt.Reason.BAD_CREDENTIALS: mqtt.ConnectCode.BAD_CREDENTIALS}
"""What MQTT 3.1.1 has for a reason; for all others it is that of a wrong key."""


class Message:
    """A PUBLISH between its arrival and its acknowledgement."""

    __slots__ = ("connection", "packet_id", "received", "size", "verdict")

    def __init__(self, connection: Connection, packet_id: int, received: int, size: int) -> None:
        self.connection = connection
        self.packet_id = packet_id
        """0 for QoS 0, which is not acknowledged."""
        self.received = received
        self.size = size
        self.verdict: Verdict | None = None

    def settle(self, verdict: Verdict) -> None:
        """Admission has decided."""
        self.verdict = verdict
        self.connection.settled()


class Connection(asyncio.Protocol):
    """The asyncio protocol of one connection. Its deadline (keep-alive and the like) is watched by the door's wheel."""

    __slots__ = (
        "_config_due",
        "_debt",
        "_device",
        "_door",
        "_heard",
        "_heir",
        "_machine",
        "_mute",
        "_out",
        "_patience",
        "_paused",
        "_peer",
        "_routes",
        "_state",
        "_subscriptions",
        "_transport",
        "_tree",
        "_turns",
        "_unacknowledged",
        "_waiting",
        "_writing_paused",
        "deadline",
        "dirty",
        "slot",
    )

    def __init__(self, door: MqttFrontDoor) -> None:
        limits = door.limits
        self.deadline = door.wheel.now + limits.connect_timeout + 1
        self.slot = -1
        self.dirty = False
        """Whether the door knows that there is something to send."""
        self._door = door
        self._machine = mqtt.ServerMachine(max_packet=limits.max_packet)
        self._state: int = _WAITING
        self._device = ""
        self._tree = ""
        self._peer = ""
        self._patience = 0
        self._heard = 0
        self._heir: AppConnection | Connection | None = None
        self._mute = False
        self._paused = False
        self._writing_paused = False
        self._config_due = False
        self._routes: dict[str, Route] = {}
        self._subscriptions = Subscriptions("")
        self._waiting: deque[Message] = deque()
        self._unacknowledged = 0
        self._debt = 0
        """Microseconds for which the device is not to be heard: it was faster than it may be."""
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._turns: Turns | None = None
        """From the first time on that more came at once than one turn's share."""

    @property
    def name(self) -> str:
        """The device and its address, for log lines."""
        return f"'{self._device}' ({self._peer})" if self._device else self._peer

    # asyncio.Protocol

    @property
    def writable(self) -> bool:
        """Whether something can be sent to the device just now."""
        return self._state == _OPEN and not self._mute and not self._writing_paused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)
        host, port, *_ = transport.get_extra_info("peername") or ("unknown", 0)
        self._peer = f"{host}:{port}"
        if not self._door.joined(self):
            self._state = _CLOSING
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio. What waits in admission goes on without us; the device will send it again."""
        self._state = _CLOSING
        self._transport = None
        if self._turns is not None:
            self._turns.end()
        self._out.clear()
        self._door.left(self, self._device)

    def pause_writing(self) -> None:
        """Called by asyncio: the peer does not read what we send, so no more is read from it."""
        self._writing_paused = True
        self._pause()

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self._writing_paused = False
        self.reconsider()
        if self._config_due:
            self.configure()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: a segment, with any number of packets in it."""
        turns = self._turns
        if turns is None:
            if len(data) <= SLICE or self._transport is None:
                self._read(data)
                return
            turns = self._turns = Turns(self._transport, self._read)
        turns.feed(data)

    def _read(self, data: bytes) -> None:
        door = self._door
        self._heard = door.wheel.now
        now = door.clock.monotonic()
        for packet in self._machine.feed(data):
            if self._state > _OPEN:
                if self._heir is None:
                    return  # [MQTT-3.1.4-5]
                self._heir.take(packet)
                continue
            if type(packet) is mqtt.Publish:
                self._publish(packet, now)
            else:
                self._control(packet)
        if self._heir is not None and self._turns is not None and (rest := self._turns.end()):
            self._heir.data_received(rest)
        limits = door.limits
        if self._debt and self._state == _OPEN:
            door.hold(self, now + self._debt)
            self._debt = 0
            self._pause()  # until the door's tick finds that it may be heard again
        if self._waiting and (
            len(self._waiting) > limits.max_unacknowledged
            or self._unacknowledged > limits.max_unacknowledged_bytes
            or door.unacknowledged > limits.max_unacknowledged_total
        ):
            self._pause()  # until `settled` finds that there is room again

    def take(self, packet: mqtt.Packet | mqtt.ProtocolViolation) -> None:
        """A packet that came in one segment with the CONNECT, which another connection has read."""
        if self._state == _OPEN:
            if type(packet) is mqtt.Publish:
                self._publish(packet, self._door.clock.monotonic())
            else:
                self._control(packet)

    # What the device sends

    def _publish(self, packet: mqtt.Publish, now: int) -> None:
        topic = packet.topic
        route = self._routes.get(topic) or self._find_route(topic)
        door = self._door
        if route is None:
            door.counters.trespasses += 1
            door.security(f"device {self.name} published on {shown(topic)}, outside {self._tree}; connection closed")
            self._close()
            return
        payload = packet.payload
        size = len(payload) + OVERHEAD
        if packet.packet_id:
            self._debt = door.admission.pace.spend(self._device, len(payload), now)
        elif not door.admission.pace.take_or_drop(self._device, len(payload)):
            door.counters.messages += 1
            door.counters.throttled += 1
            return
        message = Message(self, packet.packet_id, now, size)
        self._waiting.append(message)
        self._unacknowledged += size
        door.unacknowledged += size
        door.counters.messages += 1
        route(payload, topic, message.settle)

    def _find_route(self, topic: str) -> Route | None:
        if not topic.startswith(self._tree):
            return None
        admission = self._door.admission
        place, _, kind = topic[len(self._tree) :].partition("/")
        route: Route
        if place == "replies" and not kind:
            route = partial(admission.submit_reply, self._device)
        elif place == "state" and not kind:
            route = partial(admission.submit_state, self._device)
        elif place == "config" and kind == "ack":
            route = partial(admission.submit_config_ack, self._device)
        elif place == "events" and NAME.fullmatch(kind):
            route = partial(admission.submit, self._device, kind)
        elif place == "ota" and admission.ota is not None:
            route = partial(admission.submit_ota, self._device, kind)
        elif topic == f"{self._tree}events":
            route = partial(admission.submit, self._device, None)
        else:
            # Closing the connection would make the device send it for ever.
            route = partial(admission.submit_dead, self._device, "no event, reply or state belongs on this topic")
        if len(self._routes) >= ROUTES:
            self._routes.clear()
        self._routes[topic] = route
        return route

    def _control(self, packet: mqtt.Packet | mqtt.ProtocolViolation) -> None:
        match packet:
            case mqtt.Connect():
                self._connect(packet)
            case mqtt.PubAck():
                self._subscriptions.acknowledged(packet.packet_id)
                if self._config_due:
                    self.configure()
            case mqtt.PingReq():
                self._door.registry.last_seen[self._device] = self._door.clock.now()
                self.send(mqtt.PINGRESP)
            case mqtt.Subscribe():
                self._subscribe(packet)
            case mqtt.Unsubscribe():
                for pattern in packet.filters:
                    self._subscriptions.remove(pattern)
                self.send(mqtt.unsuback(packet.packet_id))
            case mqtt.Disconnect():
                self._close()
            case mqtt.ProtocolViolation():
                self._violated(packet)
            case _:
                self._violated(mqtt.ProtocolViolation(NO_QOS_2, "docs/wire.md, Topics"))

    def _violated(self, violation: mqtt.ProtocolViolation) -> None:
        self._door.counters.violations += 1
        self._door.log(f"the connection of {self.name} was closed: {violation}")
        if violation.answer:
            self.send(violation.answer)
        self._close()

    def _connect(self, packet: mqtt.Connect) -> None:
        door = self._door
        name, key = packet.user_name, packet.password
        if packet.properties.authentication_method is not None:
            self._refuse(packet, mqtt.Reason.BAD_AUTHENTICATION_METHOD, name, "extended authentication is not offered")
            return
        if door.iotcore is not None and packet.client_id.startswith("projects/"):
            self._connect_iotcore(packet, door.iotcore)
            return
        if name is not None and key is not None and door.apps is not None and door.apps.lets_in(name, key):
            self._hand_over(packet)
            return
        certificate = None if self._transport is None else peer_certificate(self._transport)
        if certificate is not None:
            login = door.registry.login_by_certificate(certificate)
            if not login.refused and name not in (None, login.device):
                login = Login(login.device, f"its certificate is for '{login.device}'")
        elif name is None or key is None or not DEVICE.fullmatch(name):
            self._refuse(packet, mqtt.Reason.BAD_CREDENTIALS, name, "no device id and key as user name and password")
            return
        else:
            login = door.registry.login(name, key)
        if not login.refused and login.profile == "iotcore":
            login = Login(login.device, "its profile is 'iotcore': its client id is to be projects/P/locations/...")
        if self._may_enter(packet, login):
            self.entered(packet, login)

    def _connect_iotcore(self, packet: mqtt.Connect, profile: Profile) -> None:
        """The client id is the name, whatever the user name says, and the password a JWT."""
        try:
            device = profile.names.device(packet.client_id)
        except WireError as error:
            self._refuse(packet, mqtt.Reason.BAD_CREDENTIALS, packet.client_id, str(error))
            return
        login = self._door.registry.login(device, packet.password or b"")
        if not login.refused and login.profile != "iotcore":
            login = Login(device, f"its profile is '{login.profile}', not 'iotcore'")
        if self._may_enter(packet, login):
            door, transport = self._door, self._transport
            assert transport is not None
            heir = self._heir = profile.connection(door)
            heir._transport, heir._machine, heir._peer = transport, self._machine, self._peer
            self._state = _HANDED_OVER
            self._transport = None
            door.replaced(self, heir)
            transport.set_protocol(heir)
            heir.entered(packet, login)

    def _may_enter(self, packet: mqtt.Connect, login: Login) -> bool:
        if login.refused:
            self._refuse(packet, mqtt.Reason.NOT_AUTHORISED, login.device, login.refused)
            return False
        if packet.version != 4:
            self._refuse(packet, mqtt.Reason.UNSUPPORTED_VERSION, login.device, "devices speak MQTT 3.1.1")
            return False
        return True

    def entered(self, packet: mqtt.Connect, login: Login) -> None:
        """The device has shown its key."""
        door, device = self._door, login.device
        self._device = device
        self._tree = f"/devices/{device}/"
        self._subscriptions = Subscriptions(self._tree)
        self._state = _OPEN
        self._patience = (packet.keep_alive * 3 + 1) // 2 + 1 if packet.keep_alive else door.limits.idle
        self._heard = door.wheel.now
        self.deadline = self._heard + self._patience
        door.wheel.put(self)
        door.entered(self, login)
        if packet.will is not None:
            door.log(f"device {self.name} left a will; wills are not offered here, it is ignored")
        # No session outlives a connection: commands wait in the outbox instead, so none is ever "present".
        self.send(mqtt.connack(mqtt.ConnectCode.ACCEPTED))

    def _hand_over(self, packet: mqtt.Connect) -> None:
        """A program has shown its key: all else is between it and the broker."""
        door, transport = self._door, self._transport
        assert transport is not None
        assert door.apps is not None
        self._heir = AppConnection(door, door.apps, transport, self._machine, packet, self._peer)
        self._state = _HANDED_OVER
        self._transport = None
        door.handed_over(self, self._heir)
        transport.set_protocol(self._heir)
        self._heir.begin(packet)

    def _refuse(self, packet: mqtt.Connect, reason: int, device: str | None, why: str) -> None:
        door = self._door
        door.counters.failed_logins += 1
        door.security(f"refused {'a client' if device is None else shown(device)} from {self._peer}: {why}")
        code = _CODES.get(reason, mqtt.ConnectCode.NOT_AUTHORISED)
        self.send(mqtt.connack(code) if packet.version == 4 else mqtt.version5.connack(reason))
        delay = door.delay_of_refusal(self, self._peer.rpartition(":")[0])
        if not delay:
            self._close()
            return
        self._state = _REFUSING
        self._pause()
        self.deadline = door.wheel.now + delay
        door.wheel.put(self)

    def _subscribe(self, packet: mqtt.Subscribe) -> None:
        door = self._door
        codes = []
        listening = configured = False
        for pattern, qos in packet.filters:
            code = self._subscriptions.add(pattern, qos)
            codes.append(code)
            if not self._subscriptions.allows(pattern):
                door.counters.trespasses += 1
                door.security(
                    f"device {self.name} wanted to subscribe to {shown(pattern)}, outside {self._tree}; refused"
                )
            elif code != REFUSED:
                listening = listening or self._subscriptions.listens(pattern)
                configured = configured or self._subscriptions.configures(pattern)
        self.send(mqtt.suback(packet.packet_id, codes))
        if listening:
            door.on_listening(self._device)
        if configured:
            self.configure()

    # What admission decides

    def settled(self) -> None:
        """A message has its verdict: acknowledge all that have theirs, in the order in which they came."""
        door = self._door
        counters = door.counters
        waiting = self._waiting
        while waiting and (verdict := waiting[0].verdict) is not None:
            message = waiting.popleft()
            self._unacknowledged -= message.size
            door.unacknowledged -= message.size
            if verdict is _REFUSED:
                counters.refused += 1
                if message.packet_id:
                    self._silence()
                continue
            if verdict is _DUPLICATE:
                counters.duplicates += 1
            elif verdict is _DEAD:
                counters.dead += 1
            if message.packet_id and not self._mute and self._state == _OPEN:
                door.note_acknowledged(message.received)
                self.send(mqtt.puback(message.packet_id))
        if self._paused:
            self.reconsider()
        if door.held:
            door.relax()
        if not waiting and door.stopping:
            self._close()

    def _silence(self) -> None:
        """Acknowledge nothing more and close after a while.

        Most clients send again only on a new connection, so it must be closed; not at once, or a full disk would have
        every board reconnecting without a pause.
        """
        if self._mute or self._state != _OPEN:
            return
        self._mute = True
        self._pause()
        self._door.log(f"a message of {self.name} could not be stored and was not acknowledged; it will be sent again")
        self.deadline = self._door.wheel.now + self._door.limits.linger
        self._door.wheel.put(self)

    # What the gateway sends

    def deliver(self, command: Command) -> bool:
        """Send a command if the device has subscribed to it; True if it is on its way to the device."""
        if self._state != _OPEN or self._mute or self._writing_paused:
            return False
        packet = self._subscriptions.publish(command)
        if packet:
            self.send(packet)
        return packet is not None

    def tell(self, topic: str, payload: bytes) -> bool:
        """Send a message that the device asks for again if it gets lost; True if it is on its way."""
        if self._state != _OPEN or self._mute or self._writing_paused or not self._subscriptions.wants(topic):
            return False
        if len(self._out) > MOST_TOLD:
            return False  # It has asked for more in one breath than a board can take.
        self.send(mqtt.publish(topic, payload))
        return True

    def configure(self) -> None:
        """Send the newest configuration, if there is one and the device has subscribed to it."""
        self._config_due = False
        if self._subscriptions.config_qos() is not None:
            self._door.bring_config(self, self._device)

    def configured(self, device: str) -> None:
        """There is a newer configuration for `device`."""
        self.configure()

    def deliver_config(self, version: int, content: Any) -> None:
        """The newest configuration has been read; it goes out now, or as soon as there is room for it."""
        if self._state != _OPEN:
            return
        packet = None if self._writing_paused else self._subscriptions.publish_config(version, content)
        self._config_due = packet is None
        if packet:
            self.send(packet)

    def send(self, packet: bytes) -> None:
        """Have `packet` leave with whatever else this turn of the event loop brings."""
        self._out.append(packet)
        if not self.dirty:
            self.dirty = True
            self._door.has_output(self)

    def flush(self) -> None:
        """Hand what there is to send to the transport."""
        self.dirty = False
        if self._out and self._transport is not None and self._state != _REFUSING:
            out, self._out = self._out, []
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # Reading, waiting, closing

    def _pause(self) -> None:
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            if self._turns is None:
                self._transport.pause_reading()
            else:
                self._turns.pause()

    def reconsider(self) -> None:
        """Read again if nothing speaks against it any more."""
        door = self._door
        limits = door.limits
        if (
            not self._paused
            or self._writing_paused
            or self._mute
            or door.stopping
            or self._state != _OPEN
            or self in door.throttled
            or len(self._waiting) > limits.max_unacknowledged // 2
            or self._unacknowledged > limits.max_unacknowledged_bytes // 2
        ):
            return
        if door.unacknowledged > limits.max_unacknowledged_total // 2:
            door.held.add(self)
            return
        if self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._heard = door.wheel.now
            if self._turns is None:
                self._transport.resume_reading()
            else:
                self._turns.resume()

    def expired(self) -> None:
        """The wheel says that the deadline has come; for an open connection that may have moved meanwhile."""
        door = self._door
        if self._state == _OPEN and not self._mute:
            if self._paused and not self._writing_paused:
                self._heard = door.wheel.now  # it is we who do not listen
            self.deadline = self._heard + self._patience
            if self.deadline > door.wheel.now:
                door.wheel.put(self)
                return
            door.log(f"device {self.name} was silent for longer than 1.5 times its keep-alive; connection closed")
        elif self._state == _WAITING:
            door.log(f"{self._peer} sent no CONNECT in time; connection closed")
        elif self._state == _CLOSING:
            self.cut()
            return
        self._close()

    def drop(self, why: str) -> None:
        """Close the connection, with a line in the log."""
        self._door.log(f"the connection of {self.name} was closed: {why}")
        self._close()

    def release(self, device: str, why: str) -> None:
        """The connection is not to speak for `device` any more."""
        self.drop(why)

    def outlived(self, now: int) -> None:
        """The moment that was given to `MqttFrontDoor.ends` has come."""
        self.drop("its key or JWT has expired")

    def wind_up(self) -> None:
        """The gateway stops: read no more, acknowledge what is being stored, then close."""
        if self._waiting and self._state == _OPEN:
            self._pause()
        else:
            self._close()

    def cut(self) -> None:
        """Close the connection at once, whatever is still to be sent."""
        if self._transport is not None:
            self._transport.abort()

    def _close(self) -> None:
        if self._state == _CLOSING:
            return
        self._state = _CLOSING
        self.flush()
        self._door.closing(self, self._device)
        self.deadline = self._door.wheel.now + self._door.limits.close_timeout
        self._door.wheel.put(self)
        if self._transport is not None:
            self._transport.close()


def shown(text: str) -> str:
    """Text of a stranger, fit for one line of a log."""
    return ascii(text if len(text) <= 80 else text[:80] + "...")
