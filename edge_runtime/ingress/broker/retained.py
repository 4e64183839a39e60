"""Retained messages: the newest of each topic that asked for it."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.ingress.broker.message import Limits, Message
from edge_runtime.proto import mqtt


class Retained:
    """By topic, within the bounds."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._messages: dict[str, Message] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def has_room(self, message: Message) -> bool:
        """Whether it can be kept."""
        old = self._messages.get(message.topic)
        more = message.size - (0 if old is None else old.size)
        return self._bytes + more <= self._limits.retained_bytes and (
            old is not None or len(self._messages) < self._limits.retained
        )

    def set(self, message: Message) -> None:
        """Keep it in the place of its topic's older one; an empty one only removes that ([MQTT-3.3.1-6])."""
        old = self._messages.pop(message.topic, None)
        if old is not None:
            self._bytes -= old.size
        if message.payload:
            self._messages[message.topic] = message
            self._bytes += message.size

    def matching(self, pattern: str, now: int) -> Iterator[Message]:
        """Those that a filter covers and that are not void."""
        if "+" not in pattern and "#" not in pattern:
            found = self._messages.get(pattern)
            candidates = [] if found is None else [found]
        else:
            candidates = [message for topic, message in self._messages.items() if mqtt.matches(pattern, topic)]
        yield from (message for message in candidates if not message.expired(now))

    def expired(self, now: int) -> list[str]:
        """Topics whose message is void."""
        return [topic for topic, message in self._messages.items() if message.expired(now)]
