"""The twin of a device: the configuration it is to have, and the state it says it is in.

Both are kept as functions keep theirs: `StateChange` records under a flow's name that no flow can have, so that they
lie in rows of their own beside the snapshot, and are restored, backed up and salvaged with everything else (ADR 0020).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

import cbor2
import msgspec

from devices.registry import Registry
from edge_runtime import wire
from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, WireError
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import Entry, StateChange

KEPT = "$twin"
MAX_CONTENT = 64 << 10
"""Bytes of one configuration or one state."""
VERSIONS = 10
"""Configurations kept of a device, and states."""
AT_HAND = 2000
"""Devices whose index is held in memory."""
MAX_DETAIL = 200

JSON, CBOR, BYTES = "json", "cbor", "bytes"


class Content(msgspec.Struct, frozen=True):
    """What a configuration or state says, and in which form."""

    form: str
    """`json`, `cbor` (plain values, as a board reports them) or `bytes`."""
    data: bytes

    def value(self) -> Any:
        """As plain values; `bytes` for what has no form."""
        if self.form == JSON:
            return msgspec.json.decode(self.data)
        return wire.decode(self.data) if self.form == CBOR else self.data


class Kept(msgspec.Struct, frozen=True):
    """A configuration or state that is kept."""

    number: int
    """The version of a configuration, from 1; of states, a count."""
    time: int
    size: int
    form: str


class Index(msgspec.Struct):
    """What is known of a device's twin without reading what it says."""

    configs: list[Kept] = []
    """The newest last."""
    states: list[Kept] = []
    acknowledged: int = 0
    """The newest version that the device has taken; 0 for none."""
    acknowledged_at: int = 0
    rejected: int = 0
    """The newest version that the device could not take; 0 for none."""
    detail: str = ""
    """Why not, in its words."""

    @property
    def version(self) -> int:
        """The newest version; 0 for none."""
        return self.configs[-1].number if self.configs else 0


class Twin:
    """The twins of all devices; changes are durable when their call returns."""

    def __init__(self, journal: Journal, registry: Registry, clock: Clock) -> None:
        self._journal = journal
        self._registry = registry
        self._clock = clock
        self._indices: OrderedDict[str, Index] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._watchers: list[Callable[[str], None]] = []

    def watch(self, watcher: Callable[[str], None]) -> None:
        """Have `watcher` called with the id of each device that has a new configuration."""
        self._watchers.append(watcher)

    async def index(self, device: str) -> Index:
        """What there is; an empty one for a device without a twin. To be read only."""
        found = self._indices.get(device)
        if found is None:
            kept = (await self._journal.states(KEPT, [device])).get(device, {})
            found = msgspec.json.decode(kept["index"][0], type=Index) if "index" in kept else Index()
            self._remember(device, found)
        return found

    def at_hand(self, device: str) -> Index:
        """The index if it is in memory, else an empty one; for who only watches."""
        return self._indices.get(device, Index())

    async def config(self, device: str, version: int = 0) -> tuple[int, Content] | None:
        """A version of the configuration, by default the newest, and what it says; None where there is none."""
        wanted = version or (await self.index(device)).version
        content = await self._read(_key(device, "config", wanted)) if wanted else None
        return None if content is None else (wanted, content)

    async def states(self, device: str) -> list[tuple[Kept, Content]]:
        """The last states that the device has reported, the newest first."""
        found = []
        for kept in reversed((await self.index(device)).states):
            content = await self._read(_key(device, "state", kept.number))
            if content is not None:
                found.append((kept, content))
        return found

    async def set_config(self, device: str, content: Content) -> int:
        """Give the device a new configuration; returns its version."""
        self._registry.info(device)
        _check(content)
        async with self._lock(device):
            index = msgspec.structs.replace(await self.index(device))
            version = index.version + 1
            index.configs, gone = self._with(index.configs, version, content)
            await self._store(device, index, "config", version, content, gone)
        for watcher in self._watchers:
            watcher(device)
        return version

    async def acknowledge(self, device: str, version: int, refused: bool = False, detail: str = "") -> bool:
        """The device has taken a version, or could not; False for one that it was never given, or told before."""
        async with self._lock(device):
            index = msgspec.structs.replace(await self.index(device))
            if not 0 < version <= index.version:
                return False
            if refused:
                if (index.rejected, index.detail) == (version, detail[:MAX_DETAIL]):
                    return False
                index.rejected, index.detail = version, detail[:MAX_DETAIL]
            elif index.acknowledged == version:
                return False
            else:
                index.acknowledged, index.acknowledged_at = version, self._clock.now()
            await self._store(device, index)
        return True

    async def report(self, device: str, content: Content) -> None:
        """The device says in which state it is."""
        _check(content)
        async with self._lock(device):
            index = msgspec.structs.replace(await self.index(device))
            number = index.states[-1].number + 1 if index.states else 1
            index.states, gone = self._with(index.states, number, content)
            await self._store(device, index, "state", number, content, gone)

    async def forget(self, device: str) -> None:
        """Remove everything that is kept of a device."""
        async with self._lock(device):
            index = await self.index(device)
            keys = [_key(device, "config", kept.number) for kept in index.configs]
            keys += [_key(device, "state", kept.number) for kept in index.states]
            if keys:
                changes = [StateChange(KEPT, key, {"": None}, {}) for key in keys]
                await self._journal.append([*changes, StateChange(KEPT, device, {"index": None}, {})])
            self._indices.pop(device, None)

    def _with(self, kept: Sequence[Kept], number: int, content: Content) -> tuple[list[Kept], Sequence[Kept]]:
        both = [*kept, Kept(number, self._clock.now(), len(content.data), content.form)]
        return both[-VERSIONS:], both[:-VERSIONS]

    async def _store(
        self,
        device: str,
        index: Index,
        what: str = "",
        number: int = 0,
        content: Content | None = None,
        gone: Sequence[Kept] = (),
    ) -> None:
        records = [StateChange(KEPT, device, {"index": _entry(index)}, {})]
        if content is not None:
            records.append(StateChange(KEPT, _key(device, what, number), {"": _entry(content)}, {}))
        records += [StateChange(KEPT, _key(device, what, old.number), {"": None}, {}) for old in gone]
        await self._journal.append(records)
        self._remember(device, index)

    async def _read(self, key: str) -> Content | None:
        kept = (await self._journal.states(KEPT, [key])).get(key)
        return None if kept is None else msgspec.json.decode(kept[""][0], type=Content)

    def _remember(self, device: str, index: Index) -> None:
        self._indices[device] = index
        self._indices.move_to_end(device)
        if len(self._indices) > AT_HAND:
            self._indices.popitem(last=False)

    def _lock(self, device: str) -> asyncio.Lock:
        lock = self._locks.get(device)
        if lock is None:
            lock = self._locks[device] = asyncio.Lock()
        return lock


def json_content(value: Any) -> Content:
    """Plain values as a configuration."""
    return Content(JSON, msgspec.json.encode(value))


def reported(value: Any) -> Content:
    """What a board has reported, decoded from CBOR and held to the wire's limits."""
    return Content(CBOR, cbor2.dumps(value))


def _key(device: str, what: str, number: int) -> str:
    return f"{device}/{what}/{number}"


def _entry(message: msgspec.Struct) -> Entry:
    return msgspec.json.encode(message).decode(), 0


def _check(content: Content) -> None:
    """Raise EdgeError for what cannot be kept, or could not be sent."""
    if len(content.data) > MAX_CONTENT:
        raise EdgeError(f"{len(content.data)} bytes are too many", hint=f"At most {MAX_CONTENT >> 10} KiB are kept.")
    if content.form not in (JSON, CBOR, BYTES):
        raise EdgeError(f"'{content.form[:20]}' is not a form", hint=f"Forms: {JSON}, {BYTES}.")
    if content.form != BYTES:
        try:
            wire.check_plain(content.value())
        except (WireError, msgspec.DecodeError, RecursionError) as error:
            raise EdgeError(f"that is not {content.form.upper()} of plain values: {error}") from error
