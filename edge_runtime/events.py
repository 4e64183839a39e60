"""The value that flows: an event, its identity and its time.

Times are integer microseconds since 1970-01-01 UTC. Identities follow `docs/wire.md`.
"""

from __future__ import annotations

import re
from hashlib import blake2s
from typing import Any

import msgspec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""A kind of event or the name of a command."""

DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
"""A device id."""

GATEWAY = "gateway"
"""Stands for the device in events of the gateway itself, such as the moments of a schedule. No device can be called so,
and none can send the kinds of these events, which begin with `$`."""

TICK = "$tick."
"""Kinds of the gateway's events that say that time has passed, and nothing else, begin with this."""

FOLD = "$fold"
"""The kind of events that stand in no journal: a function is to fold what its window has gathered for an aggregate."""

OPERATOR = "operator"
"""Stands for the flow in the origin of a command that a person has given; flows have a dot in their names."""

MAX_HOPS = 8
"""How many functions may answer to each other's events before the chain is cut."""


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """Where an effect came from: the `index`-th effect of `flow`, in its `epoch`, on the event `cause`.

    The same four values name the same effect, however often it is computed: that is how a repeat is recognised.
    """

    flow: str
    epoch: int
    cause: str
    index: int

    def id(self) -> bytes:
        """16 bytes that identify the effect inside the gateway."""
        return _digest(self.flow, str(self.epoch), self.cause, str(self.index))

    def outside_id(self) -> str:
        """32 hex digits that identify the effect to the outside world: the same in every epoch."""
        return _digest(self.flow, self.cause, str(self.index)).hex()


def _digest(*parts: str) -> bytes:
    return blake2s("\0".join(parts).encode(), digest_size=16).digest()


class Event(msgspec.Struct, frozen=True, array_like=True, tag="event"):
    """Something that happened, on a device or in a function.

    A device's event is identified by (device, boot, seq). An emitted one has an `origin`, an empty `boot` and the
    device of its cause.
    """

    device: str
    boot: bytes
    """8 random bytes of the device's current sequence; empty for emitted events."""
    seq: int
    kind: str
    time: int
    """When it happened, by the device where it knows the time."""
    received: int
    """When the gateway admitted it, by the gateway's clock."""
    data: Any
    hops: int = 0
    """How many functions stand between the device's event and this one."""
    origin: Origin | None = None
    quiet: bool = False
    """Emitted while its flow was catching up: what answers to it sends nothing to the outside either."""
    late: bool = False
    """It comes out of order: it was a dead letter and is tried again."""

    @property
    def id(self) -> str:
        """The identity as text: `device/boot/seq`, or the origin's id in hex."""
        if self.origin is not None:
            return self.origin.id().hex()
        return f"{self.device}/{self.boot.hex()}/{self.seq}"

    @property
    def outside_id(self) -> str:
        """The identity to give to receivers outside the gateway: stable over replays."""
        return self.id if self.origin is None else self.origin.outside_id()
