"""Which sessions there are, from a client's first connection to their end (MQTT 5.0 section 4.1), over restarts too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edge_runtime.clock import TRUSTED_AFTER, Clock
from edge_runtime.ingress.broker import restore
from edge_runtime.ingress.broker.appointments import Appointments
from edge_runtime.ingress.broker.message import SECOND, Counters, Limits
from edge_runtime.ingress.broker.session import Entry, Link, Session
from edge_runtime.ingress.broker.store import ABOUT, SESSION, About, Store, begun_name, kept, number_name
from edge_runtime.ingress.broker.tree import Subscription, Tree
from edge_runtime.ingress.broker.wills import Wills
from edge_runtime.proto import mqtt


class Sessions:
    """All of them, with or without a connection."""

    def __init__(
        self,
        store: Store,
        tree: Tree,
        wills: Wills,
        appointments: Appointments,
        clock: Clock,
        limits: Limits,
        counters: Counters,
    ) -> None:
        self._store = store
        self._tree = tree
        self._wills = wills
        self._appointments = appointments
        self._clock = clock
        self._limits = limits
        self._counters = counters
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def of(self, user: str) -> list[Session]:
        """Those of one user."""
        return [session for session in self if session.user == user]

    async def load(self) -> None:
        """Have those that the journal has, none of them with a connection."""
        async for key, entries in self._store.load(SESSION):
            self._restore(key, entries)
        for session in list(self):  # now that all are there who may want to hear of them
            self._wills.left(session)

    def _restore(self, key: str, entries: restore.Entries) -> None:
        about = restore.about(entries)
        if about is None:
            self._store.drop(SESSION + key, list(entries))
            return
        session = self._new(about.user, about.client_id)
        session.expiry = about.expiry
        session.will = about.will
        session.incoming = restore.incoming(entries)
        for pattern, options, identifier in about.subscriptions:
            subscription = Subscription(session, pattern, options, identifier)
            session.subscriptions[pattern] = subscription
            self._tree.add(subscription)
        for entry in restore.queue(entries):
            session.restore(entry)
        now = self._clock.now()
        away = now - about.left if about.left and now > TRUSTED_AFTER else 0
        self._await_end(session, max(0, away))

    def _new(self, user: str, client_id: str) -> Session:
        session = Session(user, client_id, self._limits, self._counters)
        session.forget = self._forget
        self._sessions[session.key] = session
        return session

    def enter(
        self, link: Link, user: str, client_id: str, *, clean: bool, expiry: int, will: mqtt.Will | None
    ) -> tuple[Session, bool] | None:
        """A client connects: its session, and whether there was one; None if there is no room for another.

        `keep` and then, after the CONNACK, `Session.resume` are to follow.
        """
        key = f"{user}/{client_id}"
        session = self._sessions.get(key)
        if session is not None and session.link is not None:  # [MQTT-3.1.4-3]
            session.link.taken_over()
            session = self._sessions.get(key)
        if session is not None and clean:  # [MQTT-3.1.4-4]
            self.end(session)
            session = None
        present = session is not None
        if session is None:
            if len(self._sessions) >= self._limits.sessions:
                return None
            session = self._new(user, client_id)
        self._appointments.void(session)
        self.change_expiry(session, expiry)
        session.will = will
        self._counters.connections += 1
        session.link = link
        return session, present

    def keep(self, session: Session, then: Callable[[bool], None]) -> None:
        """Have a persistent session survive a restart as it is now; `then` hears whether it does."""
        if session.persistent:
            self._store.put({SESSION + session.key: {ABOUT: kept(self._about(session))}}, then)
        else:
            then(True)

    def note(self, session: Session) -> None:
        """As `keep`, before long, where nobody waits for it."""
        if session.persistent:
            self._store.later(SESSION + session.key, ABOUT, kept(self._about(session)))

    def leave(self, session: Session, link: Link, *, with_will: bool) -> None:
        """A connection is gone. Without a link that is still the session's nothing happens: another has taken over."""
        if session.link is not link:
            return
        session.link = None
        self._counters.connections -= 1
        if self._sessions.get(session.key) is not session:
            return
        if not with_will:
            session.will = None
        self._wills.left(session)
        if session.persistent:
            self.note(session)
            self._await_end(session, 0)
        else:
            self.end(session)

    def change_expiry(self, session: Session, expiry: int) -> None:
        """A client says at its beginning, or after all at its end, how long its session is to be kept."""
        if session.persistent and not expiry:
            self._unkeep(session)
        session.expiry = min(expiry, self._limits.session_expiry)

    def end(self, session: Session) -> None:
        """Forget a session; its will, if it still waits, is published ([MQTT-3.1.3-9])."""
        if self._sessions.get(session.key) is not session:
            return
        del self._sessions[session.key]
        self._appointments.void(session)
        for subscription in session.subscriptions.values():
            self._tree.remove(subscription)
        self._wills.publish(session)
        self._unkeep(session)

    def end_of(self, user: str) -> list[Session]:
        """End those of a user who is gone, without their wills; the ones that were connected."""
        mine = self.of(user)
        for session in mine:
            session.will = None
            self.end(session)
        return [session for session in mine if session.link is not None]

    def _await_end(self, session: Session, away: int) -> None:
        self._appointments.make(session.expiry * SECOND - away, session, lambda: self.end(session))

    def _unkeep(self, session: Session) -> None:
        names = [ABOUT, *map(number_name, session.numbers()), *map(begun_name, session.incoming)]
        self._store.drop(SESSION + session.key, names)

    def _forget(self, session: Session, entry: Entry) -> None:
        self._store.later(SESSION + session.key, number_name(entry.number))

    def _about(self, session: Session) -> About:
        return About(
            session.user,
            session.client_id,
            session.expiry,
            0 if session.link is not None else self._clock.now(),
            [(s.pattern, s.options, s.identifier) for s in session.subscriptions.values()],
            session.will,
        )
