"""One program's MQTT connection, version 3.1.1 or 5.0: between the packets and the broker.

Its user has shown the right key before this begins: `mqtt_connection.Connection` hands the transport over.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from edge_runtime.ingress.app_acks import Acknowledgements, Pending
from edge_runtime.ingress.app_connect import NOT_STORED, Refusal, Terms, enter, window
from edge_runtime.ingress.app_packets import Packets
from edge_runtime.ingress.broker.broker import Settle
from edge_runtime.ingress.broker.message import Message, in_devices, published
from edge_runtime.ingress.broker.session import Session
from edge_runtime.ingress.broker.store import SESSION, Changes, begun_name, kept
from edge_runtime.ingress.turns import Turns
from edge_runtime.proto import mqtt
from edge_runtime.proto.mqtt import Reason, version5
from edge_runtime.proto.mqtt.properties import NONE

if TYPE_CHECKING:
    from edge_runtime.ingress.apps import Apps
    from edge_runtime.ingress.mqtt import MqttFrontDoor

MAX_OUTPUT = 1 << 20
"""Bytes that wait to be handed to the transport; beyond them the client counts as one that does not read."""
_TOPIC = 4096
"""Characters of a topic at most."""


class AppConnection(asyncio.Protocol):
    """The asyncio protocol of a program's connection. Implements `broker.session.Link`."""

    def __init__(
        self,
        door: MqttFrontDoor,
        apps: Apps,
        transport: asyncio.Transport,
        machine: mqtt.ServerMachine,
        packet: mqtt.Connect,
        peer: str,
    ) -> None:
        self.deadline = 0
        self.slot = -1
        self.dirty = False
        self.window = window(packet, apps.broker.limits.in_flight)
        self.user = packet.user_name or ""
        self._door = door
        self._apps = apps
        self._broker = apps.broker
        self._transport: asyncio.Transport | None = transport
        self._machine = machine
        self._version = packet.version
        self._client_id = packet.client_id or apps.new_client_id()  # [MQTT-3.1.3-6]
        self._peer = peer
        self._session: Session | None = None
        self._open = False
        self._closing = False
        self._with_will = True
        self._first_expiry = 0
        self._patience = 0
        self._heard = door.wheel.now
        self._turns = Turns(transport, self._read)
        self._writing_paused = False
        self._deaf = False
        """It asks and does not take the answers: no more is read before it does."""
        self._early: list[mqtt.Packet | mqtt.ProtocolViolation] = []
        """What came before the CONNACK could leave: no more than one slice."""
        self._waiting = Acknowledgements(apps.broker.limits.receive_maximum)
        self._packets = Packets(packet, apps.broker.limits.topic_aliases)
        self._aliases: dict[int, str] = {}
        """The topics that the client has given short names."""
        self._out: list[bytes] = []
        self._out_bytes = 0

    @property
    def name(self) -> str:
        """The user, the client and its address, for log lines."""
        return f"user '{self.user}', client {self._client_id[:80]!a} ({self._peer})"

    @property
    def writable(self) -> bool:
        """As `Link.writable`."""
        return not self._writing_paused and self._out_bytes < MAX_OUTPUT and not self._closing

    # The beginning

    def begin(self, packet: mqtt.Connect) -> None:
        """Answer the CONNECT."""
        limits = self._door.limits
        terms = enter(self._broker, self, packet, self._client_id, max_packet=limits.max_packet, idle=limits.idle)
        if isinstance(terms, Refusal):
            self._refuse(terms)
            return
        self._session = terms.session
        self._first_expiry = terms.expiry
        self._patience = terms.patience
        self._listen()
        self._broker.sessions.keep(terms.session, partial(self._entered, terms))

    def _entered(self, terms: Terms, stored: bool) -> None:
        if self._closing:
            return
        if not stored and not terms.present:  # one that is there goes on: what it takes makes a full journal emptier
            self._refuse(NOT_STORED)
            return
        self._open = True
        self.send(self._packets.accepted(terms.answer, present=terms.present))
        terms.session.resume(self, self._door.clock.now())
        early, self._early = self._early, []
        for packet in early:
            self.take(packet)
        self.reconsider()

    def _refuse(self, refusal: Refusal) -> None:
        self._door.security(f"refused {self.name}: {refusal.why}")
        self.send(self._packets.refused(refusal.reason, refusal.code))
        self._close()

    # asyncio.Protocol

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        self._closing = True
        self._transport = None
        self._turns.end()
        self._out.clear()
        self._gone()
        self._door.left(self, "")

    def pause_writing(self) -> None:
        """Called by asyncio: the client does not read."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self._writing_paused = False
        if self._deaf:
            self._deaf = False
            if self not in self._door.held:
                self.reconsider()
        if self._session is not None and self._open:
            self._session.pump(self._door.clock.now())

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._heard = self._door.wheel.now
        self._turns.feed(data)

    def _read(self, data: bytes) -> None:
        for packet in self._machine.feed(data):
            self.take(packet)
        if self._writing_paused and not self._closing and self._transport is not None:
            self._deaf = self._transport.get_write_buffer_size() + self._out_bytes > MAX_OUTPUT
            if self._deaf:
                self._pause()

    def take(self, packet: mqtt.Packet | mqtt.ProtocolViolation) -> None:
        """One packet of the client, or what is wrong with it."""
        if self._closing:
            return
        if not self._open:
            self._early.append(packet)
            self._pause()
        elif isinstance(packet, mqtt.Publish):
            self._publish(packet)
        else:
            self._control(packet)

    # What the client sends

    def _publish(self, packet: mqtt.Publish) -> None:
        session, broker = self._session, self._broker
        assert session is not None
        properties = packet.properties if isinstance(packet, mqtt.Publication) else NONE
        topic = self._topic(packet.topic, properties.topic_alias)
        if topic is None:
            return
        qos, identity = packet.qos, packet.packet_id
        pending = None
        if qos:
            if qos == 2 and identity in session.incoming:
                if identity not in self._waiting:  # else its acknowledgement is to come
                    self._acknowledge(Pending(identity, 2, 0, Reason.SUCCESS))
                return
            if self._version == 5 and len(self._waiting) + len(session.incoming) >= broker.limits.receive_maximum:
                self._violated("more unacknowledged messages than allowed", Reason.RECEIVE_MAXIMUM_EXCEEDED)
                return
        if qos or packet.retain:  # what the journal may have to take: so much of it, and no more is read
            pending = Pending(identity, qos, len(packet.payload) + 400)
            self._waits(pending)
        settle = partial(self._settled, pending)
        refused = self._objection(topic)
        if refused:
            broker.counters.refused += 1
            self._door.counters.trespasses += 1
            self._door.security(f"{self.name} published on {topic[:80]!a}: no permission; refused")
            settle(refused)
            return
        changes: Changes = {}
        if qos == 2:
            session.incoming.add(identity)
            if session.persistent:
                changes[SESSION + session.key] = {begun_name(identity): kept(1)}
        if in_devices(topic):
            settle = partial(self._commanded, topic, settle)
            expiry = properties.message_expiry
            take = partial(self._apps.tree.command, self.user, topic, packet.payload, expiry, settle)
            if changes:
                broker.store.put(changes, lambda stored: take() if stored else settle(None))
            else:
                take()
            return
        message = published(
            topic,
            packet.payload,
            qos,
            packet.retain,
            properties,
            now=self._door.clock.now(),
            publisher=session.key,
        )
        broker.publish(message, changes, settle)

    def _waits(self, pending: Pending) -> None:
        door = self._door
        self._waiting.add(pending)
        door.unacknowledged += pending.size
        if self._waiting.full:
            self._pause()
        elif door.unacknowledged > door.limits.max_unacknowledged_total:
            self._pause()
            door.held.add(self)

    def _commanded(self, topic: str, settle: Settle, reason: int | None) -> None:
        if reason is not None and reason >= Reason.UNSPECIFIED:
            self._broker.counters.refused += 1
            self._door.security(
                f"{self.name} published on {topic[:80]!a}: no command for a known device, as JSON; refused"
            )
        settle(reason)

    def _topic(self, topic: str, alias: int | None) -> str | None:
        if alias is not None:
            if not 0 < alias <= self._broker.limits.topic_aliases:  # [MQTT-3.3.2-8], [MQTT-3.3.2-9]
                self._violated(f"the topic alias {alias}", Reason.TOPIC_ALIAS_INVALID)
                return None
            if topic:
                self._aliases[alias] = topic
            else:
                found = self._aliases.get(alias)
                if found is None:
                    self._violated(f"the topic alias {alias}, which stands for nothing", Reason.PROTOCOL_ERROR)
                return found
        return topic

    def _may_publish(self, topic: str) -> bool:
        user = self._broker.users.get(self.user)
        return user is not None and user.may_publish(topic)

    def _objection(self, topic: str) -> int:
        if len(topic) > _TOPIC or topic.count("/") >= self._broker.limits.levels:
            return Reason.TOPIC_NAME_INVALID
        return 0 if self._may_publish(topic) and not topic.startswith("$") else Reason.NOT_AUTHORISED

    def _settled(self, pending: Pending | None, reason: int | None) -> None:
        """A message has been dealt with: acknowledge all that have, in the order in which they came."""
        session, door = self._session, self._door
        if pending is not None:
            door.unacknowledged -= pending.size
            if door.held:
                door.relax()
        if pending is None or self._closing or session is None:
            return
        taken = pending.settle(reason)
        if pending.qos == 2 and not taken and self._version == 5:
            session.incoming.discard(pending.packet_id)
        for done in self._waiting.due():
            if done.dropped and self._version == 4:
                # There is no other way to tell it; not acknowledged, the client sends it again.
                self.drop("a message could not be stored and was not acknowledged")
                return
            if done.qos:
                self._acknowledge(done)
        if self._turns.paused and self not in door.held:
            self.reconsider()
        if not self._waiting and self._door.stopping:
            self.leave(Reason.SERVER_SHUTTING_DOWN)

    def _acknowledge(self, done: Pending) -> None:
        first = version5.PUBACK if done.qos == 1 else version5.PUBREC
        self.send(self._packets.acknowledgement(first, done.packet_id, done.reason or 0))

    def _control(self, packet: mqtt.Packet | mqtt.ProtocolViolation) -> None:
        session, broker, now = self._session, self._broker, self._door.clock.now()
        assert session is not None
        match packet:
            case mqtt.PubAck():
                session.acknowledged(packet.packet_id)
                session.pump(now)
            case mqtt.PubRec():
                self._received(session, packet)
            case mqtt.PubComp():
                session.completed(packet.packet_id)
                session.pump(now)
            case mqtt.PubRel():
                broker.released(session, packet.packet_id, partial(self._released, packet.packet_id))
            case mqtt.PingReq():
                self.send(mqtt.PINGRESP)
            case mqtt.Subscribe():
                identifier = packet.properties.subscription_ids[0] if packet.properties.subscription_ids else 0
                broker.subscribe(session, packet.filters, identifier, partial(self._subscribed, packet))
            case mqtt.Unsubscribe():
                codes = broker.unsubscribe(session, packet.filters)
                self.send(self._packets.unsuback(packet.packet_id, codes))
            case mqtt.Disconnect():
                self._disconnected(session, packet)
            case mqtt.Auth():
                self._violated("an AUTH, although no authentication method was agreed on", Reason.PROTOCOL_ERROR)
            case mqtt.ProtocolViolation():
                self._violated(str(packet), packet.reason)

    def _received(self, session: Session, packet: mqtt.PubRec) -> None:
        if packet.reason >= Reason.UNSPECIFIED:
            session.acknowledged(packet.packet_id)
            session.pump(self._door.clock.now())
            return
        entry = session.received(packet.packet_id)
        if entry is None:
            self.release(packet.packet_id, Reason.PACKET_ID_NOT_FOUND)
        else:
            self._broker.half_done(session, entry, partial(self.release, packet.packet_id))

    def _released(self, packet_id: int, known: bool) -> None:
        reason = Reason.SUCCESS if known else Reason.PACKET_ID_NOT_FOUND
        self.send(self._packets.acknowledgement(version5.PUBCOMP, packet_id, reason))

    def _subscribed(self, packet: mqtt.Subscribe, codes: list[int] | None) -> None:
        if self._closing:
            return
        if codes is None:
            self.drop("its subscription could not be stored")
            return
        for (pattern, _), code in zip(packet.filters, codes, strict=True):
            if code == Reason.NOT_AUTHORISED:
                self._door.counters.trespasses += 1
                self._door.security(f"{self.name} wanted to subscribe to {pattern[:80]!a}: no permission; refused")
        self.send(self._packets.suback(packet.packet_id, codes))

    def _disconnected(self, session: Session, packet: mqtt.Disconnect) -> None:
        expiry = packet.properties.session_expiry
        if expiry is not None and expiry and not self._first_expiry:
            self._violated("a DISCONNECT asks for a session after a CONNECT that wanted none", Reason.PROTOCOL_ERROR)
            return
        if expiry is not None:
            self._broker.sessions.change_expiry(session, expiry)
        self._with_will = packet.reason == Reason.WITH_WILL  # [MQTT-3.14.4-3]
        self._close()

    def _violated(self, what: str, reason: int) -> None:
        self._door.counters.violations += 1
        self._door.log(f"the connection of {self.name} was closed: {what}")
        self.leave(reason)

    # What the broker sends

    def publish(
        self, message: Message, qos: int, retain: bool, ids: tuple[int, ...], packet_id: int, dup: bool
    ) -> bool:
        """As `Link.publish`."""
        packet = self._packets.publish(message, qos, retain, ids, packet_id, dup, self._door.clock.now())
        if packet is None:
            return False
        self.send(packet)
        return True

    def release(self, packet_id: int, reason: int = 0) -> None:
        """As `Link.release`."""
        self.send(self._packets.acknowledgement(version5.PUBREL, packet_id, reason))

    def send(self, packet: bytes) -> None:
        """Have `packet` leave with whatever else this turn of the event loop brings."""
        self._out.append(packet)
        self._out_bytes += len(packet)
        if not self.dirty:
            self.dirty = True
            self._door.has_output(self)

    def flush(self) -> None:
        """Hand what there is to send to the transport."""
        self.dirty = False
        self._out_bytes = 0
        if self._out and self._transport is not None:
            out, self._out = self._out, []
            self._transport.write(b"".join(out))
        if self._session is not None and self._open and not self._closing:
            self._session.pump(self._door.clock.now())

    # Time, and the end

    def _listen(self) -> None:
        self._heard = self._door.wheel.now
        self.deadline = self._heard + self._patience
        self._door.wheel.put(self)

    def _pause(self) -> None:
        if not self._turns.paused and self._transport is not None and not self._transport.is_closing():
            self._turns.pause()

    def reconsider(self) -> None:
        """Read again, if nothing speaks against it any more."""
        if not self._waiting.roomy or self._deaf:
            return
        if self._turns.paused and self._transport is not None and not self._transport.is_closing():
            self._heard = self._door.wheel.now
            self._turns.resume()

    def expired(self) -> None:
        """The wheel says that the deadline has come."""
        if self._closing:
            self.cut()
            return
        if self._turns.paused and not self._deaf:
            self._heard = self._door.wheel.now  # it is we who do not listen
        self.deadline = self._heard + self._patience
        if self.deadline > self._door.wheel.now:
            self._door.wheel.put(self)
            return
        self._door.log(f"{self.name} was silent for longer than 1.5 times its keep-alive; connection closed")
        self.leave(Reason.KEEP_ALIVE_TIMEOUT)  # [MQTT-3.1.2-22]

    def taken_over(self) -> None:
        """As `Link.taken_over`."""
        self._door.log(f"the connection of {self.name} was closed: the client connected again")
        self.leave(Reason.SESSION_TAKEN_OVER)

    def drop(self, why: str) -> None:
        """Close the connection, with a line in the log."""
        self._door.log(f"the connection of {self.name} was closed: {why}")
        self.leave(Reason.ADMINISTRATIVE_ACTION)

    def leave(self, reason: int) -> None:
        """Close the connection; a client of MQTT 5 is told why."""
        if not self._closing and self._version == 5:
            self.send(self._packets.farewell(reason, entered=self._open))
        self._close()

    def wind_up(self) -> None:
        """The gateway stops: read no more, acknowledge what is being stored, then close."""
        if self._waiting:
            self._pause()
        else:
            self.leave(Reason.SERVER_SHUTTING_DOWN)

    def cut(self) -> None:
        """Close the connection at once, whatever is still to be sent."""
        if self._transport is not None:
            self._transport.abort()

    def _close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self.flush()
        self._gone()
        self._door.closing(self, "")
        self.deadline = self._door.wheel.now + self._door.limits.close_timeout
        self._door.wheel.put(self)
        if self._transport is not None:
            self._transport.close()

    def _gone(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._broker.sessions.leave(session, self, with_will=self._with_will)
