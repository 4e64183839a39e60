"""What boards run, and the roll-outs by which they get something else: the API's messages, and what is behind."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec

from devices.ota import Ota
from devices.registry import Registry
from devices.release_store import Package, Release
from devices.releases import File
from devices.rollouts import BAD, CANARY, Rollout, Stand
from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, NotFound

SHOWN = 12
"""Digits of an id."""
OTHER = "another release"
"""What a device runs that has reported an id which this gateway does not know."""
FLASHED = "as flashed"


class ReleaseRow(msgspec.Struct):
    """One release."""

    id: str
    name: str
    version: str
    size: int
    files: list[File]
    boards: list[str]
    micropython: str
    health: int
    proof: str
    signer: str
    taken: int
    running: int
    """Devices that have said that they run it."""


class RollOut(msgspec.Struct, forbid_unknown_fields=True):
    """Begin to give devices a release."""

    name: str
    """Of the release, or the beginning of its id."""
    version: str = ""
    """Empty: the newest."""
    devices: list[str] = []
    tags: dict[str, str] = {}
    """All devices with these tags."""
    all: bool = False
    """All devices that have ever reported what they run."""
    first: list[str] = []
    """The first step, by name."""
    canary: int = 0
    """The first step in per cent; 0 for 10 or, where `first` names some, for those."""
    steps: list[int] = []
    """Those after it, in per cent of all."""
    tolerate: int = 0
    """How many may fail without pausing it."""
    soak: int = 0
    """Microseconds that a step has to stand before the next one begins."""


class Resume(msgspec.Struct, forbid_unknown_fields=True):
    """Go on with a roll-out."""

    go_on: bool = False
    """With its next step, though devices of this one are missing."""


class Member(msgspec.Struct):
    """A device in a roll-out."""

    device: str
    stand: str
    """`waits`, `due`, `fetching`, `on trial`, `runs it`, `failed` or `rolled back`."""
    connected: bool
    detail: str = ""
    done: int = 0
    total: int = 0


class RolloutRow(msgspec.Struct):
    """One roll-out."""

    number: int
    release: str
    name: str
    version: str
    state: str
    """`running`, `paused`, `aborted` or `done`."""
    why: str
    step: int
    """From 1."""
    steps: list[int]
    created: int
    ended: int
    counts: dict[str, int]
    """Devices by where they stand."""
    members: list[Member] = []
    """Empty in a list of several."""


class FleetRow(msgspec.Struct):
    """What a device runs."""

    device: str
    connected: bool
    runs: str
    """A release by name and version, `as flashed`, `another release`, or empty for one that never said."""
    state: str
    """`idle`, `fetching`, `on trial`, `failed`, `rolled back`, or empty."""
    detail: str
    platform: str
    reported: int
    rollout: int
    """The roll-out that it is in just now; 0 for none."""


class Fleet:
    """Everything that can be asked about releases and roll-outs, and done with them."""

    def __init__(self, ota: Ota, registry: Registry, clock: Clock) -> None:
        self.ota = ota
        self._registry = registry
        self._clock = clock

    def releases(self) -> list[ReleaseRow]:
        """All releases."""
        running = Counter(told.running for device, told in self.ota.reported().items() if device in self._registry)
        return [_row(release, running[release.id]) for release in self.ota.store.all()]

    async def take_in(self, package: Package) -> ReleaseRow:
        """Keep a release, and sign it where nobody has."""
        release = await asyncio.to_thread(self.ota.store.take_in, package, self._clock.now())
        return _row(release, 0)

    async def package(self, name: str, version: str) -> Package:
        """A release to take to another gateway."""
        return await asyncio.to_thread(self.ota.store.package, self.ota.store.find(name, version).id)

    async def remove(self, name: str, version: str) -> list[ReleaseRow]:
        """Remove a release from this gateway."""
        await self.ota.remove(self.ota.store.find(name, version).id)
        return self.releases()

    async def roll_out(self, request: RollOut) -> RolloutRow:
        """Begin a roll-out."""
        release = self.ota.store.find(request.name, request.version)
        devices = self._meant(request)
        if not 0 <= request.canary <= 100:
            raise EdgeError("the canary is per cent: from 1 to 100")
        share = request.canary or (0 if request.first else CANARY)
        rollout = await self.ota.roll_out(
            release.id,
            devices,
            request.first,
            canary=-(-len(devices) * share // 100),
            shares=request.steps,
            tolerated=request.tolerate,
            soak=request.soak,
        )
        return self.rollout(rollout.number)

    def _meant(self, request: RollOut) -> list[str]:
        found = {*request.devices, *request.first}
        if request.tags:
            found |= {d.id for d in self._registry.list() if request.tags.items() <= d.tags.items()}
        if request.all:
            found |= {device for device in self.ota.reported() if device in self._registry}
        if (request.tags or request.all) and not found:
            what = "has these tags" if request.tags else "has reported what it runs"
            raise NotFound(f"no device {what}", hint="See: edge device list, edge ota fleet")
        return sorted(found)

    def rollouts(self) -> list[RolloutRow]:
        """All that are remembered, the newest first."""
        return [self._rollout(rollout) for rollout in self.ota.rollouts()]

    def rollout(self, number: int) -> RolloutRow:
        """One of them, with its devices; 0 for the newest."""
        rollout = self.ota.rollout(number)
        row = self._rollout(rollout)
        connected = frozenset(self.ota.connected())
        for device, stand in self.ota.stands(rollout):
            told = self.ota.told(device)
            bad = told.detail if stand in BAD else ""
            under_way = (told.done, told.total) if stand is Stand.FETCHING else (0, 0)
            row.members.append(Member(device, stand.value, device in connected, bad, *under_way))
        return row

    def _rollout(self, r: Rollout) -> RolloutRow:
        counts = Counter(stand.value for _, stand in self.ota.stands(r))
        return RolloutRow(
            r.number,
            r.release,
            r.name,
            r.version,
            r.state,
            r.why,
            r.step + 1,
            r.steps,
            r.created,
            r.ended,
            dict(counts),
        )

    def rows(self) -> list[FleetRow]:
        """What the devices run, by id."""
        known = {release.id: f"{release.manifest.name} {release.manifest.version}" for release in self.ota.store.all()}
        connected = frozenset(self.ota.connected())
        under_way = {d: r.number for r in self.ota.rollouts() if r.state in ("running", "paused") for d in r.devices}
        reported = self.ota.reported()
        rows = []
        for info in self._registry.list():
            told = reported.get(info.id)
            if told is None:
                rows.append(FleetRow(info.id, info.id in connected, "", "", "", "", 0, under_way.get(info.id, 0)))
                continue
            runs = known.get(told.running, OTHER) if told.running else FLASHED
            number = under_way.get(info.id, 0)
            rows.append(
                FleetRow(info.id, info.id in connected, runs, told.state, told.detail, told.platform, told.at, number)
            )
        return rows


def _row(release: Release, running: int) -> ReleaseRow:
    m = release.manifest
    return ReleaseRow(
        release.id,
        m.name,
        m.version,
        m.size,
        m.files,
        m.boards,
        m.micropython,
        m.health,
        m.proof,
        release.signer,
        release.taken,
        running,
    )
