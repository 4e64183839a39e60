"""Cuts what arrives as a network might."""

from __future__ import annotations

from collections.abc import Iterator


def cut(data: bytes) -> Iterator[bytes]:
    """The same bytes in pieces of 1 to 16, by what is in them: so an input that fails does so again."""
    at = 0
    while at < len(data):
        size = 1 + data[at] % 16
        yield data[at : at + size]
        at += size
