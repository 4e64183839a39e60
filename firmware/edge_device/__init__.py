"""A board's side of the edge gateway: `from edge_device import Device`."""

from .device import Device

__version__ = "0.1.0"
__all__ = ["Device"]
