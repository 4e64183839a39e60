"""Waiting for something that another process does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
    """Return once `condition()` is true; TimeoutError, which says `what` did not happen, after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"in {timeout} s it did not happen that {what}")
        await asyncio.sleep(0.02)
