"""The broker: who gets what. No sockets; durability through `Store`, time through a clock.

A message goes at once to subscribers that are there for the connection only. What a persistent session is to have, and
what is retained, is written first: its publisher is told, and its subscribers are sent it, once that is durable.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import msgspec

from edge_runtime.clock import TRUSTED_AFTER, Clock
from edge_runtime.ingress.broker import restore
from edge_runtime.ingress.broker.message import SECOND, Counters, Limits, Message, published
from edge_runtime.ingress.broker.retained import Retained
from edge_runtime.ingress.broker.session import Entry, Link, Session
from edge_runtime.ingress.broker.store import ABOUT, RETAINED, SESSION, About, Changes, Queued, Store, kept, number_name
from edge_runtime.ingress.broker.tree import AT_SUBSCRIBE, IF_NEW, Subscription, Tree
from edge_runtime.ingress.broker.users import Users
from edge_runtime.journal.interface import Journal
from edge_runtime.proto import mqtt
from edge_runtime.proto.mqtt import Reason
from edge_runtime.proto.mqtt.topics import shared

Settle = Callable[[int | None], None]
"""Told what became of a message: a reason code, or None if it could not be stored."""
SYS = "$SYS/broker/"


class _Appointment(msgspec.Struct, order=True):
    """Something that is to happen to a session unless its client comes back before."""

    moment: int
    order: int
    session: Session
    mark: int
    what: Callable[[], None]

    def holds(self) -> bool:
        """Whether nothing has come between."""
        return self.session.ends == self.mark and self.session.link is None


class Broker:
    """All sessions and what they share. Made with `await Broker.open(...)`."""

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
        self.sessions: dict[str, Session] = {}
        self._appointments: list[_Appointment] = []
        self._order = itertools.count()
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
        restored = [broker._restore(key, found) async for key, found in broker.store.load(SESSION)]
        for session in restored:
            if session is not None:
                broker._publish_will_later(session)
        return broker

    def _restore(self, key: str, entries: restore.Entries) -> Session | None:
        about = restore.about(entries)
        if about is None:
            self.store.drop(SESSION + key, list(entries))
            return None
        session = self._new(about.user, about.client_id)
        session.expiry = about.expiry
        session.incoming = restore.incoming(entries)
        for pattern, options, identifier in about.subscriptions:
            subscription = Subscription(session, pattern, options, identifier)
            session.subscriptions[pattern] = subscription
            self.tree.add(subscription)
        for entry in restore.queue(entries):
            session.restore(entry)
        now = self.clock.now()
        away = now - about.left if about.left and now > TRUSTED_AFTER else 0
        session.will = about.will
        self._await_end(session, max(0, away))
        return session

    # Sessions

    def _new(self, user: str, client_id: str) -> Session:
        session = Session(user, client_id, self.limits, self.counters)
        session.forget = self._forget
        self.sessions[session.key] = session
        return session

    def enter(
        self, link: Link, user: str, client_id: str, *, clean: bool, expiry: int, will: mqtt.Will | None
    ) -> tuple[Session, bool] | None:
        """A client connects: its session, and whether there was one; None if there is no room for another.

        `keep` and then, after the CONNACK, `Session.resume` are to follow.
        """
        key = f"{user}/{client_id}"
        session = self.sessions.get(key)
        if session is not None and session.link is not None:  # [MQTT-3.1.4-3]
            session.link.taken_over()
            session = self.sessions.get(key)
        if session is not None and clean:  # [MQTT-3.1.4-4]
            self.end(session)
            session = None
        present = session is not None
        if session is None:
            if len(self.sessions) >= self.limits.sessions:
                return None
            session = self._new(user, client_id)
        session.ends = next(self._order)  # what it was to end by, and a will that was to come, are void
        was = session.persistent
        session.expiry = min(expiry, self.limits.session_expiry)
        session.will = will
        if was and not session.persistent:
            self._unkeep(session)
        self.counters.connections += 1
        session.link = link
        return session, present

    def keep(self, session: Session, then: Callable[[bool], None]) -> None:
        """Have a persistent session survive a restart from now on."""
        if session.persistent:
            self.store.put({SESSION + session.key: {ABOUT: kept(self._about(session))}}, then)
        else:
            then(True)

    def leave(self, session: Session, link: Link, *, with_will: bool) -> None:
        """A connection is gone. Without a link that is still the session's nothing happens: another has taken over."""
        if session.link is not link:
            return
        session.link = None
        self.counters.connections -= 1
        if self.sessions.get(session.key) is not session:
            return
        if not with_will:
            session.will = None
        self._publish_will_later(session)
        if session.persistent:
            self._note(session)
            self._await_end(session, 0)
        else:
            self.end(session)

    def change_expiry(self, session: Session, expiry: int) -> None:
        """A client says at its end how long its session is to be kept after all."""
        if session.persistent and not expiry:
            self._unkeep(session)
        session.expiry = min(expiry, self.limits.session_expiry)

    def end(self, session: Session) -> None:
        """Forget a session; its will, if it still waits, is published ([MQTT-3.1.3-9])."""
        if self.sessions.get(session.key) is not session:
            return
        del self.sessions[session.key]
        session.ends = next(self._order)
        for subscription in session.subscriptions.values():
            self.tree.remove(subscription)
        self._publish_will(session)
        self._unkeep(session)

    def _unkeep(self, session: Session) -> None:
        names = [ABOUT, *map(number_name, session.numbers()), *(f"i{identifier}" for identifier in session.incoming)]
        self.store.drop(SESSION + session.key, names)

    def _await_end(self, session: Session, away: int) -> None:
        self._appoint(session.expiry * SECOND - away, session, lambda: self.end(session))

    def _publish_will_later(self, session: Session) -> None:
        if session.will is None:
            return
        delay = session.will.properties.will_delay or 0
        if not delay or not session.persistent:
            self._publish_will(session)
        else:
            self._appoint(delay * SECOND, session, lambda: self._publish_will(session))

    def _publish_will(self, session: Session) -> None:
        will, session.will = session.will, None
        user = self.users.get(session.user)
        if will is None:
            return
        if user is None or not user.may_publish(will.topic) or in_devices(will.topic):
            self.counters.refused += 1
            self.log(f"the will of MQTT user '{session.user}' was not published: no permission for its topic")
            return
        now = self.clock.now()
        message = published(
            will.topic, will.payload, will.qos, will.retain, will.properties, now=now, publisher=session.key
        )
        self.publish(message, {}, _nobody)

    def _note(self, session: Session) -> None:
        """Have the journal know what a persistent session is now."""
        if session.persistent:
            self.store.later(SESSION + session.key, ABOUT, kept(self._about(session)))

    def _about(self, session: Session) -> About:
        return About(
            session.user,
            session.client_id,
            session.expiry,
            0 if session.link is not None else self.clock.now(),
            [(s.pattern, s.options, s.identifier) for s in session.subscriptions.values()],
            session.will,
        )

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
            self.keep(session, durable)
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
        self._note(session)
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
        for message in [*self.retained.matching(subscription.pattern, now), *self._system(subscription.pattern)]:
            self._to(session, message, [subscription], True, changes, entries)
        self._store(changes, entries, _ignored)
        session.pump(now)

    def _system(self, pattern: str) -> list[Message]:
        if not pattern.startswith("$SYS/"):
            return []
        c = self.counters
        figures = {
            "clients/connected": c.connections,
            "clients/total": len(self.sessions),
            "subscriptions/count": self.tree.count,
            "retained messages/count": len(self.retained),
            "messages/published": c.published,
            "messages/delivered": c.delivered,
            "messages/dropped": c.dropped_full + c.dropped_slow + c.dropped_large + c.expired,
        }
        topics = {SYS + name: str(figure).encode() for name, figure in figures.items()}
        return [Message(topic, text) for topic, text in topics.items() if mqtt.matches(pattern, topic)]

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
        if user is None or not (user.may_receive(message.topic) or message.topic.startswith("$SYS/")):
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

    def _forget(self, session: Session, entry: Entry) -> None:
        self.store.later(SESSION + session.key, number_name(entry.number))

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
            gone: Changes = {SESSION + session.key: {f"i{packet_id}": None}}
            self.store.put(gone, lambda durable: then(True) if durable else None)
        else:
            then(known)

    # Time

    def _appoint(self, delay: int, session: Session, what: Callable[[], None]) -> None:
        appointments = self._appointments
        if len(appointments) > 1_000 + 4 * len(self.sessions):  # of clients that come and go, most are void
            appointments[:] = [found for found in appointments if found.holds()]
            heapq.heapify(appointments)
        moment = self.clock.monotonic() + max(0, delay)
        heapq.heappush(appointments, _Appointment(moment, next(self._order), session, session.ends, what))

    def tick(self) -> None:
        """Let what is due happen; called every second."""
        now = self.clock.monotonic()
        while self._appointments and self._appointments[0].moment <= now:
            due = heapq.heappop(self._appointments)
            if due.holds():
                due.what()
        for topic in self.retained.expired(self.clock.now()):
            self.retained.set(Message(topic, b""))
            self.store.later(RETAINED + topic, "m")
        self._queued = sum(session.bytes for session in self.sessions.values())
        self.store.flush()

    def drop_user(self, name: str) -> list[Session]:
        """End all sessions of a user who is gone; those that were connected."""
        mine = [session for session in self.sessions.values() if session.user == name]
        for session in mine:
            session.will = None
            self.end(session)
        return [session for session in mine if session.link is not None]


def in_devices(topic: str) -> bool:
    """Whether a topic belongs to the journal's tree."""
    return topic.startswith("/devices/") or topic == "/devices"


def _nobody(_reason: int | None) -> None:
    """Nobody waits."""


def _ignored(_durable: bool) -> None:
    """Nobody waits."""
