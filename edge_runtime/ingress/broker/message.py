"""A message on its way from a publisher to subscribers, and the bounds on what is kept of such."""

from __future__ import annotations

import msgspec

from edge_runtime.clock import TRUSTED_AFTER
from edge_runtime.proto.mqtt.properties import NONE, Properties

SECOND = 1_000_000
FOR_EVER = 0xFFFF_FFFF
"""The session expiry interval of a session that never ends (MQTT 5.0 section 3.1.2.11.2)."""


class Limits(msgspec.Struct, frozen=True):
    """Bounds of the broker; sizes in bytes, times in seconds."""

    sessions: int = 10_000
    session_expiry: int = 7 * 86_400
    """The longest that a session without a connection is kept; MQTT 3.1.1 knows no other bound."""
    subscriptions: int = 1_000
    """Of one session."""
    queue: int = 1_000
    """Messages of QoS 1 and 2 that wait for one session."""
    queue_bytes: int = 4 << 20
    total_bytes: int = 64 << 20
    """Of messages in all queues together."""
    in_flight: int = 32
    """Unacknowledged messages towards a client of MQTT 3.1.1; one of MQTT 5 says so itself."""
    receive_maximum: int = 256
    """Unacknowledged messages of QoS 1 and 2 from one client."""
    topic_aliases: int = 32
    """In either direction."""
    retained: int = 10_000
    retained_bytes: int = 64 << 20
    levels: int = 64
    """Levels of a topic or filter: each is a step in the tree of subscriptions."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was published. As JSON it is also what the journal keeps of it."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = NONE
    """What goes on to the subscribers; the expiry is below, an alias is the publisher's alone."""
    expires: int = 0
    """When it is void, microseconds since 1970-01-01 UTC; 0 for never."""
    publisher: str = ""
    """The key of the session that it came from."""

    @property
    def size(self) -> int:
        """About what it takes in memory, in bytes."""
        return len(self.payload) + len(self.topic) + 400

    def expired(self, now: int) -> bool:
        """Whether it is void. By a clock that was never set nothing is."""
        return 0 < self.expires <= now and now > TRUSTED_AFTER

    def outgoing(self, now: int, ids: tuple[int, ...], alias: int | None) -> Properties:
        """The properties for one subscriber: the rest of its life ([MQTT-3.3.2-6]), subscription identifiers, alias."""
        if not self.expires and not ids and alias is None:
            return self.properties
        left = -(-max(0, self.expires - now) // SECOND) if self.expires else None
        return msgspec.structs.replace(self.properties, message_expiry=left, subscription_ids=ids, topic_alias=alias)


def published(
    topic: str, payload: bytes, qos: int, retain: bool, properties: Properties, *, now: int, publisher: str
) -> Message:
    """A message as its PUBLISH, or a will, has it."""
    expiry = properties.message_expiry
    if expiry is not None or properties.topic_alias is not None or properties.will_delay is not None:
        properties = msgspec.structs.replace(properties, message_expiry=None, topic_alias=None, will_delay=None)
    return Message(
        topic, payload, qos, retain, properties, 0 if expiry is None else now + max(1, expiry * SECOND), publisher
    )


def in_devices(topic: str) -> bool:
    """Whether a topic belongs to the journal's tree."""
    return topic.startswith("/devices/") or topic == "/devices"


class Counters(msgspec.Struct):
    """Running totals since the start, but for `connections`: nothing is given up without being counted."""

    connections: int = 0
    """Open now."""
    published: int = 0
    delivered: int = 0
    """PUBLISH packets to subscribers, repeats included."""
    refused: int = 0
    """Messages and subscriptions without permission."""
    expired: int = 0
    """Messages that were void before they could be delivered."""
    dropped_slow: int = 0
    """Messages of QoS 0 to clients that did not read."""
    dropped_full: int = 0
    """Messages of QoS 1 and 2 for which a queue had no room."""
    dropped_large: int = 0
    """Messages larger than their subscriber takes ([MQTT-3.1.2-25])."""
    not_stored: int = 0
    """Messages that the journal did not take; they were not acknowledged as taken."""
