"""A serial port that the gateway leaves to the command line for a while."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.errors import EdgeError
from edge_runtime.planes.client import Client

LONGEST = 1800.0
"""Seconds after which the gateway takes a port back that was never given back."""


@contextlib.contextmanager
def lent(client: Client, port: Path) -> Iterator[None]:
    """Have the gateway leave a port alone meanwhile, in case that its serial door has it."""
    real = Path(os.path.realpath(port))
    client.lend_port(real, LONGEST)
    try:
        yield
    finally:
        with contextlib.suppress(EdgeError):  # a gateway that has stopped has no port
            client.lend_port(real, 0)
