"""Which devices there are, and who may speak for them: a projection of the journal's `Device` records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from devices.credentials import NOBODY, key_matches, new_key
from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, NotFound, nearest
from edge_runtime.events import DEVICE, GATEWAY
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import Device, Stored


class DeviceInfo(msgspec.Struct, frozen=True):
    """What a person may see of a device."""

    id: str
    created: int
    blocked: bool
    last_seen: int | None
    """When it was last heard, microseconds since 1970-01-01 UTC; None if not since the gateway started."""


class Registry:
    """The devices. Made with `await Registry.open(journal, clock)`; changes are durable when their call returns."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self.last_seen: dict[str, int] = {}
        """When a device was last heard, by whoever hears it; not journalled."""
        self._journal = journal
        self._clock = clock
        self._devices: dict[str, Device] = {}
        self._offsets: dict[str, int] = {}
        """Where the newest record of a device stands that was heard of since the opening."""
        self._watchers: list[Callable[[str], None]] = []
        self._changing = asyncio.Lock()

    @classmethod
    async def open(cls, journal: Journal, clock: Clock) -> Registry:
        """The registry as the journal has it, kept up to date from then on."""
        registry = cls(journal, clock)
        early: list[Stored] = []
        opened = False

        def heard(stored: Sequence[Stored]) -> None:
            changes = [s for s in stored if type(s.record) is Device]
            if opened:
                registry._apply(changes)
            else:
                early.extend(changes)

        journal.listen(heard)
        tables = await journal.tables()
        registry._devices = dict(tables.devices)
        registry._apply([s for s in early if s.offset > tables.head])
        opened = True
        return registry

    def watch(self, watcher: Callable[[str], None]) -> None:
        """Have `watcher` called with the id of each device that is added, blocked, unblocked or given a new key."""
        self._watchers.append(watcher)

    def list(self) -> list[DeviceInfo]:
        """All devices, by id."""
        return [
            DeviceInfo(d.id, d.created, d.blocked, self.last_seen.get(d.id))
            for d in sorted(self._devices.values(), key=lambda d: d.id)
        ]

    def verify(self, device: str, key: bytes | str) -> bool:
        """Whether `key` is the device's and the device is not blocked; equal work for devices that do not exist."""
        found = self._devices.get(device)
        raw = key if isinstance(key, bytes) else key.encode("utf-8", "replace")
        matching = key_matches(raw, NOBODY if found is None else found.key_digest)
        return matching and found is not None and not found.blocked

    async def add(self, device: str) -> str:
        """Add a device and return its key as text, which cannot be had a second time."""
        if not DEVICE.fullmatch(device):
            raise EdgeError(
                f"{device!r} cannot be the id of a device",
                hint="Use 1 to 128 of the characters A-Z a-z 0-9 _ . -, the first a letter or digit.",
            )
        if device == GATEWAY:
            raise EdgeError(
                f"'{GATEWAY}' cannot be the id of a device: it is the gateway itself", hint="Choose another."
            )
        async with self._changing:
            if device in self._devices:
                raise EdgeError(
                    f"there is a device '{device}' already",
                    hint=f"Choose another id, or give this device a new key: edge device rotate {device}",
                )
            text, digest = new_key()
            await self._store(Device(device, digest, self._clock.now()))
        return text

    async def rotate(self, device: str) -> str:
        """Give the device a new key, returned as text; the old one is void from then on."""
        async with self._changing:
            found = self._find(device)
            text, digest = new_key()
            await self._store(msgspec.structs.replace(found, key_digest=digest))
        return text

    async def block(self, device: str) -> None:
        """Refuse the device until it is unblocked."""
        await self._set_blocked(device, True)

    async def unblock(self, device: str) -> None:
        """Let the device in again, with the key it had."""
        await self._set_blocked(device, False)

    async def _set_blocked(self, device: str, blocked: bool) -> None:
        async with self._changing:
            found = self._find(device)
            if found.blocked != blocked:
                await self._store(msgspec.structs.replace(found, blocked=blocked))

    def _find(self, device: str) -> Device:
        found = self._devices.get(device)
        if found is None:
            raise NotFound(f"there is no device '{device}'", hint=nearest(device, self._devices))
        return found

    async def _store(self, record: Device) -> None:
        appended = await self._journal.append([record])
        # A journal may answer before it tells its listeners; what was just stored must be known here either way,
        # and is not undone by what is told late.
        self._apply(appended.stored)

    def _apply(self, changes: Sequence[Stored]) -> None:
        for change in changes:
            record = change.record
            if type(record) is Device and self._offsets.get(record.id, -1) < change.offset:
                self._offsets[record.id] = change.offset
                self._devices[record.id] = record
                for watcher in self._watchers:
                    watcher(record.id)
