"""The `app` profile of the MQTT door: ordinary MQTT for programs, as one thing to be given to the door."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError
from edge_runtime.ingress.broker.broker import Broker
from edge_runtime.ingress.broker.devices import DeviceTree, Known
from edge_runtime.ingress.broker.message import Counters, Limits
from edge_runtime.ingress.broker.users import User, UserRow
from edge_runtime.journal.interface import Journal
from edge_runtime.throttle import ThrottledLog


class Apps:
    """Broker, users and the journal's tree. Made with `await Apps.open(...)`."""

    def __init__(self, broker: Broker, tree: DeviceTree) -> None:
        self.broker = broker
        self.tree = tree

    @classmethod
    async def open(
        cls,
        journal: Journal,
        devices: Known,
        clock: Clock,
        log: Callable[[str], None],
        limits: Limits | None = None,
    ) -> Apps:
        """With all that the journal has of them; `devices` knows which there are, `log` takes lines."""
        broker = await Broker.open(journal, clock, ThrottledLog(log, clock), limits)
        return cls(broker, DeviceTree(broker, journal, devices, clock))

    @property
    def counters(self) -> Counters:
        """The broker's."""
        return self.broker.counters

    def new_client_id(self) -> str:
        """For a client that has none; random, so that it meets no other's session."""
        return f"auto-{secrets.token_hex(8)}"

    def lets_in(self, name: str, key: bytes) -> bool:
        """Whether this is a user with its key."""
        return name in self.broker.users and self.broker.users.verify(name, key)

    async def add(self, name: str, publish: list[str], subscribe: list[str]) -> str:
        """As `Users.add`; no device may have the name, since the name decides who is asked for the key."""
        if name in self.tree.devices:
            raise EdgeError(f"there is a device '{name}', so no user can be called so", hint="Choose another name.")
        return await self.broker.users.add(name, publish, subscribe)

    async def allow(self, name: str, publish: list[str], subscribe: list[str]) -> UserRow:
        """As `Users.allow`; subscriptions that are not permitted any more bring nothing from now on."""
        return self._row(await self.broker.users.allow(name, publish, subscribe))

    async def remove(self, name: str) -> None:
        """Forget a user: its connections are closed, and its sessions end."""
        await self.broker.users.remove(name)
        for session in self.broker.sessions.end_of(name):
            if session.link is not None:
                session.link.drop("its user was removed")

    def rows(self) -> list[UserRow]:
        """The users, for people."""
        return [self._row(user) for user in self.broker.users.all()]

    def _row(self, user: User) -> UserRow:
        links = sum(session.link is not None for session in self.broker.sessions.of(user.name))
        return UserRow(user.name, user.created, user.publish, user.subscribe, links)

    def tick(self) -> None:
        """As `Broker.tick`."""
        self.broker.tick()

    async def stop(self) -> None:
        """Have everything stored that was noted."""
        await self.broker.store.settle()


def figures(counters: Counters) -> dict[str, int]:
    """For the instrumentation plane."""
    return msgspec.structs.asdict(counters)
