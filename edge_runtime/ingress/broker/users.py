"""Who may use the broker: named credentials of programs, each with the topics that it may use."""

from __future__ import annotations

import asyncio
import re

import msgspec

from devices.credentials import NOBODY, new_key, same, token_digest
from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, NotFound, StorageError, nearest
from edge_runtime.ingress.broker.store import USER, Store, kept
from edge_runtime.ingress.broker.tree import covers
from edge_runtime.proto import mqtt
from edge_runtime.proto.mqtt.topics import check_filter, shared

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MAX_USERS = 1_000
MAX_PATTERNS = 100
RESPONSES = "responses"
"""Below `responses/NAME/` every user may subscribe: where the answers to its requests go (MQTT 5.0 section 4.10)."""


class User(msgspec.Struct, frozen=True):
    """A program that may connect."""

    name: str
    digest: bytes
    created: int
    publish: list[str] = []
    """Filters of the topics that it may publish on."""
    subscribe: list[str] = []
    """Filters that it may subscribe to, or to anything within them."""

    def may_publish(self, topic: str) -> bool:
        """Whether it may publish on a topic."""
        return any(mqtt.matches(pattern, topic) for pattern in self.publish)

    def may_subscribe(self, pattern: str) -> bool:
        """Whether it may subscribe to a filter, which may be a shared one."""
        group = shared(pattern)
        wanted = pattern if group is None else group[1]
        return any(covers(permitted, wanted) for permitted in [*self.subscribe, f"{RESPONSES}/{self.name}/#"])

    def may_receive(self, topic: str) -> bool:
        """Whether a message on this topic may reach it."""
        return self.may_subscribe(topic)


class UserRow(msgspec.Struct, frozen=True):
    """What a person may see of a user."""

    name: str
    created: int
    publish: list[str]
    subscribe: list[str]
    connections: int = 0


class Users:
    """The users. Changes are durable when their call returns."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._users: dict[str, User] = {}

    async def load(self) -> None:
        """Read them from the journal."""
        async for name, entries in self._store.load(USER):
            self._users[name] = msgspec.json.decode(entries["user"][0], type=User)

    def __contains__(self, name: object) -> bool:
        return name in self._users

    def get(self, name: str) -> User | None:
        """One of them."""
        return self._users.get(name)

    def all(self) -> list[User]:
        """All of them, by name."""
        return [self._users[name] for name in sorted(self._users)]

    def verify(self, name: str, key: bytes) -> bool:
        """Whether `key` is the user's; equal work for users that do not exist."""
        user = self._users.get(name)
        digest = token_digest(key)
        matching = same(NOBODY[::-1] if digest is None else digest, NOBODY if user is None else user.digest)
        return matching and user is not None

    async def add(self, name: str, publish: list[str], subscribe: list[str]) -> str:
        """Add a user and return its key as text, which cannot be had a second time."""
        if not NAME.fullmatch(name):
            raise EdgeError(
                f"{name!r} cannot be the name of a user",
                hint="Use 1 to 64 of the characters A-Z a-z 0-9 _ . -, the first a letter or digit.",
            )
        if name in self._users:
            raise EdgeError(
                f"there is a user '{name}' already", hint=f"Change what it may do: edge user allow {name} --publish ..."
            )
        if len(self._users) >= MAX_USERS:
            raise EdgeError(f"there are {MAX_USERS} users already, which is the most")
        text, digest = new_key()
        await self._put(User(name, digest, self._clock.now(), _checked(publish), _checked(subscribe)))
        return text

    async def allow(self, name: str, publish: list[str], subscribe: list[str]) -> User:
        """Give a user these topics in the place of those that it had."""
        user = msgspec.structs.replace(self._find(name), publish=_checked(publish), subscribe=_checked(subscribe))
        await self._put(user)
        return user

    async def remove(self, name: str) -> None:
        """Forget a user."""
        self._find(name)
        await self._write(name, None)
        del self._users[name]

    def _find(self, name: str) -> User:
        found = self._users.get(name)
        if found is None:
            raise NotFound(f"there is no user '{name}'", hint=nearest(name, self._users))
        return found

    async def _put(self, user: User) -> None:
        await self._write(user.name, user)
        self._users[user.name] = user

    async def _write(self, name: str, user: User | None) -> None:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._store.put({USER + name: {"user": None if user is None else kept(user)}}, future.set_result)
        if not await future:
            raise StorageError("the journal could not store the user", hint="See the gateway's log.")


def _checked(patterns: list[str]) -> list[str]:
    if len(patterns) > MAX_PATTERNS:
        raise EdgeError(f"{len(patterns)} topic filters are too many for a user; {MAX_PATTERNS} are the most")
    for pattern in patterns:
        try:
            check_filter(pattern)
        except mqtt.ProtocolViolation as violation:
            raise EdgeError(
                f"{pattern!r} is not a topic filter: {violation}", hint="For example home/# or home/+/temperature."
            ) from None
        if len(pattern) > 1024 or pattern.startswith("$share/"):
            raise EdgeError(f"{pattern[:60]!r} cannot be permitted", hint="Name the topics themselves.")
    return sorted(set(patterns))
