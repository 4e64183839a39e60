"""Several doors seem one."""

from __future__ import annotations

from edge_runtime.events import Origin
from edge_runtime.ingress.doors import Doors
from edge_runtime.journal.records import Command


class Shut:
    def __init__(self, *devices: str) -> None:
        self.devices = devices
        self.delivered: list[Command] = []

    def connected(self) -> tuple[str, ...]:
        return self.devices

    def deliver(self, command: Command) -> bool:
        self.delivered += [command] * (command.device in self.devices)
        return command.device in self.devices


def test_a_command_goes_through_the_first_door_that_has_its_device() -> None:
    first, second, third = Shut("a"), Shut("b", "c"), Shut("c")
    doors = Doors([first, second])
    doors.add(third)
    assert doors.connected() == {"a", "b", "c"}
    assert [doors.deliver(Command(device, "fan", None, 0, 1, Origin("f", 0, "c", 0))) for device in "abcd"] == [
        *(True, True, True),
        False,
    ]
    assert [len(door.delivered) for door in (first, second, third)] == [1, 2, 0]
