"""The executor: a jailed process that runs guests. It serves one gateway."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec
from wasmtime import Engine

from edge_runtime.errors import EdgeError
from edge_runtime.flows.ports import Failure
from edge_runtime.functions.sandbox import cache, jail
from edge_runtime.functions.sandbox.engine import engine
from edge_runtime.functions.sandbox.errors import Refusal, Stopped
from edge_runtime.functions.sandbox.instance import Breed, Guests, Live
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
from edge_runtime.functions.sandbox.serve import MAX_REPLY, OVERHEAD, QUANTUM, serve
from edge_runtime.functions.sandbox.ticker import Ticker

_MEMORY_FAILURE = '{"type":"failed","reason":"memory"'


class App:
    """An app in this executor; `instance` is None after a stop, until the next run."""

    def __init__(self, request: Load) -> None:
        self.request = request
        self.instance: Live | None = None


class Executor:
    """Serves requests with a stock of virgin instances."""

    def __init__(self, guests: Breed, ticker: Ticker, stock: int) -> None:
        self._guests = guests
        self._ticker = ticker
        self._stock: list[Live] = []
        self._stock_size = stock
        self._apps: dict[int, App] = {}

    def restock(self) -> bool:
        """Make one virgin instance ready if there are too few; answers whether there are still too few."""
        if len(self._stock) < self._stock_size:
            with self._ticker:
                self._stock.append(self._guests.virgin())
        return len(self._stock) < self._stock_size

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
        return Loaded(request.call, manifest.encode(), (time.perf_counter_ns() - started) // 1000)

    def _instantiate(self, app: App) -> str:
        with self._ticker:
            instance = self._stock.pop() if self._stock else self._guests.virgin(rehearse=False)
            try:
                instance.allow_memory(app.request.memory)
                seed = int.from_bytes(os.urandom(8), "big")
                manifest = instance.load(app.request.source, seed, app.request.load_time)
            except Refusal:
                instance.close()
                raise
            except Stopped as stopped:
                instance.close()
                if stopped.reason != "timeout":
                    raise
                raise Stopped("timeout", f"loading it took more than {app.request.load_time // 1000} ms") from None
        app.instance = instance
        return manifest

    def _run(self, request: Run) -> Reply:
        outcomes: list[tuple[int, bytes]] = []
        app = self._apps.get(request.app)
        if app is None:
            return Outcomes(request.call, [_failure("crash", "the app is not loaded in this executor", 0)])
        begun = last = time.perf_counter_ns()
        size = 0

        def done(outcome: str) -> bool:
            nonlocal last, size
            if len(outcomes) >= request.count:
                raise Stopped("output", "the function reported more outcomes than it had events")
            if len(outcome) > request.output + OVERHEAD:
                raise Stopped("output", f"more than {request.output // 1024} KiB of output")
            now = time.perf_counter_ns()
            outcomes.append(((now - last) // 1000, outcome.encode()))
            last = now
            if outcome.startswith(_MEMORY_FAILURE):
                raise Stopped("memory", "")  # this instance's memory never shrinks again
            size += len(outcome)
            return now - begun < QUANTUM * 1000 and size < MAX_REPLY

        try:
            if app.instance is None:
                self._instantiate(app)
                begun = last = time.perf_counter_ns()
            assert app.instance is not None
            with self._ticker:
                app.instance.run(request.function, request.events, request.given, request.time, done)
        except Refusal as refusal:
            outcomes.append(_failure("error", f"the app no longer loads: {refusal}", last))
        except Stopped as stopped:
            if app.instance is not None:
                app.instance.close()
                app.instance = None
            if stopped.reason != "memory" or stopped.detail:  # else the guest has said it itself
                detail = stopped.detail or f"it ran longer than {request.time // 1000} ms"
                outcomes.append(_failure(stopped.reason, detail, last))
        if not outcomes:
            outcomes.append(_failure("output", "the function's interpreter reported nothing", last))
        return Outcomes(request.call, outcomes[: request.count])

    def _forget(self, number: int) -> None:
        app = self._apps.pop(number, None)
        if app is not None and app.instance is not None:
            app.instance.close()


def _failure(reason: str, detail: str, since: int) -> tuple[int, bytes]:
    micros = (time.perf_counter_ns() - since) // 1000 if since else 0
    return micros, msgspec.json.encode(Failure(reason, detail))


def main() -> None:
    """The process: `argv` is the compiled guest's path and the size of the stock."""
    try:
        run(Path(sys.argv[1]), int(sys.argv[2]), engine(), Guests)
    except EdgeError as error:
        sys.exit(f"{error}. {error.hint}".rstrip())


def run(path: Path, stock: int, machine: Engine, breed: Callable[[Engine, str], Breed]) -> NoReturn:
    """Load machine code, lock the process, serve."""
    started = time.perf_counter_ns()
    descriptor = cache.open_own(path)
    guests = breed(machine, f"/proc/self/fd/{descriptor}")  # what was checked is what is mapped
    os.close(descriptor)
    confinement = jail.confine()
    executor = Executor(guests, Ticker(machine), stock)
    while executor.restock():
        pass
    report = jail.lock(confinement)
    gc.collect()
    gc.freeze()
    ready = Ready(report, (time.perf_counter_ns() - started) // 1000)
    serve(ready, executor.handle, executor.restock)
