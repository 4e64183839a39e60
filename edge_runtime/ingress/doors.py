"""All front doors together, for whoever has something for a device and does not know where it came in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from edge_runtime.journal.records import Command


class Door(Protocol):
    """A front door, from behind."""

    def connected(self) -> Iterable[str]:
        """The devices that can be reached through it just now."""
        ...

    def deliver(self, command: Command) -> bool:
        """As `flows.ports.Outlet.deliver`."""
        ...


@runtime_checkable
class Tells(Protocol):
    """A door through which a device can be told something that is no command."""

    def tell(self, device: str, topic: str, payload: bytes) -> bool:
        """Send a device a message on a topic below its own; True if it is on its way."""
        ...


class Doors:
    """Implements `flows.ports.Outlet` over all doors: the first that has the device delivers."""

    def __init__(self, doors: Sequence[Door] = ()) -> None:
        self._doors = list(doors)

    def add(self, door: Door) -> None:
        """From now on it is asked too."""
        self._doors.append(door)

    def connected(self) -> frozenset[str]:
        """The devices that can be reached just now."""
        return frozenset(device for door in self._doors for device in door.connected())

    def deliver(self, command: Command) -> bool:
        """As `Outlet.deliver`."""
        return any(door.deliver(command) for door in self._doors)

    def tell(self, device: str, topic: str, payload: bytes) -> bool:
        """As `Tells.tell`, through the first door that has the device."""
        return any(door.tell(device, topic, payload) for door in self._doors if isinstance(door, Tells))
