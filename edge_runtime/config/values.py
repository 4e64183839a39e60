"""The small values of edge.toml: quantities that may have a unit, and addresses."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

import msgspec


class Unit(msgspec.Struct, frozen=True):
    """A quantity that may be written as text with a unit; `plain` is what a bare number counts."""

    name: str
    units: dict[str, int]
    plain: int

    def parse(self, value: Any) -> Any:
        """The quantity in its base unit; a value of another type is handed on for msgspec to refuse."""
        if type(value) is int or type(value) is float:
            return round(value * self.plain) if abs(value) < 2**53 else value
        if type(value) is not str:
            return value
        match = re.fullmatch(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)\s*([A-Za-z]+)", value.strip())
        if match is None or match[2] not in self.units:
            raise ValueError
        return round(float(match[1]) * self.units[match[2]])

    def show(self, value: int) -> str:
        """The exact text with the largest unit that fits."""
        if not value:
            return "0"
        factor, unit = max((f, u) for u, f in self.units.items() if f == 1 or (value and value % f == 0))
        return f'"{value // factor}{unit}"'


SIZE = Unit("size", {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}, 1)
DURATION = Unit(
    "duration",
    {"us": 1, "ms": 1000, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6},
    10**6,
)


def host_and_port(listen: str) -> tuple[str, int]:
    """The parts of "127.0.0.1:1883" or "[::1]:1883". Raises `ValueError`."""
    host, colon, port = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError('expected an address and a port such as "127.0.0.1:1883" or "[::1]:1883"')
    return host, int(port)


def loopback(listen: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    host = host_and_port(listen)[0]
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
