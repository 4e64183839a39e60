"""Identities for events whose sender gives none: so that they are events like all others.

They cannot recognise a repetition, only a sender can: who gives `b` (its boot, 16 hex digits) and `s` (its sequence)
with a request has it taken once however often it is sent.
"""

from __future__ import annotations

import re

from edge_runtime.errors import WireError

BOOT = re.compile(r"[0-9A-Fa-f]{16}")
_SEQUENCE = re.compile(r"[0-9]{1,18}")


class Stamps:
    """Numbers the events of each device, at all doors, under one boot: 8 bytes, other ones at each start."""

    def __init__(self, boot: bytes) -> None:
        self._boot = boot
        self._next: dict[str, int] = {}

    def take(self, device: str, count: int) -> tuple[bytes, int]:
        """The boot and the first sequence for `count` events of a device that is known."""
        seq = self._next.get(device, 0)
        self._next[device] = seq + count
        return self._boot, seq


def given(boot: str | None, seq: str | None) -> tuple[bytes, int] | None:
    """The identity in the parameters `b` and `s`; None without them. Raises WireError."""
    if boot is None and seq is None:
        return None
    if boot is None or seq is None:
        raise WireError("'b' (boot) and 's' (sequence) are given both or not at all")
    if not BOOT.fullmatch(boot):
        raise WireError("'b' (boot) is not 16 hexadecimal digits")
    if not _SEQUENCE.fullmatch(seq):
        raise WireError("'s' (sequence) is not a decimal number")
    return bytes.fromhex(boot), int(seq)
