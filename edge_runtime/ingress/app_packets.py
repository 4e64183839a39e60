"""What a program is sent, as packets of its version of MQTT: everything else in its connection is the same for both."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.ingress.broker.message import Message
from edge_runtime.proto import mqtt
from edge_runtime.proto.mqtt import Properties, Reason, version5

_NO_LIMIT = 1 << 28
"""More than the largest packet that there can be (MQTT 5.0 section 2.1.4)."""


class Packets:
    """Makes packets for one connection."""

    def __init__(self, packet: mqtt.Connect, topic_aliases: int) -> None:
        """`topic_aliases`: as many topics at most get a short name, if the client knows what that is."""
        self._five = packet.version == 5
        self._aliases: dict[str, int] = {}
        self._max_aliases = min(packet.properties.topic_alias_maximum or 0, topic_aliases)
        self._max_packet = packet.properties.maximum_packet_size or _NO_LIMIT

    def accepted(self, answer: Properties, *, present: bool) -> bytes:
        """The CONNACK of a client that is let in."""
        if self._five:
            return version5.connack(Reason.SUCCESS, answer, session_present=present)
        return mqtt.connack(mqtt.ConnectCode.ACCEPTED, session_present=present)

    def refused(self, reason: int, code: mqtt.ConnectCode) -> bytes:
        """The CONNACK of a client that is not."""
        return version5.connack(reason) if self._five else mqtt.connack(code)

    def farewell(self, reason: int, *, entered: bool) -> bytes:
        """What one of MQTT 5 is told before it is left; in 3.1.1 there is no such packet."""
        return version5.disconnect(reason) if entered else version5.connack(reason)

    def publish(
        self, message: Message, qos: int, retain: bool, ids: tuple[int, ...], packet_id: int, dup: bool, now: int
    ) -> bytes | None:
        """A PUBLISH; None if it would be larger than what the client takes."""
        topic = message.topic
        if not self._five:
            return mqtt.publish(topic, message.payload, qos=qos, packet_id=packet_id, dup=dup, retain=retain)
        alias = self._aliases.get(topic)
        fresh = alias is None and len(self._aliases) < self._max_aliases
        if fresh:
            alias = len(self._aliases) + 1
        packet = version5.publish(
            "" if alias is not None and not fresh else topic,
            message.payload,
            message.outgoing(now, ids, alias),
            qos=qos,
            packet_id=packet_id,
            dup=dup,
            retain=retain,
        )
        if len(packet) > self._max_packet:  # [MQTT-3.1.2-24]
            return None
        if fresh and alias is not None:
            self._aliases[topic] = alias
        return packet

    def acknowledgement(self, first: int, packet_id: int, reason: int = 0) -> bytes:
        """PUBACK, PUBREC, PUBREL or PUBCOMP.

        In 3.1.1 a refusal looks like success ([MQTT-3.3.5-2]); the security log has it.
        """
        return version5.acknowledgement(first, packet_id, reason if self._five else 0)

    def suback(self, packet_id: int, codes: Sequence[int]) -> bytes:
        """SUBACK; in 3.1.1 a refusal has no reason."""
        if self._five:
            return version5.suback(packet_id, list(codes))
        return mqtt.suback(packet_id, [min(code, Reason.UNSPECIFIED) for code in codes])

    def unsuback(self, packet_id: int, codes: Sequence[int]) -> bytes:
        """UNSUBACK; in 3.1.1 it says nothing of the filters."""
        return version5.unsuback(packet_id, list(codes)) if self._five else mqtt.unsuback(packet_id)
