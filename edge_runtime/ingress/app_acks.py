"""What a program has published and waits to have acknowledged: bounded, and answered in order ([MQTT-4.6.0-2])."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec

from edge_runtime.proto.mqtt import Reason

MAX_WAITING = 1 << 20
"""Bytes of messages of one connection that wait for the journal before it is read no more."""


class Pending(msgspec.Struct):
    """A PUBLISH of QoS 1 or 2, or one of QoS 0 that the journal is to have."""

    packet_id: int
    qos: int
    size: int
    reason: int | None = None
    """What it is to be acknowledged with, once that is known."""
    dropped: bool = False
    """The gateway could not take it."""

    def settle(self, reason: int | None) -> bool:
        """What became of it, as for `broker.Settle`; whether it was taken."""
        self.reason = Reason.QUOTA_EXCEEDED if reason is None else reason
        self.dropped = self.reason == Reason.QUOTA_EXCEEDED
        return self.reason < Reason.UNSPECIFIED


class Acknowledgements:
    """Those of one connection."""

    def __init__(self, most: int) -> None:
        """`most`: beyond so many the client is not to be read."""
        self._most = most
        self._waiting: deque[Pending] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, packet_id: int) -> bool:
        return any(pending.packet_id == packet_id for pending in self._waiting)

    @property
    def full(self) -> bool:
        """Whether more is not to be read."""
        return len(self._waiting) > self._most or self._bytes > MAX_WAITING

    @property
    def roomy(self) -> bool:
        """Whether reading may go on; half of `full`, so that it does not stop and go with each message."""
        return len(self._waiting) <= self._most // 2 and self._bytes <= MAX_WAITING // 2

    def add(self, pending: Pending) -> None:
        """One more."""
        self._waiting.append(pending)
        self._bytes += pending.size

    def due(self) -> Iterator[Pending]:
        """Take out those that can leave: the first ones, as far as it is known what became of them."""
        while self._waiting and self._waiting[0].reason is not None:
            done = self._waiting.popleft()
            self._bytes -= done.size
            yield done
