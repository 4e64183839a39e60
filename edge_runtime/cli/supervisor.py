"""What a service manager is told of the gateway: sd_notify(3), over the datagram socket that it names."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping

BEATS = 3
"""Signs of life within the time that the watchdog allows: one or two may be late on a machine that is busy."""


class Supervisor:
    """Tells systemd, or whoever speaks its protocol, where the gateway stands; nobody, where there is none."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        micros = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._limit = int(micros) / 1e6 if micros.isdecimal() and mine else 0.0

    def tell(self, *lines: str) -> None:
        """Say it, such as `READY=1`. That nobody listens any more is no reason to end."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
                to.setblocking(False)
                to.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass

    async def beat(self) -> None:
        """Give signs of life from the event loop until cancelled: a loop that is stuck gives none, and is ended."""
        while self._limit:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self._limit / BEATS)
