"""What one connected device has subscribed to, and what is on its way to it: commands, configurations."""

from __future__ import annotations

from typing import Any

from edge_runtime import wire
from edge_runtime.journal.records import Command
from edge_runtime.proto import mqtt

FILTERS = 16
"""Subscriptions of a connection; a board needs one."""
IN_FLIGHT = 32
"""Commands sent and not yet acknowledged; the rest wait in the outbox."""
REFUSED = 0x80


class Subscriptions:
    """A device sees its own tree only, so only its commands can ever come of a subscription."""

    __slots__ = ("_filters", "_in_flight", "_last_id", "_tree")

    def __init__(self, tree: str) -> None:
        """`tree` is what all topics of the device begin with, slash included."""
        self._tree = tree
        self._filters: dict[str, int] = {}
        self._in_flight: dict[int, bytes] = {}
        self._last_id = 0

    def add(self, pattern: str, qos: int) -> int:
        """Subscribe; the SUBACK's code: the QoS granted, at most 1, or `REFUSED`."""
        if not self.allows(pattern) or (pattern not in self._filters and len(self._filters) >= FILTERS):
            return REFUSED
        self._filters[pattern] = min(qos, 1)
        return self._filters[pattern]

    def remove(self, pattern: str) -> None:
        """Unsubscribe."""
        self._filters.pop(pattern, None)

    def allows(self, pattern: str) -> bool:
        """Whether the filter stays within the device's tree."""
        return pattern.startswith(self._tree)

    def configures(self, pattern: str) -> bool:
        """Whether a granted filter may bring the configuration."""
        return mqtt.matches(pattern, f"{self._tree}config")

    def listens(self, pattern: str) -> bool:
        """Whether a granted filter may bring commands."""
        return pattern[len(self._tree) :].partition("/")[0] in ("commands", "+", "#")

    def wants(self, topic: str) -> bool:
        """Whether the device has subscribed to a topic."""
        return any(mqtt.matches(pattern, topic) for pattern in self._filters)

    def config_qos(self) -> int | None:
        """The QoS at which the device wants its configuration; None if it has not subscribed to it."""
        granted = [qos for pattern, qos in self._filters.items() if mqtt.matches(pattern, f"{self._tree}config")]
        return max(granted, default=None)

    def publish_config(self, version: int, content: Any) -> bytes | None:
        """The PUBLISH that brings a configuration; None if the device acknowledges too slowly for it just now."""
        qos = self.config_qos()
        if qos is None or len(self._in_flight) >= IN_FLIGHT:
            return None
        packet_id = 0
        if qos:
            packet_id = self._next_id()
            self._in_flight[packet_id] = b"config"
        return mqtt.publish(f"{self._tree}config", wire.encode_config(version, content), qos=qos, packet_id=packet_id)

    def publish(self, command: Command) -> bytes | None:
        """The PUBLISH that brings a command; None if the device has not subscribed to it or acknowledges too slowly.

        Empty if the command is on its way already: sending it twice on one connection would not bring it sooner.
        """
        topic = f"{self._tree}commands/{command.name}"
        granted = [qos for pattern, qos in self._filters.items() if mqtt.matches(pattern, topic)]
        if not granted:
            return None
        if command.id in self._in_flight.values():
            return b""
        qos = max(granted)  # [MQTT-3.3.5-1]
        packet_id = 0
        if qos:
            if len(self._in_flight) >= IN_FLIGHT:
                return None
            packet_id = self._next_id()
            self._in_flight[packet_id] = command.id
        message = wire.CommandMessage(command.id, command.expires, command.name, command.args, command.cause)
        return mqtt.publish(topic, wire.encode_command(message), qos=qos, packet_id=packet_id)

    def acknowledged(self, packet_id: int) -> None:
        """The device has taken a command (which is not yet a reply to it)."""
        self._in_flight.pop(packet_id, None)

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65_535 + 1
            if self._last_id not in self._in_flight:  # [MQTT-2.3.1-2]
                return self._last_id
