"""What can go wrong with a guest."""

from __future__ import annotations

from edge_runtime.errors import EdgeError


class GuestError(EdgeError):
    """The sandbox's guest cannot be built, compiled or used."""


class Stopped(Exception):
    """The guest did not end by itself; it is dead. `reason` is one of `Failure.reason`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Refusal(Exception):
    """The guest refused an app; `str()` is its problem as JSON."""
