"""Errors with a face for the person: what was wrong, where, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class EdgeError(Exception):
    """The base of every error that a person may see.

    `str(error)` is one sentence that says what was wrong and where; `hint`, where there is one, says what to do.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(EdgeError):
    """A setting is wrong."""


class WireError(EdgeError):
    """A payload does not have a form of `docs/wire.md`."""


class StorageError(EdgeError):
    """The journal cannot be opened, read or written."""


class StorageFull(StorageError):
    """There is no room to store; nothing was stored and nothing may be acknowledged."""


class StaleGeneration(EdgeError):
    """A commit came from a flow that has since been redeployed, rewound, paused or taken over."""


class NotFound(EdgeError):
    """Something was named that does not exist."""


class DeployError(EdgeError):
    """An app was refused; what ran before goes on."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the known name most like `name`, or lists the known ones; empty when there are none."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(names)}." if names else ""
