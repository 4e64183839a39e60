"""The function platform: checks apps, keeps their versions, runs their functions in the sandbox."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import DeployError
from edge_runtime.events import NAME, Event
from edge_runtime.flows.ports import NOTHING, Given, Outcome
from edge_runtime.functions.engines import Engine, python_engine
from edge_runtime.functions.jobs import LoadFailed
from edge_runtime.functions.languages import Languages
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.native import native_engine, native_guest
from edge_runtime.functions.pool import Load, Pool
from edge_runtime.functions.sandbox import build, cache, compile
from edge_runtime.functions.sandbox.cache import Progress
from edge_runtime.functions.sandbox.jail import JailReport
from edge_runtime.functions.sandbox.protocol import Loaded
from edge_runtime.functions.settings import probable_name
from edge_runtime.functions.sources import check_files, read_files
from edge_runtime.functions.stats import FunctionStats, Recorder
from edge_runtime.functions.versions import AppFiles, StoredVersion, Versions
from edge_runtime.grants import Grants
from edge_runtime.manifest import Endpoint, FunctionRef, Manifest, Route, Schedule, StreamTrigger, Trigger

STOCK = 2
"""Virgin instances that each executor keeps ready: 2.5 MiB each."""

MAX_TRIGGERS = 200
NO_GRANTS = Grants()
MAX_RETRIES = 100

_MISSING = "ModuleNotFoundError"
_MISSING_HINTS = {
    "sandbox": "Functions have Python's standard library, without what needs a system, and the plain-Python packages"
    " that a requirements.txt in the app's folder names.",
    "native": "What is installed, and listed as 'preload' in the app's table of edge.toml, can be imported.",
}


class _Stopped(Exception):
    """Thrown through the build of the guest, to end it."""


class Checked(msgspec.Struct, frozen=True):
    """An app that the sandbox has loaded once."""

    manifest: Manifest
    version: str
    cold_start_us: int
    """Microseconds from its source to its being ready."""
    content: AppFiles


class ExecutorReport(msgspec.Struct, frozen=True):
    """One executor process."""

    engine: str
    """What it runs."""
    pid: int
    jail: JailReport | None
    """What confines it; None while it is being started, and once it has ended."""
    startup_us: int
    apps: int
    restarts: int
    memory: int
    """Its proportional share of memory (PSS) in bytes; 0 where the kernel does not tell us."""
    problem: str
    """Why it does not run; empty where it does."""


class PlatformReport(msgspec.Struct, frozen=True):
    """The sandbox as `edge doctor` shows it."""

    guest: str
    """The guest's version."""
    wasm: str
    """The guest's file."""
    compiled: str
    """Its machine code."""
    limits: Limits
    executors: list[ExecutorReport]


class FunctionPlatform:
    """Runs functions; implements the port `Invoker`.

    `apps` is the folder that keeps the versions, `executors` the number of sandbox processes, `limits` those of apps
    in general and `limits_of` those of an app by its name, `cache_folder` where the guest is kept once built.
    """

    def __init__(
        self,
        apps: Path,
        clock: Clock,
        *,
        executors: int = 1,
        limits: Limits | None = None,
        limits_of: Callable[[str], Limits] | None = None,
        cache_folder: Path | None = None,
        stock: int = STOCK,
    ) -> None:
        self._versions = Versions(apps)
        self._clock = clock
        self._executors = executors
        self._limits = limits or Limits()
        self._limits_of = limits_of or (lambda _app: self._limits)
        self._cache = cache_folder or cache.default_folder()
        self._stock = stock
        self._pool: Pool | None = None
        self._recorder = Recorder()
        self._guest = ""
        self._wasm = self._compiled = Path()
        self._python = python_engine(self._compiled, stock)
        self._languages = Languages(self._cache, stock)

    async def start(self, progress: Progress | None = None) -> None:
        """Build and compile the guest where that has not been done, and start the executors.

        `progress` is told (in this event loop) what is going on and how much of it is done, between 0 and 1.
        Cancelled, it ends the build at once, and with it every process of the build.
        """
        loop = asyncio.get_running_loop()
        stopped = threading.Event()

        def report(what: str, fraction: float) -> None:
            if stopped.is_set():
                raise _Stopped
            if progress is not None:
                loop.call_soon_threadsafe(progress, what, fraction)

        preparing = asyncio.ensure_future(asyncio.to_thread(self._prepare, report))
        try:
            await asyncio.shield(preparing)
        except asyncio.CancelledError:
            stopped.set()  # seen within cache.POLL
            await asyncio.gather(preparing, return_exceptions=True)
            raise
        self._python = python_engine(self._compiled, self._stock)
        pool = Pool(self._python, self._executors, self._clock, self._recorder)
        await pool.start()
        self._pool = pool

    def _prepare(self, progress: Progress) -> None:
        self._guest = build.guest_version()
        self._wasm = build.built(self._cache, progress)
        self._compiled = compile.compiled(self._wasm, self._guest, self._cache, progress)
        self._languages.prepare()

    async def stop(self) -> None:
        """End the executors; calls under way become `Unavailable`."""
        self._languages.stop()
        if self._pool is not None:
            await self._pool.stop()

    async def check(self, source: Mapping[str, bytes] | Path, limits: Limits | None = None) -> Checked:
        """Load an app in the sandbox, to see whether it is one; nothing is kept.

        `source` is the app's file or folder, or its files by path. Without `limits` it has those of its name. Raises
        `DeployError` with file, line and reason.
        """
        files = await asyncio.to_thread(read_files, source) if isinstance(source, Path) else check_files(source)
        content = AppFiles(files, limits or self._limits, self._guest)
        if limits is not None:
            return await self._check(content)
        # Its name is known for sure once it is loaded, which it may not survive with the limits of others.
        content = msgspec.structs.replace(content, limits=self._limits_of(probable_name(content)))
        checked = await self._check(content)
        own = self._limits_of(checked.manifest.app)
        if own == content.limits:
            return checked
        again = await self._check(msgspec.structs.replace(content, limits=own))
        if again.manifest.app != checked.manifest.app:
            raise DeployError(
                f"{content.entry}: the app is called '{checked.manifest.app}' at one time, and at another"
                f" '{again.manifest.app}'"
            )
        return again

    async def _check(self, content: AppFiles) -> Checked:
        if content.limits.tier == "native":
            guest = await asyncio.to_thread(native_guest, self._guest, content.limits.preload)
            content = msgspec.structs.replace(content, guest=guest)
        elif content.language != "python":
            guest = await asyncio.to_thread(self._languages.guest, content.language)
            content = msgspec.structs.replace(content, guest=guest)
        try:
            loaded = await self._running.try_load(await self._engine_of(content), _request(content), content.limits)
        except LoadFailed as failure:
            raise _explained(failure, content) from None
        manifest = _manifest(loaded, content.entry)
        return Checked(manifest, content.version, loaded.micros, content)

    async def _engine_of(self, content: AppFiles) -> Engine:
        """What runs an app: the one place where its language and its tier decide. Raises `DeployError`."""
        if content.limits.tier == "native":
            if content.language != "python":
                raise DeployError(
                    f"{content.entry}: the native tier runs Python alone",
                    hint='Set its tier to "sandbox" in edge.toml.',
                )
            return native_engine(content.limits.preload)
        return self._python if content.language == "python" else await self._languages.engine(content)

    async def store(self, checked: Checked) -> None:
        """Keep a checked version, durably, until it is needed."""
        await asyncio.to_thread(self._versions.write, checked.content, checked.manifest, self._clock.now())

    async def load(self, app: str, version: str) -> Manifest:
        """Make a stored version ready to be invoked. Raises `NotFound` or `DeployError`."""
        content, manifest = await asyncio.to_thread(self._versions.read, app, version)
        if content.limits.tier == "native" != self._limits_of(app).tier:
            raise DeployError(
                f"version {version} of the app '{app}' is of the native tier, and edge.toml no longer says that it may",
                hint=f'Deploy it again, or set tier = "native" in [apps.{app}].',
            )
        grants = Grants.of(manifest.grants)
        try:
            loaded = await self._running.load(
                (app, version), await self._engine_of(content), _request(content, grants), content.limits
            )
        except LoadFailed as failure:
            raise _explained(failure, content) from None
        if loaded is not None and _manifest(loaded, content.entry) != manifest:
            # What was checked and approved is what it said then; one that says something else now is another app.
            await self._running.unload((app, version))
            raise DeployError(
                f"{content.entry}: the app '{app}' describes itself otherwise than when it was deployed",
                hint="Its name, functions and grants must be the same each time it is loaded: deploy it again.",
            )
        return manifest

    async def stored(self, app: str) -> list[StoredVersion]:
        """The versions of an app that are kept, the newest first."""
        return await asyncio.to_thread(self._versions.stored, app)

    async def prune(self, app: str, keep: Collection[str]) -> None:
        """Remove old versions of an app, but none in `keep`."""
        await asyncio.to_thread(self._versions.prune, app, keep)

    async def forget(self, app: str, version: str) -> None:
        """Remove a stored version."""
        await asyncio.to_thread(self._versions.remove, app, version)

    async def unload(self, app: str, version: str) -> None:
        """Let a version go; it stays stored."""
        await self._running.unload((app, version))

    async def invoke(self, function: FunctionRef, events: Sequence[Event], given: Given = NOTHING) -> Sequence[Outcome]:
        """As `Invoker.invoke`."""
        started = self._clock.monotonic()
        outcomes = await self._running.run(function, events, given)
        self._recorder.invoked(function.app, outcomes, self._clock.monotonic() - started)
        return outcomes

    async def scale(self, app: str, version: str, instances: int) -> int:
        """Give a loaded version so many instances, as far as that is possible; answers how many it has.

        Raises `Unavailable` or `EdgeError`.
        """
        return await self._running.scale((app, version), instances)

    def load_of(self, app: str, version: str) -> Load | None:
        """How a version is doing; None where it is not loaded."""
        return self._running.load_of((app, version))

    def stats(self) -> FunctionStats:
        """What was counted since the start."""
        return self._recorder.snapshot(sum(lane.restarts for lane in self._pool.lanes) if self._pool else 0)

    def report(self) -> PlatformReport:
        """What runs, and how well it is confined."""
        executors = []
        for lane in self._pool.lanes if self._pool else ():
            ready = lane.remote.ready
            executors.append(
                ExecutorReport(
                    engine=lane.engine.name,
                    pid=lane.remote.pid,
                    jail=ready.jail if ready else None,
                    startup_us=ready.startup if ready else 0,
                    apps=lane.apps,
                    restarts=lane.restarts,
                    memory=_proportional_memory(lane.remote.pid),
                    problem=lane.problem,
                )
            )
        return PlatformReport(self._guest, str(self._wasm), str(self._compiled), self._limits, executors)

    @property
    def _running(self) -> Pool:
        if self._pool is None:
            raise RuntimeError("the function platform has not been started")
        return self._pool


def _request(content: AppFiles, grants: Grants = NO_GRANTS) -> str:
    """The app as the guest takes it: its sources in the language of its entry, and the rest where that is granted."""
    limits = content.limits
    ending = os.path.splitext(content.entry)[1]
    source = {} if ending == ".wasm" else content.files  # a module's executor was started with it
    request = {
        "files": {name: text.decode("utf-8-sig") for name, text in source.items() if name.endswith(ending)},
        "entry": content.entry,
        "limits": {name: getattr(limits, name) for name in ("output", "lines", "effects", "state")},
        "grants": grants.all,
        "data": {name: data for name, data in content.files.items() if not name.endswith(ending)}
        if grants.files
        else {},
    }
    return msgspec.json.encode(request).decode()


class _Problem(msgspec.Struct):
    file: str
    line: int
    reason: str


def _explained(failure: LoadFailed, content: AppFiles) -> DeployError:
    try:
        problem = msgspec.json.decode(failure.problem, type=_Problem)
    except msgspec.MsgspecError:
        return DeployError(f"{content.entry}: {failure or 'the sandbox could not load it'}")
    hint = _MISSING_HINTS[content.limits.tier] if _MISSING in problem.reason else ""
    place = f"{problem.file}, line {problem.line}" if problem.line else problem.file
    return DeployError(f"{place}: {problem.reason}"[:4000], hint=hint)


_PATH = re.compile(r"/|(/[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,63}){1,8}")
_HEADER = re.compile(r"[a-z0-9-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_MOST_EVERY = 366 * 86_400_000_000


def _well_formed(app: str, trigger: Trigger) -> bool:
    """Whether a trigger has the kind of events that is its own, and what it says of itself can be."""
    match trigger:
        case Schedule(every=every, cron=cron, missed=missed):
            length = every == 0 if cron else 1_000_000 <= every <= _MOST_EVERY
            return trigger.kind == f"$schedule.{app}.{trigger.name}" and length and missed in ("skip", "once")
        case Endpoint(path=path, methods=methods, headers=headers):
            return (
                trigger.kind == f"$http.{app}.{trigger.name}"
                and _PATH.fullmatch(path) is not None
                and 0 < len(methods) <= len(_METHODS)
                and _METHODS.issuperset(methods)
                and len(headers) <= 32
                and all(_HEADER.fullmatch(name) for name in headers)
                and not {"authorization", "cookie", "proxy-authorization"}.intersection(headers)
            )
        case StreamTrigger(stream=stream, late=late):
            return (
                trigger.kind == f"$stream.{app}.{trigger.name}"
                and stream is not None
                and all(NAME.fullmatch(source.kind) for source in stream.sources)
                and (not late or NAME.fullmatch(late) is not None)
            )
        case _:
            return NAME.fullmatch(trigger.kind) is not None


def _manifest(loaded: Loaded, entry: str) -> Manifest:
    """The manifest that the guest reported, checked: a guest is not believed."""
    try:
        manifest = msgspec.json.decode(loaded.manifest, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DeployError(f"{entry}: the app's description of itself is malformed ({error})") from None
    names = [trigger.name for trigger in manifest.triggers]
    well_formed = (
        NAME.fullmatch(manifest.app)
        and "." not in manifest.app
        and 0 < len(names) == len(set(names)) <= MAX_TRIGGERS
        and all(NAME.fullmatch(trigger.name) and _well_formed(manifest.app, trigger) for trigger in manifest.triggers)
        and all(trigger.start in ("latest", "earliest") for trigger in manifest.triggers)
        and all(0 <= trigger.retries <= MAX_RETRIES for trigger in manifest.triggers)
        and all(trigger.on_error in ("skip", "hold", "stop") for trigger in manifest.triggers)
        and all(NAME.fullmatch(trigger.to) for trigger in manifest.triggers if isinstance(trigger, Route))
    )
    if not well_formed:
        raise DeployError(f"{entry}: the app's description of itself is malformed")
    return manifest


def _proportional_memory(pid: int) -> int:
    """Of a process and those below it."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            own = next((int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:")), 0)
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = file.read().split()
    except (OSError, ValueError):
        return 0
    return own + sum(_proportional_memory(int(child)) for child in children)
