"""What an app runs under, and what is given to it with its events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edge._state import Stores


@dataclass(slots=True, frozen=True)
class OutputLimits:
    """What one call may put out."""

    output: int = 256 * 1024
    """Bytes of effects, returned value and logs together."""
    lines: int = 100
    """Log lines, printed ones included."""
    effects: int = 100
    """Commands and emitted events together."""
    state: int = 64 * 1024
    """Bytes of state of one partition key: names and values as JSON."""


@dataclass(slots=True, frozen=True)
class Terms:
    """What the gateway agreed to when the app was loaded."""

    limits: OutputLimits = field(default_factory=OutputLimits)
    grants: tuple[str, ...] = ()
    """What the operator has approved, each as `kind:what` or `files`."""
    files: dict[str, str] = field(default_factory=dict)
    """The app's own files that are not Python, in base64 by their path; with the grant `files`."""

    def allow(self, kind: str, what: str) -> bool:
        """Whether something was granted; a grant that ends with `*` stands for all that begin like it."""
        for grant in self.grants:
            head, _, pattern = grant.partition(":")
            if head == kind and (what.startswith(pattern[:-1]) if pattern.endswith("*") else what == pattern):
                return True
        return False


@dataclass(slots=True)
class Given:
    """What comes with the events of a batch."""

    states: Stores = field(default_factory=dict)
    """What the function keeps, by partition key."""
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By event id: the answers to the requests that it has made so far, in order."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Those that were granted, by name."""
