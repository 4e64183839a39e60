"""What runs an app, by the language it is written in."""

from __future__ import annotations

import asyncio
from pathlib import Path

from edge_runtime.functions.engines import Engine
from edge_runtime.functions.sandbox import modules
from edge_runtime.functions.versions import AppFiles


def _quiet(_what: str, _fraction: float) -> None:
    """A deploy has no progress bar."""


class Languages:
    """Makes the engines of languages other than Python as they are needed; `folder` caches what was built."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def engine(self, content: AppFiles) -> Engine:
        """What runs an app in the language of its file. Raises `DeployError`."""
        entry = content.entry
        code = await asyncio.to_thread(modules.compiled, entry, content.files[entry], self._folder, _quiet)
        return Engine("wasm", "edge_runtime.functions.sandbox.core", (str(code),), shared=False)
