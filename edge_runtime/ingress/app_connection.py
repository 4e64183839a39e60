"""One program's MQTT connection, version 3.1.1 or 5.0: between the packets and the broker.

Its user has shown the right key before this begins: `mqtt_connection.Connection` hands the transport over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.ingress.broker.broker import Settle
from edge_runtime.ingress.broker.message import FOR_EVER, Message, in_devices, published
from edge_runtime.ingress.broker.session import Session
from edge_runtime.ingress.broker.store import SESSION, Changes, begun_name, kept
from edge_runtime.ingress.broker.users import RESPONSES
from edge_runtime.proto import mqtt
from edge_runtime.proto.mqtt import Reason, version5
from edge_runtime.proto.mqtt.properties import NONE, Properties

if TYPE_CHECKING:
    from edge_runtime.ingress.apps import Apps
    from edge_runtime.ingress.mqtt import MqttFrontDoor

MAX_OUTPUT = 1 << 20
"""Bytes that wait to be handed to the transport; beyond them the client counts as one that does not read."""
MAX_WAITING = 1 << 20
"""Bytes of messages of one connection that wait for the journal before it is read no more."""
_CLIENT_ID = 512
"""Characters of a client identifier at most."""
_TOPIC = 4096


class Pending(msgspec.Struct):
    """A PUBLISH of QoS 1 or 2 that waits for its acknowledgement, which leave in order ([MQTT-4.6.0-2])."""

    packet_id: int
    qos: int
    size: int
    reason: int | None = None
    """What it is to be acknowledged with, once that is known."""
    dropped: bool = False


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
        self.window = apps.broker.limits.in_flight
        self.user = packet.user_name or ""
        self._door = door
        self._apps = apps
        self._broker = apps.broker
        self._transport: asyncio.Transport | None = transport
        self._machine = machine
        self._version = packet.version
        self._client_id = packet.client_id
        self._peer = peer
        self._session: Session | None = None
        self._open = False
        self._closing = False
        self._with_will = True
        self._first_expiry = 0
        self._patience = 0
        self._heard = door.wheel.now
        self._paused = False
        self._writing_paused = False
        self._early: list[mqtt.Packet | mqtt.ProtocolViolation] = []
        """What came before the CONNACK could leave."""
        self._waiting: deque[Pending] = deque()
        self._waiting_bytes = 0
        self._aliases_in: dict[int, str] = {}
        self._aliases_out: dict[str, int] = {}
        self._max_aliases_out = 0
        self._max_packet = 1 << 28
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
        door, limits, properties = self._door, self._broker.limits, packet.properties
        assigned = None
        if not packet.client_id:  # [MQTT-3.1.3-6]
            assigned = self._client_id = self._apps.new_client_id()
        if len(self._client_id) > _CLIENT_ID:
            self._refuse(Reason.CLIENT_ID_NOT_VALID, mqtt.ConnectCode.IDENTIFIER_REJECTED, "its client id is too long")
            return
        expiry = properties.session_expiry or 0
        if packet.version == 4:
            expiry = 0 if packet.clean_session else FOR_EVER
        if packet.will is not None and not self._may_publish(packet.will.topic):
            self._refuse(Reason.NOT_AUTHORISED, mqtt.ConnectCode.NOT_AUTHORISED, "no permission for its will's topic")
            return
        entered = self._broker.sessions.enter(
            self, self.user, self._client_id, clean=packet.clean_session, expiry=expiry, will=packet.will
        )
        if entered is None:
            self._refuse(Reason.QUOTA_EXCEEDED, mqtt.ConnectCode.SERVER_UNAVAILABLE, "there are too many sessions")
            return
        session, present = entered
        self._session = session
        self._first_expiry = expiry
        if packet.version == 5:
            self.window = properties.receive_maximum or 65_535
            self._max_aliases_out = min(properties.topic_alias_maximum or 0, limits.topic_aliases)
            self._max_packet = properties.maximum_packet_size or self._max_packet
        keep_alive = packet.keep_alive
        server_keep_alive = None
        if not keep_alive:
            keep_alive = server_keep_alive = door.limits.idle * 2 // 3
        self._patience = (keep_alive * 3 + 1) // 2 + 1
        self._listen()
        answer = Properties(
            session_expiry=session.expiry if session.expiry != expiry else None,
            receive_maximum=limits.receive_maximum,
            maximum_packet_size=door.limits.max_packet,
            assigned_client_id=assigned,
            topic_alias_maximum=limits.topic_aliases,
            server_keep_alive=server_keep_alive,
            response_information=f"{RESPONSES}/{self.user}/" if properties.request_response_information else None,
        )
        self._broker.sessions.keep(session, partial(self._entered, session, present, answer))

    def _entered(self, session: Session, present: bool, answer: Properties, stored: bool) -> None:
        if self._closing:
            return
        if not stored and not present:  # one that is there goes on: what it takes makes a full journal emptier
            self._refuse(Reason.QUOTA_EXCEEDED, mqtt.ConnectCode.SERVER_UNAVAILABLE, "its session cannot be stored")
            return
        self._open = True
        if self._version == 5:
            self.send(version5.connack(Reason.SUCCESS, answer, session_present=present))
        else:
            self.send(mqtt.connack(mqtt.ConnectCode.ACCEPTED, session_present=present))
        session.resume(self, self._door.clock.now())
        early, self._early = self._early, []
        for packet in early:
            self.take(packet)
        self.reconsider()

    def _refuse(self, reason: int, code: mqtt.ConnectCode, why: str) -> None:
        self._door.security(f"refused {self.name}: {why}")
        self.send(version5.connack(reason) if self._version == 5 else mqtt.connack(code))
        self._close()

    # asyncio.Protocol

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        self._closing = True
        self._transport = None
        self._out.clear()
        self._gone()
        self._door.left(self, "")

    def pause_writing(self) -> None:
        """Called by asyncio: the client does not read."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self._writing_paused = False
        if self._session is not None and self._open:
            self._session.pump(self._door.clock.now())

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._heard = self._door.wheel.now
        for packet in self._machine.feed(data):
            self.take(packet)

    def take(self, packet: mqtt.Packet | mqtt.ProtocolViolation) -> None:
        """One packet of the client, or what is wrong with it."""
        if self._closing:
            return
        if not self._open:
            self._early.append(packet)  # no more than one segment: reading is paused until the CONNACK
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
                if all(p.packet_id != identity for p in self._waiting):
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
        self._waiting.append(pending)
        self._waiting_bytes += pending.size
        door.unacknowledged += pending.size
        if len(self._waiting) > self._broker.limits.receive_maximum or self._waiting_bytes > MAX_WAITING:
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
                self._aliases_in[alias] = topic
            else:
                found = self._aliases_in.get(alias)
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
        pending.reason = Reason.QUOTA_EXCEEDED if reason is None else reason
        refused = pending.reason >= Reason.UNSPECIFIED
        pending.dropped = reason is None or reason == Reason.QUOTA_EXCEEDED
        if pending.qos == 2 and refused and self._version == 5:
            session.incoming.discard(pending.packet_id)
        while self._waiting and self._waiting[0].reason is not None:
            done = self._waiting.popleft()
            self._waiting_bytes -= done.size
            if done.dropped and self._version == 4:
                # There is no other way to tell it; not acknowledged, the client sends it again.
                self.drop("a message could not be stored and was not acknowledged")
                return
            if done.qos:
                self._acknowledge(done)
        if self._paused and self not in door.held:
            self.reconsider()
        if not self._waiting and self._door.stopping:
            self.leave(Reason.SERVER_SHUTTING_DOWN)

    def _acknowledge(self, done: Pending) -> None:
        first = version5.PUBACK if done.qos == 1 else version5.PUBREC
        # In MQTT 3.1.1 a refusal looks like success ([MQTT-3.3.5-2]); the security log has it.
        reason = (done.reason or 0) if self._version == 5 else 0
        self.send(version5.acknowledgement(first, done.packet_id, reason))

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
                five = self._version == 5
                self.send(version5.unsuback(packet.packet_id, codes) if five else mqtt.unsuback(packet.packet_id))
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
        reason = Reason.SUCCESS if known or self._version == 4 else Reason.PACKET_ID_NOT_FOUND
        self.send(version5.acknowledgement(version5.PUBCOMP, packet_id, reason))

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
        if self._version == 5:
            self.send(version5.suback(packet.packet_id, codes))
        else:
            self.send(mqtt.suback(packet.packet_id, [min(code, 0x80) for code in codes]))

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
        topic = message.topic
        if self._version == 4:
            packet = mqtt.publish(topic, message.payload, qos=qos, packet_id=packet_id, dup=dup, retain=retain)
        else:
            alias = self._aliases_out.get(topic)
            fresh = alias is None and len(self._aliases_out) < self._max_aliases_out
            if fresh:
                alias = len(self._aliases_out) + 1
            properties = message.outgoing(self._door.clock.now(), ids, alias)
            packet = version5.publish(
                "" if alias is not None and not fresh else topic,
                message.payload,
                properties,
                qos=qos,
                packet_id=packet_id,
                dup=dup,
                retain=retain,
            )
            if len(packet) > self._max_packet:  # [MQTT-3.1.2-24]
                return False
            if fresh and alias is not None:
                self._aliases_out[topic] = alias
        self.send(packet)
        return True

    def release(self, packet_id: int, reason: int = 0) -> None:
        """As `Link.release`."""
        self.send(version5.acknowledgement(version5.PUBREL, packet_id, reason if self._version == 5 else 0))

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
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def reconsider(self) -> None:
        """Read again, if nothing speaks against it any more."""
        limit = self._broker.limits.receive_maximum // 2
        if len(self._waiting) > limit or self._waiting_bytes > MAX_WAITING // 2:
            return
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._heard = self._door.wheel.now
            self._transport.resume_reading()

    def expired(self) -> None:
        """The wheel says that the deadline has come."""
        if self._closing:
            self.cut()
            return
        if self._paused:
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
            self.send(version5.disconnect(reason) if self._open else version5.connack(reason))
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
