"""Commands on their way: sent once they are durable, sent again until the device replies, ended when they expire.

A command with a key replaces the older ones of its device with that key: from then on they are never delivered, and
they end as soon as the journal takes it. Of each device only so many commands are under way, the newest, and fewer in
the air: a device that was away is not flooded when it comes back.
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

WINDOW = 32
"""Commands delivered to a device and not ended; the next goes out when one of them ends."""
MAX_UNDER_WAY = 1000
"""Commands of a device that have not ended; beyond it the oldest are replaced."""
REMIND = 60_000_000
"""How often, at most, that is said of a device, microseconds."""

REPLACED = 4
"""How a command ends that newer ones have replaced; not a status of the wire."""

_log = logging.getLogger("edge.outbox")


class _Pending(msgspec.Struct):
    command: Command
    next: int = 0
    """Monotonic time of the next delivery; 0 until it was delivered once."""
    wait: int = FIRST_REPEAT


class _Line(msgspec.Struct):
    """The commands of one device, oldest first."""

    pending: dict[bytes, _Pending] = {}
    in_the_air: set[bytes] = set()
    """Those that were delivered and have not ended."""
    crowded_out: int = 0
    """Commands that had to make room since that was last said."""
    said: int | None = None
    """Monotonic time."""


class Outbox:
    """Keeps what the journal's outbox holds on its way to the devices."""

    def __init__(self, journal: Journal, outlet: Outlet, clock: Clock, commands: Iterable[Command] = ()) -> None:
        self._journal = journal
        self._outlet = outlet
        self._clock = clock
        self._by_device: dict[str, _Line] = {}
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
        journal.listen(self._hear, events=False)

    def __len__(self) -> int:
        return sum(len(line.pending) for line in self._by_device.values()) + len(self._superseded)

    def listening(self, device: str) -> None:
        """The device has (again) subscribed to its commands: deliver what waits for it, oldest first."""
        line = self._by_device.get(device)
        if line is not None:
            for identity in line.in_the_air:
                line.pending[identity].next = 0
            line.in_the_air.clear()
            self._fill(line)

    async def run(self) -> None:
        """Expire and redeliver, until cancelled."""
        while True:
            await self._clock.sleep(TICK)
            await self.tick()

    async def tick(self) -> None:
        """Look once at every pending command."""
        now = self._clock.now()
        ends = [CommandEnd(command, device, REPLACED, None, now) for command, device in self._superseded.items()]
        for device, line in self._by_device.items():
            self._warn(device, line)
            for pending in line.pending.values():
                if self._expired(pending):
                    ends.append(CommandEnd(pending.command.id, device, EXPIRED, None, now))
                elif pending.next and pending.next <= self._clock.monotonic():
                    self._deliver(line, pending)
            self._fill(line)  # The connection may have been busy when there was room.
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
        # All is taken in before any is sent: of commands with one key that come together only the newest goes out.
        devices: dict[str, None] = {}
        for item in stored:
            record = item.record
            if type(record) is Command:
                self._add(record)
                devices[record.device] = None
            elif type(record) is CommandEnd:
                self._end(record)
                devices[record.device] = None
        for device in devices:
            line = self._by_device.get(device)
            if line is not None:
                self._fill(line)

    def _add(self, command: Command) -> None:
        identity, device = command.id, command.device
        self._superseded.pop(identity, None)
        line = self._by_device.setdefault(device, _Line())
        if command.key:
            older = self._keys.get((device, command.key))
            if older is not None and older != identity:
                self._supersede(line, older)
            self._keys[device, command.key] = identity
        line.in_the_air.discard(identity)
        line.pending[identity] = _Pending(command)
        if len(line.pending) > MAX_UNDER_WAY:
            self._supersede(line, next(iter(line.pending)))
            line.crowded_out += 1

    def _supersede(self, line: _Line, identity: bytes) -> None:
        self._superseded[identity] = self._remove(line, identity).device

    def _remove(self, line: _Line, identity: bytes) -> Command:
        command = line.pending.pop(identity).command
        line.in_the_air.discard(identity)
        if self._keys.get((command.device, command.key)) == identity:
            del self._keys[command.device, command.key]
        return command

    def _end(self, end: CommandEnd) -> None:
        line = self._by_device.get(end.device)
        if line is not None and end.command in line.pending:
            self._remove(line, end.command)
            if not line.pending:
                self._warn(end.device, line)
                del self._by_device[end.device]
        elif self._superseded.pop(end.command, None) is None:
            return
        self.ended += 1
        self.expired += end.status == EXPIRED
        self.replaced += end.status == REPLACED

    def _warn(self, device: str, line: _Line) -> None:
        now = self._clock.monotonic()
        if line.crowded_out and (line.said is None or now - line.said >= REMIND):
            _log.warning(
                "%s has more than %d commands under way: the oldest %d were ended as replaced",
                device,
                MAX_UNDER_WAY,
                line.crowded_out,
            )
            line.crowded_out = 0
            line.said = now

    def _expired(self, pending: _Pending) -> bool:
        return self._clock.now() >= pending.command.expires

    def _fill(self, line: _Line) -> None:
        """Deliver the oldest that were not, as far as the window allows and the device takes them."""
        for identity, pending in line.pending.items():
            if len(line.in_the_air) >= WINDOW:
                return
            if identity in line.in_the_air or self._expired(pending):
                continue
            if not self._deliver(line, pending):
                return

    def _deliver(self, line: _Line, pending: _Pending) -> bool:
        if self._expired(pending) or not self._outlet.deliver(pending.command):
            pending.next = 0
            line.in_the_air.discard(pending.command.id)
            return False
        self.delivered += 1
        line.in_the_air.add(pending.command.id)
        pending.next = self._clock.monotonic() + pending.wait
        pending.wait = min(pending.wait * 2, LONGEST_REPEAT)
        return True
