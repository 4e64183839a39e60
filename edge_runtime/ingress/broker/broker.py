"""The broker: who gets what. No sockets; durability through `Store`, time through a clock.

A message goes at once to subscribers that are there for the connection only. What a persistent session is to have, and
what is retained, is written first: its publisher is told, and its subscribers are sent it, once that is durable.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.ingress.broker import restore, system
from edge_runtime.ingress.broker.appointments import Appointments
from edge_runtime.ingress.broker.message import Counters, Limits, Message
from edge_runtime.ingress.broker.retained import Retained
from edge_runtime.ingress.broker.session import Entry, Session
from edge_runtime.ingress.broker.sessions import Sessions
from edge_runtime.ingress.broker.store import RETAINED, SESSION, Changes, Queued, Store, begun_name, kept, number_name
from edge_runtime.ingress.broker.tree import AT_SUBSCRIBE, IF_NEW, Subscription, Tree
from edge_runtime.ingress.broker.users import Users
from edge_runtime.ingress.broker.wills import Wills
from edge_runtime.journal.interface import Journal
from edge_runtime.proto.mqtt import Reason
from edge_runtime.proto.mqtt.topics import shared

Settle = Callable[[int | None], None]
"""Told what became of a message: a reason code, or None if it could not be stored."""


class Broker:
    """What all sessions share, and the way of a message between them. Made with `await Broker.open(...)`."""

    def __init__(self, journal: Journal, clock: Clock, log: Callable[[str], None], limits: Limits) -> None:
        self.clock = clock
        self.log = log
        self.limits = limits
        self.counters = Counters()
        self.store = Store(journal, log)
        self.users = Users(self.store, clock)
        self.tree = Tree()
        self.retained = Retained(limits)
        self.events: Callable[[Message, Callable[[bool], None]], bool] | None = None
        """Makes an event of a message and says whether it became durable; False, and no word, for one that is none."""
        self.appointments = Appointments(clock)
        wills = Wills(self.users, self.appointments, clock, log, self.counters, self._publish_will)
        self.sessions = Sessions(self.store, self.tree, wills, self.appointments, clock, limits, self.counters)
        self._queued = 0
        self._shared_turns = itertools.count()

    @classmethod
    async def open(
        cls, journal: Journal, clock: Clock, log: Callable[[str], None], limits: Limits | None = None
    ) -> Broker:
        """The broker with all that the journal has of it; `log` takes lines of the operations log."""
        broker = cls(journal, clock, log, limits or Limits())
        await broker.users.load()
        async for topic, entries in broker.store.load(RETAINED):
            message = restore.message(entries["m"])
            if not message.expired(clock.now()):
                broker.retained.set(message)
            else:
                broker.store.later(RETAINED + topic, "m")
        await broker.sessions.load()
        return broker

    # Subscriptions

    def subscribe(
        self,
        session: Session,
        filters: list[tuple[str, int]],
        identifier: int,
        done: Callable[[list[int] | None], None],
    ) -> None:
        """Subscribe to each filter that the user may; `done` gets the codes once they are durable where they have to
        be, or None if they could not be stored. Retained messages follow it."""
        user = self.users.get(session.user)
        codes: list[int] = []
        fresh: list[tuple[Subscription, bool]] = []
        for pattern, options in filters:
            known = pattern in session.subscriptions
            if user is None or not user.may_subscribe(pattern):
                codes.append(Reason.NOT_AUTHORISED)
                self.counters.refused += 1
            elif pattern.count("/") >= self.limits.levels or (
                not known and len(session.subscriptions) >= self.limits.subscriptions
            ):
                codes.append(Reason.QUOTA_EXCEEDED)
            else:
                subscription = Subscription(session, pattern, options, identifier)
                session.subscriptions[pattern] = subscription
                self.tree.add(subscription)
                fresh.append((subscription, known))
                codes.append(subscription.qos)

        def durable(stored: bool) -> None:
            if not stored:
                done(None)
                return
            done(codes)
            for subscription, known in fresh:
                self._send_retained(subscription, known=known)

        if fresh:
            self.sessions.keep(session, durable)
        else:
            durable(True)

    def unsubscribe(self, session: Session, patterns: list[str]) -> list[int]:
        """Codes, one for each filter."""
        codes = []
        for pattern in patterns:
            subscription = session.subscriptions.pop(pattern, None)
            codes.append(Reason.NO_SUBSCRIPTION_EXISTED if subscription is None else Reason.SUCCESS)
            if subscription is not None:
                self.tree.remove(subscription)
        self.sessions.note(session)
        return list(map(int, codes))

    def _send_retained(self, subscription: Subscription, *, known: bool) -> None:
        handling = subscription.retain_handling
        if shared(subscription.pattern) is not None:  # section 4.8.2
            return
        if handling not in (AT_SUBSCRIBE, IF_NEW) or (handling == IF_NEW and known):
            return
        session, now = subscription.session, self.clock.now()
        changes: Changes = {}
        entries: list[Entry] = []
        figures = system.messages(subscription.pattern, self.counters, len(self.sessions), self.tree, self.retained)
        for message in [*self.retained.matching(subscription.pattern, now), *figures]:
            self._to(session, message, [subscription], True, changes, entries)
        self._store(changes, entries, _ignored)
        session.pump(now)

    # Messages

    def publish(self, message: Message, changes: Changes, settle: Settle) -> None:
        """Route a message; `changes` become durable with what it leads to, and before `settle` is called.

        One that is an event for the journal is routed once it is durable there.
        """
        self.counters.published += 1

        def taken(durable: bool) -> None:
            if durable:
                self._publish(message, changes, settle)
            else:
                self.counters.not_stored += 1
                settle(None)

        if self.events is None or not self.events(message, taken):
            self._publish(message, changes, settle)

    def _publish(self, message: Message, changes: Changes, settle: Settle) -> None:
        if message.retain and message.payload and not self.retained.has_room(message):
            settle(Reason.QUOTA_EXCEEDED)
            return
        entries: list[Entry] = []
        reached = self._route(message, changes, entries, keep=True)
        if message.retain:
            forwarded = msgspec.structs.replace(message, publisher="")
            changes[RETAINED + message.topic] = {"m": kept(forwarded) if message.payload else None}
        reason = Reason.SUCCESS if reached else Reason.NO_MATCHING_SUBSCRIBERS

        def stored(durable: bool) -> None:
            if durable and message.retain:
                self.retained.set(msgspec.structs.replace(message, publisher=""))
            settle(int(reason) if durable else None)

        self._store(changes, entries, stored)

    def _publish_will(self, message: Message) -> None:
        self.publish(message, {}, _nobody)

    def tell(self, topic: str, payload: bytes, retain: bool) -> bool:
        """Publish something of the gateway's own, with QoS 0; False if it is to be kept and there is no room."""
        message = Message(topic, payload, 0, retain)
        if not retain:
            self.announce(message)
        elif self.retained.has_room(message):
            self._publish(message, {}, _nobody)
        else:
            return False
        return True

    def announce(self, message: Message) -> None:
        """Send a message to those who are connected just now; nothing of it is kept."""
        self._route(message, {}, [], keep=False)

    def _route(self, message: Message, changes: Changes, entries: list[Entry], *, keep: bool) -> bool:
        direct, groups = self.tree.match(message.topic)
        by_session: dict[str, list[Subscription]] = {}
        for subscription in direct:
            if not (subscription.no_local and subscription.session.key == message.publisher):  # [MQTT-3.8.3-3]
                by_session.setdefault(subscription.session.key, []).append(subscription)
        for found in by_session.values():
            self._to(found[0].session, message, found, False, changes, entries, keep=keep)
        for members in groups:
            chosen = self._one_of(members)
            self._to(chosen.session, message, [chosen], False, changes, entries, keep=keep)
        return bool(by_session or groups)

    def _one_of(self, members: dict[str, Subscription]) -> Subscription:
        """The member of a group that is to have a message: in turns, of those that are there ([MQTT-4.8.2-4])."""
        there = [s for s in members.values() if s.session.link is not None and s.session.link.writable]
        candidates = there or [s for s in members.values() if s.session.persistent] or list(members.values())
        return candidates[next(self._shared_turns) % len(candidates)]

    def _to(
        self,
        session: Session,
        message: Message,
        found: list[Subscription],
        retained: bool,
        changes: Changes,
        entries: list[Entry],
        *,
        keep: bool = True,
    ) -> None:
        """Give a message to one session, once, however many of its filters cover it ([MQTT-3.3.4-2])."""
        user = self.users.get(session.user)
        if user is None or not (user.may_receive(message.topic) or message.topic.startswith(system.TREE)):
            return
        qos = min(message.qos, max(subscription.qos for subscription in found))
        ids = tuple(subscription.identifier for subscription in found if subscription.identifier)
        retain = retained or (message.retain and any(subscription.retain_as_published for subscription in found))
        if not qos:
            session.direct(message, retain, ids)
            return
        keep = keep and session.persistent
        if session.link is None and not keep:
            return
        if not session.has_room(message) or self._queued + message.size > self.limits.total_bytes:
            self._full(session)
            return
        self._queued += message.size
        entry = session.offer(message, qos, retain, ids, keep=keep)
        if not keep:
            session.pump(self.clock.now())
            return
        entries.append(entry)
        queued = Queued(qos, msgspec.structs.replace(message, publisher=""), retain, ids)
        changes.setdefault(SESSION + session.key, {})[number_name(entry.number)] = kept(queued)
        entry.owner = session

    def _full(self, session: Session) -> None:
        self.counters.dropped_full += 1
        self.log(f"a message for client '{session.client_id}' of MQTT user '{session.user}' was given up: queue full")

    def _store(self, changes: Changes, entries: list[Entry], then: Callable[[bool], None]) -> None:
        if not changes:
            then(True)
            return

        def done(durable: bool) -> None:
            if not durable:
                self.counters.not_stored += 1
            for entry in entries:
                session = entry.owner
                if session is None:
                    continue
                if durable:
                    entry.stored = True
                else:
                    session.withdraw(entry)
            then(durable)
            now = self.clock.now()
            for session in {id(e.owner): e.owner for e in entries if e.owner is not None}.values():
                session.pump(now)

        self.store.put(changes, done)

    def half_done(self, session: Session, entry: Entry, then: Callable[[], None]) -> None:
        """A subscriber has the content of a message of QoS 2: that is durable before it may forget it."""
        if not entry.kept:
            then()
            return
        changes: Changes = {SESSION + session.key: {number_name(entry.number): kept(Queued(entry.qos))}}
        self.store.put(changes, lambda durable: then() if durable else None)

    def released(self, session: Session, packet_id: int, then: Callable[[bool], None]) -> None:
        """A publisher of QoS 2 may use a packet identifier for another message once that is durable."""
        known = packet_id in session.incoming
        session.incoming.discard(packet_id)
        if known and session.persistent:
            gone: Changes = {SESSION + session.key: {begun_name(packet_id): None}}
            self.store.put(gone, lambda durable: then(True) if durable else None)
        else:
            then(known)

    # Time

    def tick(self) -> None:
        """Let what is due happen; called every second."""
        self.appointments.keep()
        for topic in self.retained.expired(self.clock.now()):
            self.retained.set(Message(topic, b""))
            self.store.later(RETAINED + topic, "m")
        self._queued = sum(session.bytes for session in self.sessions)
        self.store.flush()


def _nobody(_reason: int | None) -> None:
    """Nobody waits."""


def _ignored(_durable: bool) -> None:
    """Nobody waits."""
