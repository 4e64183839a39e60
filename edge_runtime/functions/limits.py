"""What a function may use up."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_runtime.errors import ConfigError

MIB = 1024 * 1024
MIN_MEMORY = 32 * MIB
"""An interpreter at rest takes 20 MiB of its memory (the embedded standard library included)."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limits of each call of a function; part of an app's version."""

    time: int = 500_000
    """Microseconds for one event."""
    load_time: int = 1_000_000
    """Microseconds for loading the app, imports included."""
    memory: int = 64 * MIB
    """Bytes of memory for the app's interpreter."""
    output: int = 256 * 1024
    """Bytes of effects, returned value and logs of one event."""
    lines: int = 100
    """Log lines of one event."""
    effects: int = 100
    """Commands and emitted events of one event."""
    state: int = 64 * 1024
    """Bytes of state that a function keeps for one partition key."""
    cpu: float = 1.0
    """The share of one core that the app may use in the long run."""
    tier: Literal["sandbox", "native"] = "sandbox"
    """What holds it: WebAssembly in a jailed process, or the jailed process alone."""
    preload: tuple[str, ...] = ()
    """Installed modules that an app of the native tier may import besides the standard library."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("time", 1_000, 60_000_000),
            ("load_time", 10_000, 60_000_000),
            ("memory", MIN_MEMORY, 2048 * MIB),
            ("output", 1024, 16 * MIB),
            ("lines", 0, 10_000),
            ("effects", 0, 10_000),
            ("state", 0, MIB),
            ("cpu", 0.01, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"the limit '{name}' is {value}; it must be between {low} and {high}")
