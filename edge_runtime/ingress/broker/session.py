"""What the broker knows of one client from one connection to the next (MQTT 5.0 section 4.1), free of input and output.

A message of QoS 1 or 2 gets its number when it is queued, and its packet identifier follows from the number: so one
that is sent again after a restart has the identifier that the client may remember it by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from edge_runtime.ingress.broker.message import Counters, Limits, Message
from edge_runtime.ingress.broker.tree import Subscription
from edge_runtime.proto import mqtt

IDENTIFIERS = 65_535
_WAITING, _SENT, _RELEASED = range(3)


class Link(Protocol):
    """The connection of a session, seen from here."""

    window: int
    """How many messages the client takes without having acknowledged them ([MQTT-3.3.4-9])."""

    def publish(
        self, message: Message, qos: int, retain: bool, ids: tuple[int, ...], packet_id: int, dup: bool
    ) -> bool:
        """Send it; False if the client would not take one so large."""
        ...

    def release(self, packet_id: int) -> None:
        """Send a PUBREL."""
        ...

    def drop(self, why: str) -> None:
        """Close the connection, with a line in the log."""
        ...

    def taken_over(self) -> None:
        """Another connection has the session now."""
        ...

    @property
    def writable(self) -> bool:
        """Whether the client reads what it is sent."""
        ...


class Entry(msgspec.Struct):
    """A message of QoS 1 or 2 between the broker and the subscriber."""

    number: int
    message: Message | None
    """None once the client has it and only the second half of QoS 2 is left."""
    qos: int
    retain: bool
    ids: tuple[int, ...]
    stored: bool
    """It may be sent: it is durable, or need not be."""
    kept: bool
    """The journal has it, so its end is to be recorded."""
    state: int = _WAITING
    begun: bool = False
    """It was sent at least once since the start."""
    owner: Session | None = None
    """The session, while the journal is being told."""

    @property
    def packet_id(self) -> int:
        """Its packet identifier."""
        return self.number % IDENTIFIERS + 1

    @property
    def size(self) -> int:
        """About what it takes in memory."""
        return self.message.size if self.message is not None else 100


class Session:
    """One client's subscriptions, what waits for it, and what it has begun to send."""

    def __init__(self, user: str, client_id: str, limits: Limits, counters: Counters) -> None:
        self.user = user
        self.client_id = client_id
        self.key = f"{user}/{client_id}"
        """Client identifiers are a user's own: nobody can take over another user's session."""
        self.expiry = 0
        """Seconds that it outlives its connection."""
        self.subscriptions: dict[str, Subscription] = {}
        self.incoming: set[int] = set()
        """Packet identifiers of messages of QoS 2 that the client has not released."""
        self.will: mqtt.Will | None = None
        self.link: Link | None = None
        self.era = 0
        """What was appointed in an earlier one is void."""
        self.bytes = 0
        self.forget: Callable[[Session, Entry], None] = _nobody
        """Called with an entry that has ended and that the journal has."""
        self._limits = limits
        self._counters = counters
        self._entries: dict[int, Entry] = {}
        """By packet identifier, in the order of their numbers."""
        self._waiting: deque[Entry] = deque()
        self._next = 0
        self._in_flight = 0

    @property
    def persistent(self) -> bool:
        """Whether it outlives its connection, and so a restart."""
        return self.expiry > 0

    def __len__(self) -> int:
        return len(self._entries)

    def numbers(self) -> list[int]:
        """Of what is queued."""
        return [entry.number for entry in self._entries.values()]

    def has_room(self, message: Message) -> bool:
        """Whether a message can be queued."""
        limits = self._limits
        return len(self._entries) < limits.queue and self.bytes + message.size <= limits.queue_bytes

    def offer(self, message: Message, qos: int, retain: bool, ids: tuple[int, ...], *, keep: bool) -> Entry:
        """Queue a message of QoS 1 or 2; with `keep` it is sent only after `Entry.stored` was set."""
        number = self._next
        while number % IDENTIFIERS + 1 in self._entries:  # [MQTT-2.2.1-4]
            number += 1
        entry = self._put(Entry(number, message, qos, retain, ids, stored=not keep, kept=keep))
        self._waiting.append(entry)
        return entry

    def restore(self, entry: Entry) -> None:
        """Put back what the journal has kept, in the order of the numbers."""
        entry.state = _RELEASED if entry.message is None else _SENT
        self._put(entry)

    def _put(self, entry: Entry) -> Entry:
        self._next = entry.number + 1
        self._entries[entry.packet_id] = entry
        self.bytes += entry.size
        return entry

    def direct(self, message: Message, retain: bool, ids: tuple[int, ...]) -> None:
        """Send a message of QoS 0, or give it up."""
        if self.link is None:
            return
        if not self.link.writable:
            self._counters.dropped_slow += 1
        elif self.link.publish(message, 0, retain, ids, 0, dup=False):
            self._counters.delivered += 1
        else:
            self._counters.dropped_large += 1

    def pump(self, now: int) -> None:
        """Send what waits, in order, as far as the client's window goes."""
        link = self.link
        if link is None or self._in_flight >= link.window or not link.writable:
            return
        waiting = self._waiting
        while waiting and self._in_flight < link.window and link.writable:
            entry = waiting[0]
            if self._entries.get(entry.packet_id) is entry:  # else it was withdrawn
                if not entry.stored:
                    return
                self._send(link, entry, now, dup=False)
            waiting.popleft()

    def _send(self, link: Link, entry: Entry, now: int, *, dup: bool) -> None:
        message = entry.message
        assert message is not None
        if not entry.begun and message.expired(now):  # [MQTT-3.3.2-5]; delivery that has begun goes on
            self._counters.expired += 1
            self._end(entry)
            return
        entry.state = _SENT
        entry.begun = True
        self._in_flight += 1
        if link.publish(message, entry.qos, entry.retain, entry.ids, entry.packet_id, dup=dup):
            self._counters.delivered += 1
            return
        self._counters.dropped_large += 1
        self._finish(entry)

    def resume(self, link: Link, now: int) -> None:
        """A connection: what was not acknowledged on the last goes out again, in order ([MQTT-4.4.0-1])."""
        self.link = link
        self._in_flight = 0
        self._waiting.clear()
        for entry in list(self._entries.values()):
            if entry.state == _RELEASED:
                self._in_flight += 1
                link.release(entry.packet_id)
            elif entry.state == _SENT and self._in_flight < link.window:
                self._send(link, entry, now, dup=True)
            else:
                entry.state = _WAITING
                self._waiting.append(entry)
        self.pump(now)

    def acknowledged(self, packet_id: int) -> bool:
        """A PUBACK, or a PUBREC that refuses; False if there is nothing that it could mean."""
        entry = self._entries.get(packet_id)
        if entry is None or entry.state != _SENT:
            return False
        self._finish(entry)
        return True

    def received(self, packet_id: int) -> Entry | None:
        """A PUBREC: the content can go, and once that is durable a PUBREL is due."""
        entry = self._entries.get(packet_id)
        if entry is None or entry.qos != 2 or entry.state == _WAITING:
            return None
        self.bytes -= entry.size
        entry.message = None
        entry.state = _RELEASED
        self.bytes += entry.size
        return entry

    def completed(self, packet_id: int) -> bool:
        """A PUBCOMP; False if there is nothing that it could mean."""
        entry = self._entries.get(packet_id)
        if entry is None or entry.state != _RELEASED:
            return False
        self._finish(entry)
        return True

    def withdraw(self, entry: Entry) -> None:
        """The journal did not take it: it was never there."""
        if self._entries.get(entry.packet_id) is entry:
            del self._entries[entry.packet_id]
            self.bytes -= entry.size

    def _finish(self, entry: Entry) -> None:
        self._in_flight -= 1
        self._end(entry)

    def _end(self, entry: Entry) -> None:
        del self._entries[entry.packet_id]
        self.bytes -= entry.size
        if entry.kept:
            self.forget(self, entry)


def _nobody(_session: Session, _entry: Entry) -> None:
    """The journal has none of it."""
