"""Commands that a person gives, and what became of them. They take the way of all commands, through the outbox."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec

from devices.registry import Registry
from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, NotFound
from edge_runtime.events import NAME, OPERATOR, Origin
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import Command, CommandEnd, Stored

TTL = 60_000_000
LONGEST_TTL = 7 * 86_400_000_000
MAX_ARGS = 16 << 10
"""Bytes: what a board takes in one piece."""
KEPT = 1000
"""Commands remembered, over all devices; the journal has them all."""
STATES = ("done", "failed", "no such command", "timed out", "replaced")
UNDER_WAY = "under way"


class Order(msgspec.Struct):
    """A command of a person, as far as it has come."""

    id: str
    device: str
    name: str
    args: Any
    created: int
    expires: int
    state: str = UNDER_WAY
    """`under way`, `done`, `failed`, `no such command`, `timed out` or `replaced`."""
    result: Any = None
    """What the device has answered."""
    ended: int = 0


class Orders:
    """Gives commands and follows them. Made with `await Orders.open(...)`."""

    def __init__(self, journal: Journal, registry: Registry, clock: Clock) -> None:
        self._journal = journal
        self._registry = registry
        self._clock = clock
        self._orders: OrderedDict[bytes, Order] = OrderedDict()
        self._ends: dict[bytes, asyncio.Event] = {}
        self._given = 0

    @classmethod
    async def open(cls, journal: Journal, registry: Registry, clock: Clock) -> Orders:
        """Knowing the commands that are under way."""
        orders = cls(journal, registry, clock)
        journal.listen(orders._hear, events=False)
        for command in (await journal.tables()).outbox:
            orders._remember(command)
        return orders

    async def give(self, device: str, name: str, args: Any, ttl: int = TTL) -> Order:
        """Send a command; it is durable when this returns, and ends with a reply or after `ttl` microseconds."""
        self._registry.info(device)
        if not NAME.fullmatch(name):
            hint = "Use 1 to 64 of the characters A-Z a-z 0-9 _ . -, the first a letter or digit."
            raise EdgeError(f"{name[:80]!r} cannot be the name of a command", hint=hint)
        try:
            size = len(msgspec.msgpack.encode(args))
        except (OverflowError, ValueError, RecursionError, TypeError) as error:
            raise EdgeError(f"the arguments cannot be sent: {error}") from error
        if size > MAX_ARGS:
            raise EdgeError(f"the arguments are longer than {MAX_ARGS >> 10} KiB", hint="Send them as configuration.")
        if not 0 < ttl <= LONGEST_TTL:
            raise EdgeError("a command waits for more than no time and for 7 days at most")
        now = self._clock.now()
        self._given += 1
        # Nothing else was given at this moment of both clocks: the id is that of no other command.
        cause = f"{now}/{self._clock.monotonic()}/{self._given}"
        command = Command(device, name, args, now, now + ttl, Origin(OPERATOR, 0, cause, 0))
        self._remember(command)
        try:
            await self._journal.append([command])
        except BaseException:
            self._orders.pop(command.id, None)
            raise
        return self._orders[command.id]

    async def outcome(self, order: str) -> Order:
        """The order once it has ended. Raises NotFound for one that is not remembered."""
        try:
            identity = bytes.fromhex(order)
            found = self._orders[identity]
        except (ValueError, KeyError):
            raise NotFound(f"no command '{order[:40]}' is remembered", hint=f"Try: edge trace {order[:40]}") from None
        if found.state == UNDER_WAY:
            await self._ends.setdefault(identity, asyncio.Event()).wait()
        return found

    def of(self, device: str) -> list[Order]:
        """Those of a device that are remembered, the newest first."""
        return [order for order in reversed(self._orders.values()) if order.device == device]

    def _remember(self, command: Command) -> None:
        if command.origin.flow == OPERATOR and command.id not in self._orders:
            c = command
            self._orders[c.id] = Order(c.id.hex(), c.device, c.name, c.args, c.created, c.expires)
            if len(self._orders) > KEPT:
                dropped, _ = self._orders.popitem(last=False)
                self._over(dropped)

    def _hear(self, stored: Sequence[Stored]) -> None:
        for item in stored:
            record = item.record
            if type(record) is Command:
                self._remember(record)
            elif type(record) is CommandEnd and record.command in self._orders:
                order = self._orders[record.command]
                order.state, order.result, order.ended = STATES[record.status], record.result, record.time
                self._over(record.command)

    def _over(self, command: bytes) -> None:
        waiting = self._ends.pop(command, None)
        if waiting is not None:
            waiting.set()
