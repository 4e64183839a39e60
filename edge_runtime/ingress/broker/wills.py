"""Wills: what a client has published when it is gone without a word (MQTT 5.0 section 3.1.2.5)."""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.clock import Clock
from edge_runtime.ingress.broker.appointments import Appointments
from edge_runtime.ingress.broker.message import SECOND, Counters, Message, in_devices, published
from edge_runtime.ingress.broker.session import Session
from edge_runtime.ingress.broker.users import Users


class Wills:
    """Publishes them: at once, or after their delay if the client stays away for so long."""

    def __init__(
        self,
        users: Users,
        appointments: Appointments,
        clock: Clock,
        log: Callable[[str], None],
        counters: Counters,
        publish: Callable[[Message], None],
    ) -> None:
        self._users = users
        self._appointments = appointments
        self._clock = clock
        self._log = log
        self._counters = counters
        self._publish = publish

    def left(self, session: Session) -> None:
        """A connection is gone whose will, if there is one, is to come."""
        if session.will is None:
            return
        delay = session.will.properties.will_delay or 0
        if not delay or not session.persistent:
            self.publish(session)
        else:
            self._appointments.make(delay * SECOND, session, lambda: self.publish(session))

    def publish(self, session: Session) -> None:
        """Publish a session's will, if it still has one, and if its user may at this moment."""
        will, session.will = session.will, None
        if will is None:
            return
        user = self._users.get(session.user)
        if user is None or not user.may_publish(will.topic) or in_devices(will.topic):
            self._counters.refused += 1
            self._log(f"the will of MQTT user '{session.user}' was not published: no permission for its topic")
            return
        now = self._clock.now()
        topic, payload, qos, retain = will.topic, will.payload, will.qos, will.retain
        self._publish(published(topic, payload, qos, retain, will.properties, now=now, publisher=session.key))
