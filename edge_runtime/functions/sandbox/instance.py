"""Live guests: each is one Python interpreter in a wasm memory of its own, and never serves two apps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from wasmtime import Engine, ExitTrap, Store, StoreContext, WasiConfig, WasmtimeError
from wasmtime.component import Component, ExportIndex, Linker, ResourceAny

from edge_runtime.functions.limits import MIB
from edge_runtime.functions.sandbox.build import GuestError
from edge_runtime.functions.sandbox.engine import TICK

_WASI_POLL = "wasi:io/poll@0.2.12"
"""As wasmtime's own linker names it; a definition under any other version would not replace it."""

_REHEARSAL = (
    '{"files":{"rehearsal.py":"from edge import App\\napp = App(\\"rehearsal\\")\\n@app.on(\\"a\\")\\n'
    'def f(event, ctx):\\n    ctx.emit(\\"b\\", event.data)\\n"},"entry":"rehearsal.py","limits":{}}'
)
_REHEARSAL_EVENTS = '[["d","a",0,{"b":1.5},"d/0/0",0,"",0]]'

Done = Callable[[int, str], bool]
"""Takes the outcome (JSON) of an event by its index; answers whether to go on."""


class Stopped(Exception):
    """The guest did not end by itself; it is dead. `reason` is one of `Failure.reason`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Refusal(Exception):
    """The guest refused an app; `str()` is its problem as JSON."""


def _ticks(micros: int) -> int:
    return int(micros / 1e6 / TICK) + 2  # the tick under way counts, and a deadline must not come early


class Guests:
    """Makes instances of one compiled guest."""

    def __init__(self, engine: Engine, path: Path | str) -> None:
        self._engine = engine
        self._component = Component.deserialize_file(engine, str(path))
        self._done: Done | None = None
        self._linker = Linker(engine)
        self._linker.add_wasip2()
        self._linker.allow_shadowing = True
        with self._linker.root() as root:
            with root.add_instance("edge:guest/host") as host:
                host.add_func("done", self._on_done)
            with root.add_instance(_WASI_POLL) as poll:
                # Epochs do not interrupt host calls: a guest that waited in one would outlast its deadline. So whatever
                # it waits for is ready at once, and a guest that waits in a loop is stopped like any other loop.
                poll.add_func("poll", _all_ready)
                poll.add_func("[method]pollable.block", lambda store, pollable: pollable.drop(store))
        self._exports = {name: self._export(name) for name in ("load", "run")}

    def _export(self, name: str) -> ExportIndex:
        index = self._component.get_export_index(name)
        if index is None:
            raise GuestError(f"the sandbox guest has no function '{name}'", hint="Remove it from the cache.")
        return index

    def virgin(self, rehearse: bool = True) -> Instance:
        """A new instance; a rehearsed one has its pages and code paths touched, so that its first app loads faster."""
        store = Store(self._engine)
        store.set_limits(memory_size=64 * MIB, instances=100, tables=100, memories=10)
        store.set_wasi(WasiConfig())  # no files, environment, arguments, sockets or streams
        store.set_epoch_deadline(_ticks(10_000_000))
        instance = self._linker.instantiate(store, self._component)
        functions = {name: instance.get_func(store, index) for name, index in self._exports.items()}
        guest = Instance(self, store, functions)
        if rehearse:
            guest.load(_REHEARSAL, 0, 10_000_000)
            guest.run("f", _REHEARSAL_EVENTS, 10_000_000, lambda _index, _outcome: True)
        return guest

    def _on_done(self, _store: object, index: int, outcome: str) -> bool:
        assert self._done is not None
        return self._done(index, outcome)


class Instance:
    """One interpreter with at most one app. After `Stopped` it must be closed."""

    def __init__(self, guests: Guests, store: Store, functions: dict[str, Any]) -> None:
        self._guests = guests
        self._store = store
        self._functions = functions

    def allow_memory(self, memory: int) -> None:
        """Let the guest's memory grow to so many bytes in all."""
        self._store.set_limits(memory_size=memory, instances=100, tables=100, memories=10)

    def load(self, source: str, seed: int, load_time: int) -> str:
        """Load an app; answers its manifest (JSON). Raises `Refusal` or `Stopped`."""
        self._store.set_epoch_deadline(_ticks(load_time))
        result = self._call("load", source, seed)
        if result.tag == "ok":
            return str(result.payload)
        raise Refusal(str(result.payload))

    def run(self, function: str, events: str, time: int, done: Done) -> None:
        """Run a function over events (a JSON array), each within `time` microseconds. Raises `Stopped`."""
        deadline = _ticks(time)

        def per_event(index: int, outcome: str) -> bool:
            go_on = done(index, outcome)
            self._store.set_epoch_deadline(deadline)
            return go_on

        self._store.set_epoch_deadline(deadline)
        self._guests._done = per_event
        try:
            self._call("run", function, events)
        finally:
            self._guests._done = None

    def close(self) -> None:
        """Give back the memory."""
        self._store.close()

    def _call(self, name: str, *arguments: object) -> Any:
        try:
            return self._functions[name](self._store, *arguments)
        except ExitTrap:
            raise Stopped("crash", "the function ended its interpreter") from None
        except WasmtimeError as error:
            raise _stopped(str(error)) from None


def _all_ready(store: StoreContext, pollables: list[ResourceAny]) -> list[int]:
    for pollable in pollables:
        pollable.drop(store)  # only the loan of it
    return list(range(len(pollables)))


def _stopped(message: str) -> Stopped:
    if "wasm trap: interrupt" in message:
        return Stopped("timeout", "")
    if "call stack exhausted" in message:
        return Stopped("crash", "the recursion was too deep for the interpreter")
    last = message.strip().splitlines()[-1].strip() if message.strip() else "no reason given"
    return Stopped("crash", f"the interpreter broke: {last[:300]}")
