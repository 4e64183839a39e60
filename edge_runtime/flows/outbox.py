"""Commands on their way: sent once they are durable, sent again until the device replies, ended when they expire.

A command with a key replaces the older ones of its device with that key: from then on they are never delivered, and
they end as soon as the journal takes it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import StorageError
from edge_runtime.flows.ports import Outlet
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import Command, CommandEnd, Stored
from edge_runtime.wire import EXPIRED

TICK = 250_000
"""How often expiry and redelivery are looked at, microseconds."""
FIRST_REPEAT = 2_000_000
LONGEST_REPEAT = 30_000_000
"""A delivered command without a reply is delivered again after the first, doubling up to the longest."""

REPLACED = 4
"""How a command ends that a newer one has replaced; not a status of the wire."""

_log = logging.getLogger("edge.outbox")


class _Pending(msgspec.Struct):
    command: Command
    next: int = 0
    """Monotonic time of the next delivery; 0 until it was delivered once."""
    wait: int = FIRST_REPEAT


class Outbox:
    """Keeps what the journal's outbox holds on its way to the devices."""

    def __init__(self, journal: Journal, outlet: Outlet, clock: Clock, commands: Iterable[Command] = ()) -> None:
        self._journal = journal
        self._outlet = outlet
        self._clock = clock
        self._by_device: dict[str, dict[bytes, _Pending]] = {}
        self.delivered = 0
        """Deliveries, repeats included."""
        self.ended = 0
        self.expired = 0
        self.replaced = 0
        self._keys: dict[tuple[str, str], bytes] = {}
        """The newest command under way of each device and key."""
        self._superseded: dict[bytes, str] = {}
        """Replaced commands whose end is not durable yet, with their devices."""
        for command in commands:
            self._add(command)
        journal.listen(self._hear)

    def __len__(self) -> int:
        return sum(len(pending) for pending in self._by_device.values()) + len(self._superseded)

    def listening(self, device: str) -> None:
        """The device has (again) subscribed to its commands: deliver what waits for it, oldest first."""
        for pending in list(self._by_device.get(device, {}).values()):
            self._deliver(pending)

    async def run(self) -> None:
        """Expire and redeliver, until cancelled."""
        while True:
            await self._clock.sleep(TICK)
            await self.tick()

    async def tick(self) -> None:
        """Look once at every pending command."""
        now = self._clock.now()
        ends = [CommandEnd(command, device, REPLACED, None, now) for command, device in self._superseded.items()]
        for device, waiting in self._by_device.items():
            for pending in waiting.values():
                if self._expired(pending):
                    ends.append(CommandEnd(pending.command.id, device, EXPIRED, None, now))
                elif pending.next and pending.next <= self._clock.monotonic():
                    self._deliver(pending)
        for start in range(0, len(ends), 1000):
            some = ends[start : start + 1000]
            try:
                await self._journal.append(some)
            except StorageError as error:
                _log.warning("expired and replaced commands stay in the outbox for now: %s", error)
                return
            for end in some:
                self._superseded.pop(end.command, None)

    def _hear(self, stored: Sequence[Stored]) -> None:
        added: dict[bytes, _Pending] = {}
        for item in stored:
            record = item.record
            if type(record) is Command:
                added[record.id] = self._add(record)
            elif type(record) is CommandEnd:
                added.pop(record.command, None)
                self._end(record)
        for command, pending in added.items():
            if command not in self._superseded:
                self._deliver(pending)

    def _add(self, command: Command) -> _Pending:
        identity, device = command.id, command.device
        self._superseded.pop(identity, None)
        if command.key:
            older = self._keys.get((device, command.key))
            if older is not None and older != identity:
                del self._by_device[device][older]
                self._superseded[older] = device
            self._keys[device, command.key] = identity
        pending = _Pending(command)
        self._by_device.setdefault(device, {})[identity] = pending
        return pending

    def _end(self, end: CommandEnd) -> None:
        waiting = self._by_device.get(end.device, {})
        pending = waiting.pop(end.command, None)
        if pending is not None:
            key = (end.device, pending.command.key)
            if self._keys.get(key) == end.command:
                del self._keys[key]
        elif self._superseded.pop(end.command, None) is None:
            return
        self.ended += 1
        self.expired += end.status == EXPIRED
        self.replaced += end.status == REPLACED
        if not waiting:
            self._by_device.pop(end.device, None)

    def _expired(self, pending: _Pending) -> bool:
        return self._clock.now() >= pending.command.expires

    def _deliver(self, pending: _Pending) -> None:
        if self._expired(pending) or not self._outlet.deliver(pending.command):
            pending.next = 0
            return
        self.delivered += 1
        pending.next = self._clock.monotonic() + pending.wait
        pending.wait = min(pending.wait * 2, LONGEST_REPEAT)
