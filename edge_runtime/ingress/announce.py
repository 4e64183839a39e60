"""The gateway makes itself known on the local network: multicast DNS (RFC 6762) with service discovery (RFC 6763).

Boards and programs find it as `_edge._tcp`, MQTT clients as `_mqtt._tcp`. What is announced is where it listens, never
who may come in; whoever believes an announcement still has to check the certificate against the CA that it has pinned.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_runtime.errors import EdgeError

if TYPE_CHECKING:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

SERVICES = ("_edge._tcp.local.", "_mqtt._tcp.local.")


class Announcer:
    """Made with `await Announcer.start(...)`; `stop` takes the announcement back."""

    def __init__(self, zeroconf: AsyncZeroconf, services: Sequence[ServiceInfo]) -> None:
        self._zeroconf = zeroconf
        self._services = services

    @classmethod
    async def start(
        cls, name: str, port: int, addresses: Sequence[str], *, tls: bool, interfaces: Sequence[str] | None = None
    ) -> Announcer:
        """Announce the MQTT door of the gateway `name` at `port`; `addresses` are this machine's on the network.

        Raises EdgeError where the package is missing, or the network does not let us.
        """
        try:
            from zeroconf import Error, IPVersion, ServiceInfo
            from zeroconf.asyncio import AsyncZeroconf
        except ImportError as error:
            hint = "pip install 'edge-runtime[lan]', or set gateway.announce to false."
            raise EdgeError("the package zeroconf, which announces the gateway, is not installed", hint=hint) from error
        instance = re.sub(r"[^A-Za-z0-9_-]", "-", name)
        texts = {"gateway": name, "tls": "1" if tls else "0", "path": ""}
        packed = [socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text) for text in addresses]
        services = [
            ServiceInfo(
                service,
                f"{instance}.{service}",
                port=port,
                addresses=packed,
                properties=texts,
                server=f"{socket.gethostname().partition('.')[0] or 'edge'}.local.",
            )
            for service in SERVICES
        ]
        try:
            chosen = list(interfaces) if interfaces is not None else list(addresses)
            zeroconf = AsyncZeroconf(interfaces=chosen, ip_version=IPVersion.All)
        except (OSError, Error) as error:
            raise EdgeError(f"the gateway cannot announce itself: {error}") from error
        announcer = cls(zeroconf, services)
        try:
            for service in services:
                # Another gateway of this name may be there: then ours is called name-2, and so on.
                await (await zeroconf.async_register_service(service, allow_name_change=True))
        except (OSError, Error) as error:
            await announcer.stop()
            raise EdgeError(f"the gateway cannot announce itself: {error}") from error
        return announcer

    async def stop(self) -> None:
        """Say goodbye."""
        await self._zeroconf.async_unregister_all_services()
        await self._zeroconf.async_close()
