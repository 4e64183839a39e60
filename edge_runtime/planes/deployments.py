"""Apps on their way into the gateway and out of it: deploys, rollbacks, and what is live in which version."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, NotFound, nearest
from edge_runtime.flows.flow import Flow
from edge_runtime.flows.flows import Flows
from edge_runtime.flows.ports import Unavailable
from edge_runtime.flows.replay import Replayed
from edge_runtime.flows.timers import Timers
from edge_runtime.grants import Grants, sentence
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import AppVersion
from edge_runtime.manifest import Endpoint, Manifest, Route, Schedule, StreamTrigger, Trigger, flows_of
from edge_runtime.planes.control import FlowControl
from edge_runtime.planes.explanations import Explanation, duration, explain, in_words
from edge_runtime.planes.messages import Deploy, Deployed, TriggerRow
from edge_runtime.planes.rehearsal import AppReplay, AppReplayed, Rehearsal
from edge_runtime.streamspec import Stream

if TYPE_CHECKING:  # the command line, which needs the messages here, should not wait for the sandbox
    from edge_runtime.functions.platform import Checked, FunctionPlatform

MAX_EARLIER = 20
"""Versions that an app's record remembers as live before it."""

_log = logging.getLogger("edge.apps")
_security = logging.getLogger("edge.security")

MakeFlows = Callable[[Manifest, str], list[Flow]]
"""The flows of an app's version. Raises `DeployError` where there cannot be such flows."""


class Rollback(msgspec.Struct, forbid_unknown_fields=True):
    """Put an earlier version of an app live; empty for the one before the live one."""

    to: str = ""
    grants: list[str] = []
    """As in `Deploy`: for a version that was never live."""


class VersionRow(msgspec.Struct):
    """One stored version of an app."""

    version: str
    stored: int
    """When it was deployed last."""
    state: str
    """`live`, `rollback` (where a rollback goes), or empty."""
    since: int | None
    """When it went live; None where that is no longer known."""


class Deployments:
    """All apps. `make` makes flows, `known` are the newest records of the apps; `resume` brings them up."""

    def __init__(
        self,
        platform: FunctionPlatform,
        flows: Flows,
        journal: Journal,
        clock: Clock,
        control: FlowControl,
        make: MakeFlows,
        known: Mapping[str, AppVersion],
        timers: Timers,
    ) -> None:
        self._platform = platform
        self._flows = flows
        self._journal = journal
        self._clock = clock
        self._control = control
        self._make = make
        self._timers = timers
        self._rehearsal = Rehearsal(flows, journal, clock, platform)
        self._records = dict(known)
        self._changing = asyncio.Lock()
        self._borrowed: Counter[tuple[str, str]] = Counter()
        self._kept_whole = 0
        self.live: dict[str, tuple[AppVersion, Manifest]] = {}
        """The apps that run, by name."""
        self.broken: dict[str, str] = {}
        """Apps that do not run, and why."""

    def names(self) -> list[str]:
        """All apps, whether they run or not."""
        return sorted(self._records)

    def record(self, app: str) -> AppVersion:
        """The newest record of an app, whether it runs or not. Raises `NotFound`, which names the nearest app."""
        found = self._records.get(app)
        if found is None:
            raise NotFound(f"there is no app '{app}'", hint=nearest(app, self._records))
        return found

    async def resume(self) -> None:
        """Bring up what was live when the gateway ended. An app that cannot be is told apart, and the others run."""
        for record in list(self._records.values()):
            try:
                manifest = await self._platform.load(record.app, record.version)
                flows = self._make(manifest, record.version)
            except EdgeError as error:
                # This one's events wait in the journal until it is deployed again, or rolled back.
                _log.error("app %s does not run: %s %s", record.app, error, error.hint)
                self.broken[record.app] = str(error)
                continue
            self.live[record.app] = (record, manifest)
            for flow in flows:
                await self._flows.install(flow, resume=True)
            await self._remove_others(manifest)

    async def deploy(self, request: Deploy) -> Deployed:
        """Check an app in the sandbox and, unless only that was asked, put it live; the old one serves until then."""
        checked = await self._platform.check(request.files)
        manifest, version = checked.manifest, checked.version
        flows = self._make(manifest, version)
        asks = self._asks(manifest, request.grants)
        if asks and not request.check:
            # Nobody has approved this yet: it is for whoever deploys to say.
            return _deployed(manifest, version, checked.cold_start_us, asks=asks)
        # A long dry run keeps nobody from rolling back meanwhile.
        dry = await self._tried(checked, flows, request.dry_run)
        refused = "" if request.force else _refusal(dry)
        async with self._changing:
            asks = self._asks(manifest, request.grants)  # Again: meanwhile another version may have gone live.
            if asks and not request.check:
                return _deployed(manifest, version, checked.cold_start_us, asks=asks)
            unchanged = self._runs(manifest, version)
            if not request.check and not unchanged and not refused:
                self._approved(manifest, version, request.grants)
                await self._platform.store(checked)
                async with self.borrowed(manifest.app, version):
                    await self._go_live(manifest, version, flows, self._before(manifest.app, version))
        live = not request.check and (unchanged or not refused)
        found = _deployed(manifest, version, checked.cold_start_us, live=live, unchanged=unchanged, asks=asks)
        return msgspec.structs.replace(found, dry=dry, refused=refused)

    async def rollback(self, app: str, request: Rollback) -> Deployed:
        """Put a stored version live again. State and progress stay; what is live serves until then."""
        async with self._changing:
            record = self.record(app)
            if not request.to and not record.earlier:
                raise EdgeError(
                    f"no version of '{app}' was live before {record.version}",
                    hint=f"Its stored versions: edge apps versions {app}; then edge rollback {app} --to VERSION.",
                )
            version = request.to or record.earlier[0][0]
            started = self._clock.monotonic()
            async with self.borrowed(app, version) as manifest:
                took = self._clock.monotonic() - started
                flows = self._make(manifest, version)
                unchanged = self._runs(manifest, version)
                # What was live before was approved then.
                asks = [] if version in dict(record.earlier) else self._asks(manifest, request.grants)
                if asks:
                    return _deployed(manifest, version, took, asks=asks)
                if not unchanged:
                    self._approved(manifest, version, request.grants)
                    await self._go_live(manifest, version, flows, self._before(app, version, back=True))
                return _deployed(manifest, version, took, live=True, unchanged=unchanged)

    async def replay(self, app: str, request: AppReplay) -> AppReplayed:
        """Run a version over the past without any effect, and compare with another or with the journal."""
        record = self.record(app)
        version = request.version or record.version
        first = await self._control.offset(request.start)
        async with contextlib.AsyncExitStack() as stack:
            manifest = await stack.enter_async_context(self.borrowed(app, version))
            other = None
            if request.against:
                against = await stack.enter_async_context(self.borrowed(app, request.against))
                other = (against, request.against, self._make(against, request.against))
            flows = self._make(manifest, version)
            found = await self._rehearsal.over_range(manifest, version, flows, other, first, request.limit)
            return AppReplayed(app, version, request.against, found)

    async def versions(self, app: str) -> list[VersionRow]:
        """The stored versions of an app, the newest first. Raises `NotFound`."""
        record = self.record(app)
        since = dict([*record.earlier[::-1], (record.version, record.time)])
        back = record.earlier[0][0] if record.earlier else ""
        states = {back: "rollback", record.version: "live"}
        return [
            VersionRow(item.version, item.stored, states.get(item.version, ""), since.get(item.version))
            for item in await self._platform.stored(app)
        ]

    async def explain(self, app: str, version: str = "") -> Explanation:
        """How the functions of an app's version (empty: the live one) run, and why."""
        record = self.record(app)
        async with self.borrowed(app, version or record.version) as manifest:
            return explain(manifest, version or record.version)

    @contextlib.asynccontextmanager
    async def borrowed(self, app: str, version: str) -> AsyncIterator[Manifest]:
        """A stored version, loaded as long as the block runs, live or not. Raises `NotFound` or `DeployError`."""
        self._borrowed[app, version] += 1
        try:
            try:
                manifest = await self._platform.load(app, version)
            except NotFound as error:
                stored = ", ".join(item.version for item in await self._platform.stored(app))
                raise NotFound(f"there is no version {version} of '{app}'", hint=f"Stored: {stored}.") from error
            yield manifest
        finally:
            self._borrowed[app, version] -= 1
            await self._let_go(app, version)

    @contextlib.contextmanager
    def kept_whole(self) -> Iterator[None]:
        """No version is removed as long as the block runs: somebody copies them."""
        self._kept_whole += 1
        try:
            yield
        finally:
            self._kept_whole -= 1

    async def _tried(self, checked: Checked, flows: list[Flow], count: int) -> list[Replayed]:
        """What a version that is not live does with the last events; it leaves nothing behind."""
        if not count:
            return []
        app, version = checked.manifest.app, checked.version
        known = any(item.version == version for item in await self._platform.stored(app))
        if not known:
            await self._platform.store(checked)
        try:
            async with self.borrowed(app, version) as manifest:
                return await self._rehearsal.over_last(manifest, version, flows, count)
        finally:
            async with self._changing:
                if not known and not self._in_use(app, version):
                    await self._platform.forget(app, version)

    def _in_use(self, app: str, version: str) -> bool:
        """Whether a version is live, was, or is just being tried."""
        record = self._records.get(app)
        named = record is not None and version in (record.version, *(name for name, _ in record.earlier))
        return named or self._borrowed[app, version] > 0

    def _runs(self, manifest: Manifest, version: str) -> bool:
        live = self.live.get(manifest.app)
        names = flows_of(manifest.app, manifest.triggers)
        return live is not None and live[0].version == version and all(name in self._flows.runners for name in names)

    def _asks(self, manifest: Manifest, approved: Sequence[str]) -> list[str]:
        """What a version asks for beyond what the live one has, and what is approved now. Raises `EdgeError`."""
        live = self.live.get(manifest.app)
        had = Grants.of(live[1].grants).all if live is not None else ()
        return Grants.of(manifest.grants).beyond([*had, *Grants.of(approved).all])

    def _approved(self, manifest: Manifest, version: str, approved: Sequence[str]) -> None:
        asked = set(Grants.of(manifest.grants).all)
        for grant in sorted(asked.intersection(Grants.of(approved).all)):
            _security.warning(
                "app %s, version %s, may %s: approved at its deploy", manifest.app, version, sentence(grant)
            )

    def _before(self, app: str, version: str, *, back: bool = False) -> list[tuple[str, int]]:
        """What was live before, once `version` is. Going back to one of them undoes what came after it."""
        record = self._records.get(app)
        if record is None:
            return []
        earlier = record.earlier
        if record.version == version:
            return earlier
        if back and version in (names := [name for name, _ in earlier]):
            return earlier[names.index(version) + 1 :]
        return [(record.version, record.time), *earlier][:MAX_EARLIER]

    async def _go_live(
        self, manifest: Manifest, version: str, flows: list[Flow], earlier: list[tuple[str, int]]
    ) -> None:
        app = manifest.app
        record = AppVersion(app, version, self._clock.now(), earlier)
        await self._journal.append([record])
        self._records[app] = record
        for flow in flows:
            await self._flows.install(flow)
        # Only now: should one of them have failed, deploying the same version again does the rest.
        old = self.live.get(app)
        self.live[app] = (record, manifest)
        self.broken.pop(app, None)
        await self._remove_others(manifest)
        if old is not None:
            await self._let_go(app, old[0].version)
        if not self._kept_whole:
            await self._platform.prune(app, {version, *(name for name, _ in earlier[:1])})
        _log.info("app %s is live in version %s", app, version)

    async def _remove_others(self, manifest: Manifest) -> None:
        """What the app has no trigger for any more need not be waited for; and schedules are those of this version."""
        schedules = {f"{manifest.app}.{t.name}": t for t in manifest.triggers if isinstance(t, Schedule)}
        await self._timers.follow(manifest.app, schedules)
        names = set(flows_of(manifest.app, manifest.triggers))
        for name in self._flows.known(manifest.app):
            if name not in names:
                await self._flows.remove(name)

    async def _let_go(self, app: str, version: str) -> None:
        """Unload a version, unless it is live or somebody still uses it."""
        live = self.live.get(app)
        if (live is None or live[0].version != version) and not self._borrowed[app, version]:
            with contextlib.suppress(Unavailable):
                await self._platform.unload(app, version)


def _refusal(dry: list[Replayed]) -> str:
    """Why a version should not go live after its dry run; empty for no reason."""
    failing = [f"{found.flow} on {found.failed} of {found.events} events" for found in dry if found.failed]
    return f"it fails in the dry run: {', '.join(failing)}" if failing else ""


def _deployed(
    manifest: Manifest,
    version: str,
    cold_start: int,
    *,
    live: bool = False,
    unchanged: bool = False,
    asks: Sequence[str] = (),
) -> Deployed:
    return Deployed(manifest.app, version, triggers(manifest), cold_start, live, unchanged, list(asks))


def triggers(manifest: Manifest) -> list[TriggerRow]:
    """An app's triggers, for people."""
    return [
        TriggerRow(t.name, _TYPES.get(type(t), "on"), t.kind, t.where, getattr(t, "to", ""), _terms(manifest.app, t))
        for t in manifest.triggers
    ]


_TYPES: dict[type, str] = {Route: "route", Schedule: "schedule", Endpoint: "http", StreamTrigger: "stream"}


def _terms(app: str, trigger: Trigger) -> str:
    """When a schedule's function runs, or where an endpoint is and who may ask."""
    match trigger:
        case Schedule(every=0, cron=cron, tz=tz):
            return f"cron {cron} ({tz})"
        case Schedule(every=every):
            return f"every {duration(every)}"
        case Endpoint(path=path, methods=methods, public=public):
            return f"{', '.join(methods)} /apps/{app}{path}, {'for anybody' if public else 'with the token of the app'}"
        case StreamTrigger(stream=Stream() as stream):
            return in_words(stream)
        case _:
            return ""
