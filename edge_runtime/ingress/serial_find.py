"""Which serial ports there are, and which of them the gateway is to open."""

from __future__ import annotations

import errno
import glob
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

MAX_PORTS = 256
"""Ports open at a time; the rest waits."""


class SerialRule(msgspec.Struct, frozen=True):
    """Which ports to open, and how. All that is given must fit."""

    name: str
    path: str = ""
    """A pattern such as `/dev/ttyACM*`; empty for any path of a USB port."""
    usb: str = ""
    """`vid:pid` in hex, or `vid`."""
    number: str = ""
    """The USB serial number."""
    baud: int = 115_200
    auth: bool = True
    """Whether boards must prove that they have a key."""


class Listed(Protocol):
    """What pyserial tells of a port."""

    device: str
    vid: int | None
    pid: int | None
    serial_number: str | None


def usb_ports() -> Iterable[Listed]:
    """The ports that the system knows, by pyserial: it reads /sys, without any right of its own."""
    from serial.tools.list_ports import comports

    listed: list[Any] = comports()
    return listed


def find(rules: Sequence[SerialRule], ports: Callable[[], Iterable[Listed]] = usb_ports) -> dict[str, SerialRule]:
    """The paths to open, each with the first rule that fits; it may block for some milliseconds."""
    found: dict[str, SerialRule] = {}
    listed = list(ports()) if any(rule.usb or rule.number for rule in rules) else []
    for rule in rules:
        paths = sorted(glob.glob(rule.path)) if rule.path else []
        if rule.usb or rule.number:
            fitting = [port.device for port in listed if _fits(rule, port)]
            # A stable link such as /dev/serial/by-id/... names the same port.
            real = {str(Path(path).resolve()) for path in paths}
            paths = [path for path in fitting if not rule.path or path in real]
        for path in paths[:MAX_PORTS]:
            if len(found) < MAX_PORTS:
                found.setdefault(str(Path(path).resolve()), rule)
    return found


def _fits(rule: SerialRule, port: Listed) -> bool:
    if port.vid is None or (rule.number and port.serial_number != rule.number):
        return False
    if not rule.usb:
        return True
    vid, _, pid = rule.usb.partition(":")
    return int(vid, 16) == port.vid and (not pid or int(pid, 16) == port.pid)


def why_not(path: str, error: OSError) -> str:
    """What a person is told when a port cannot be opened."""
    number = error.errno
    if number == errno.EACCES:
        return f"{path} cannot be opened: permission denied; add the gateway's user to the group of the port (dialout)"
    if number in (errno.EBUSY, errno.EAGAIN) or "lock" in str(error):
        return f"{path} cannot be opened: another program has it (a terminal, mpremote?)"
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EIO):
        return f"{path} cannot be opened: nothing is connected"
    return f"{path} cannot be opened: {error}"
