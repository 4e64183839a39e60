"""Tokens of apps: who may send requests to their endpoints. A projection of the journal's `AppToken` records."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from hmac import compare_digest
from secrets import token_bytes, token_urlsafe

from edge_runtime.clock import Clock
from edge_runtime.journal.interface import Journal, Tables
from edge_runtime.journal.records import AppToken, Stored

TOKEN_BYTES = 32


class Tokens:
    """An app has one token at a time: 256 random bits, of which only a digest is kept."""

    def __init__(self, journal: Journal, tables: Tables, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._digests = {record.app: record.digest for record in tables.tokens.values()}
        self._nobody = token_bytes(32)
        journal.listen(self._hear, events=False)

    async def create(self, app: str) -> str:
        """Give an app a new token, shown this once; its old one is void from then on. Raises StorageError."""
        text = token_urlsafe(TOKEN_BYTES)
        await self._journal.append([AppToken(app, sha256(text.encode()).digest(), self._clock.now())])
        return text

    def matches(self, app: str, text: str) -> bool:
        """Whether that is the app's token; equal work for an app without one."""
        digest = self._digests.get(app, self._nobody)
        return compare_digest(sha256(text.encode("utf-8", "replace")).digest(), digest)

    def _hear(self, stored: Sequence[Stored]) -> None:
        for item in stored:
            if type(item.record) is AppToken:
                self._digests[item.record.app] = item.record.digest
