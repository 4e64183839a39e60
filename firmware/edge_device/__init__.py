"""A board's side of the edge gateway: `from edge_device import Device`."""

import gc

# What is loaded stays: loaded close together, it leaves the rest of a small heap in one piece. `Shell` sets it anew.
gc.threshold(2048)

from .device import Device  # noqa: E402

__version__ = "0.1.0"
__all__ = ["Device"]
