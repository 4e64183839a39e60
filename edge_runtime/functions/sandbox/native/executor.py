"""The executor of the native tier: it keeps guests that are processes, and serves one gateway.

It handles sources and events and so is never forked from; the zygote is, which has seen neither.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
import time
from typing import NoReturn

import msgspec

from edge_runtime.errors import EdgeError
from edge_runtime.flows.ports import Failure
from edge_runtime.functions.sandbox import jail
from edge_runtime.functions.sandbox.errors import Refusal, Stopped
from edge_runtime.functions.sandbox.native import guest
from edge_runtime.functions.sandbox.native.worker import Worker
from edge_runtime.functions.sandbox.native.zygote import Zygote
from edge_runtime.functions.sandbox.protocol import (
    Load,
    Loaded,
    Outcomes,
    Ready,
    Refused,
    Reply,
    Request,
    Run,
    Unload,
    Unloaded,
)
from edge_runtime.functions.sandbox.serve import MAX_REPLY, QUANTUM, serve

_MEMORY_FAILURE = b'{"type":"failed","reason":"memory"'


class App:
    """An app in this executor; `worker` is None after a stop, until the next run."""

    def __init__(self, request: Load) -> None:
        self.request = request
        self.worker: Worker | None = None

    def close(self) -> None:
        """End its process."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None


class Executor:
    """Serves requests, with one virgin child in stock. `base` is the address space of a child without an app."""

    def __init__(self, zygote: Zygote, base: int) -> None:
        self._zygote = zygote
        self._base = base
        self._stock: list[Worker] = []
        self._apps: dict[int, App] = {}
        self.report: jail.JailReport
        """What holds the children; known once there is one."""

    def restock(self) -> bool:
        """Have a virgin child ready; there is never more to do than that."""
        if not self._stock:
            worker = Worker(self._zygote)
            try:
                self.report = worker.born()
            except Stopped as stopped:
                worker.close()
                raise jail.JailError(f"a native function's process cannot be confined ({stopped.detail})") from None
            self._stock.append(worker)
        return False

    def handle(self, request: Request) -> Reply:
        """Do what the gateway asks."""
        match request:
            case Load():
                return self._load(request)
            case Run():
                return self._run(request)
            case Unload():
                self._forget(request.app)
                return Unloaded(request.call)

    def _load(self, request: Load) -> Reply:
        self._forget(request.app)
        app = App(request)
        started = time.perf_counter_ns()
        try:
            manifest = self._instantiate(app)
        except Refusal as refusal:
            return Refused(request.call, str(refusal).encode(), "")
        except Stopped as stopped:
            return Refused(request.call, b"", stopped.detail)
        self._apps[request.app] = app
        return Loaded(request.call, manifest, (time.perf_counter_ns() - started) // 1000)

    def _instantiate(self, app: App) -> bytes:
        self.restock()
        app.worker = self._stock.pop()
        request = app.request
        try:
            app.worker.allow_memory(self._base + request.memory)
            return app.worker.load(request.source, int.from_bytes(os.urandom(8), "big"), request.load_time)
        except Refusal:
            app.close()
            raise
        except Stopped as stopped:
            app.close()
            if stopped.reason != "timeout":
                raise
            raise Stopped("timeout", f"loading it took more than {request.load_time // 1000} ms") from None

    def _run(self, request: Run) -> Reply:
        outcomes: list[tuple[int, bytes]] = []
        app = self._apps.get(request.app)
        if app is None:
            return Outcomes(request.call, [_failure("crash", "the app is not loaded in this executor", 0)])
        last = time.perf_counter_ns()

        def done(outcome: bytes) -> None:
            nonlocal last
            if len(outcomes) >= request.count:
                raise Stopped("output", "the function reported more outcomes than it had events")
            now = time.perf_counter_ns()
            outcomes.append(((now - last) // 1000, outcome))
            last = now
            if outcome.startswith(_MEMORY_FAILURE):
                raise Stopped("memory", "")  # what it filled up may still be held by its own globals

        if app.worker is not None and app.worker.astray():
            app.close()  # between two runs: none of its events is to blame
        try:
            if app.worker is None:
                self._instantiate(app)
                last = time.perf_counter_ns()
            assert app.worker is not None
            app.worker.run(request, QUANTUM, MAX_REPLY, done)
        except Refusal as refusal:
            outcomes.append(_failure("error", f"the app no longer loads: {refusal}", last))
        except Stopped as stopped:
            app.close()
            if stopped.reason != "memory":
                detail = stopped.detail or f"it ran longer than {request.time // 1000} ms"
                outcomes.append(_failure(stopped.reason, detail, last))
        if not outcomes:
            outcomes.append(_failure("output", "the function's interpreter reported nothing", last))
        return Outcomes(request.call, outcomes[: request.count])

    def _forget(self, number: int) -> None:
        app = self._apps.pop(number, None)
        if app is not None:
            app.close()


def _failure(reason: str, detail: str, since: int) -> tuple[int, bytes]:
    micros = (time.perf_counter_ns() - since) // 1000 if since else 0
    return micros, msgspec.json.encode(Failure(reason, detail))


class Preload(msgspec.Struct, frozen=True):
    """What the process is started with, as JSON in its one argument."""

    modules: list[str]
    """What the operator lists."""
    folders: list[str]
    """Where the gateway's interpreter has its packages."""


def main() -> None:
    """The process."""
    try:
        run(msgspec.json.decode(sys.argv[1], type=Preload))
    except EdgeError as error:
        sys.exit(f"{error}. {error.hint}".rstrip())


def run(preload: Preload) -> NoReturn:
    """Import what functions can use, fork the zygote, lock the process, serve."""
    started = time.perf_counter_ns()
    world = guest.prepare(preload.modules, preload.folders)
    gc.collect()
    gc.freeze()
    with open("/proc/self/statm") as file:
        base = int(file.read().split()[0]) * resource.getpagesize()
    confinement = jail.confine()
    executor = Executor(Zygote(world, confinement), base)
    jail.lock(confinement, keeper=True)
    executor.restock()
    serve(Ready(executor.report, (time.perf_counter_ns() - started) // 1000), executor.handle, executor.restock)
