"""What runs an app, by the language it is written in."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from edge_runtime.flows.ports import Unavailable
from edge_runtime.functions.engines import Engine
from edge_runtime.functions.sandbox import javascript, modules
from edge_runtime.functions.versions import AppFiles

_log = logging.getLogger("edge.functions")


class _Stopped(Exception):
    """Thrown through the build of a guest, to end it."""


class Languages:
    """Makes the engines of languages other than Python as they are needed.

    `folder` caches what was built, `stock` is how many virgin instances an executor keeps ready.
    """

    def __init__(self, folder: Path, stock: int) -> None:
        self._folder = folder
        self._stock = stock
        self._stopping = False
        self._said = ""

    def prepare(self) -> None:
        """Tidy up the cache; to be called before any app runs. Blocks for a moment."""
        modules.prune(self._folder)

    def stop(self) -> None:
        """End what is being built, if anything is."""
        self._stopping = True

    def _progress(self, what: str, _fraction: float) -> None:
        """A deploy has no progress bar, but half a minute should leave a trace."""
        if self._stopping:
            raise _Stopped
        if what != self._said:
            self._said = what
            _log.info("%s", what)

    def guest(self, language: str) -> str:
        """Names what an app in a language is checked with: part of its version."""
        return javascript.guest_version() if language == "javascript" else modules.ABI

    async def engine(self, content: AppFiles) -> Engine:
        """What runs an app in the language of its entry. Raises `DeployError`, `GuestError` or `Unavailable`."""
        try:
            return await self._engine(content)
        except _Stopped:
            raise Unavailable("the function platform is stopping") from None

    async def _engine(self, content: AppFiles) -> Engine:
        if content.language == "javascript":
            code = await asyncio.to_thread(javascript.prepared, self._folder, self._progress)
            return Engine("javascript", "edge_runtime.functions.sandbox.javascript", (str(code), str(self._stock)))
        entry = content.entry
        code = await asyncio.to_thread(modules.compiled, entry, content.files[entry], self._folder, self._progress)
        return Engine("wasm", "edge_runtime.functions.sandbox.core", (str(code),), shared=False)
