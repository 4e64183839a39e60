"""Live guests: each is one Python interpreter in a wasm memory of its own, and never serves two apps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from wasmtime import Engine, Store, WasmtimeError
from wasmtime.component import Component, ExportIndex, Linker

from edge_runtime.functions.limits import MIB
from edge_runtime.functions.sandbox import wasi
from edge_runtime.functions.sandbox.engine import TICK
from edge_runtime.functions.sandbox.errors import GuestError, Refusal, Stopped


class Rehearsal(NamedTuple):
    """What a new guest does before its first app: everything that an app does, so that its pages are touched."""

    file: str
    source: str
    """An app `rehearsal` with functions `f` and `g`."""
    opaque: bool = False
    """The interpreter gives up without a word when its memory is full."""


PYTHON = Rehearsal(
    "rehearsal.py",
    '''"""An app."""
from edge import App, Context, Event
app = App("rehearsal")
@app.on("a", where="b > 1")
def f(event: Event, ctx: Context) -> None:
    """Act."""
    ctx.command(event.device, "c", {"on": True}, expires="60s")
    ctx.emit("b", {**event.data, "d": 1})
    print(event.id)
@app.route("a", to="t")
def g(event: Event) -> dict[str, object]:
    """Shape."""
    return {"site": "s", **event.data}
''',
)
JAVASCRIPT = Rehearsal(
    "rehearsal.js",
    """// An app.
import { App } from "edge";
const app = new App("rehearsal");
app.on("a", { where: "b > 1" }, function f(event, ctx) {
  ctx.command(event.device, "c", { on: true }, { expires: "60s" });
  ctx.emit("b", { ...event.data, d: 1 });
  console.log(event.id);
});
app.route("a", { to: "t" }, function g(event) {
  return { site: "s", ...event.data };
});
export default app;
""",
    opaque=True,
)
_REHEARSAL_EVENTS = '[["d","a",0,{"b":1.5},"d/0/0",0,"",0,false]]'
_REHEARSAL_TIME = 30_000_000
"""Microseconds: our own code, on a machine that may be slow."""

_TABLES = {"instances": 100, "tables": 20, "table_elements": 100_000, "memories": 10}
"""What a guest may have besides memory: several times what it starts with, and it never needs more."""

Done = Callable[[str], bool]
"""Takes the outcome (JSON) of the next event; answers whether to go on."""


def ticks(micros: int) -> int:
    """So many epochs from now a deadline stands."""
    return int(micros / 1e6 / TICK) + 2  # the tick under way counts, and a deadline must not come early


class Live(Protocol):
    """Something with one app in it. After `Stopped` it must be closed."""

    def allow_memory(self, memory: int) -> None:
        """Let its memory grow to so many bytes in all."""
        ...

    def load(self, source: str, seed: int, load_time: int) -> str:
        """Load an app; answers its manifest (JSON). Raises `Refusal` or `Stopped`."""
        ...

    def run(self, function: str, events: str, given: str, time: int, done: Done) -> None:
        """Run a function over events (a JSON array), each within `time` microseconds. Raises `Stopped`.

        `given` is JSON as well: what the function is given besides; empty for nothing.
        """
        ...

    def close(self) -> None:
        """Give back the memory."""
        ...


class Breed(Protocol):
    """Makes what apps live in."""

    def virgin(self, rehearse: bool = True) -> Live:
        """A new one without an app; a rehearsed one loads its app faster."""
        ...


class Guests:
    """Makes instances of one compiled guest."""

    def __init__(self, engine: Engine, path: Path | str, rehearsal: Rehearsal = PYTHON) -> None:
        self._engine = engine
        self._opaque = rehearsal.opaque
        self._rehearsal = json.dumps(
            {"files": {rehearsal.file: rehearsal.source}, "entry": rehearsal.file, "limits": {}}
        )
        self._component = Component.deserialize_file(engine, str(path))
        self._done: Done | None = None
        self._linker = Linker(engine)
        wasi.define(self._linker, self._component, engine, {"done": self._on_done})
        self._exports = {name: self._export(name) for name in ("load", "run")}

    def _export(self, name: str) -> ExportIndex:
        index = self._component.get_export_index(name)
        if index is None:
            raise GuestError(f"the sandbox guest has no function '{name}'", hint="Remove it from the cache.")
        return index

    def virgin(self, rehearse: bool = True) -> Instance:
        """A new instance; a rehearsed one has its pages and code paths touched, so that its first app loads faster."""
        store = Store(self._engine)
        store.set_limits(**_TABLES, memory_size=64 * MIB)
        store.set_epoch_deadline(ticks(_REHEARSAL_TIME))
        instance = self._linker.instantiate(store, self._component)
        functions = {name: instance.get_func(store, index) for name, index in self._exports.items()}
        guest = Instance(self, store, functions)
        if rehearse:
            for function in ("f", "g"):  # twice: the second time the memory of the first is there to be used again
                guest.load(self._rehearsal, 0, _REHEARSAL_TIME)
                guest.run(function, _REHEARSAL_EVENTS, "", _REHEARSAL_TIME, lambda _outcome: True)
        return guest

    def _on_done(self, _store: object, outcome: str) -> bool:
        if self._done is None:
            raise Stopped("output", "the app reported an outcome while it was loaded")
        return self._done(outcome)


class Instance:
    """One interpreter with at most one app. After `Stopped` it must be closed."""

    def __init__(self, guests: Guests, store: Store, functions: dict[str, Any]) -> None:
        self._guests = guests
        self._store = store
        self._functions = functions

    def allow_memory(self, memory: int) -> None:
        """Let the guest's memory grow to so many bytes in all."""
        self._store.set_limits(**_TABLES, memory_size=memory)

    def load(self, source: str, seed: int, load_time: int) -> str:
        """Load an app; answers its manifest (JSON). Raises `Refusal` or `Stopped`."""
        self._store.set_epoch_deadline(ticks(load_time))
        result = self._call("load", source, seed)
        if result.tag == "ok":
            return str(result.payload)
        raise Refusal(str(result.payload))

    def run(self, function: str, events: str, given: str, time: int, done: Done) -> None:
        """Run a function over events (a JSON array), each within `time` microseconds. Raises `Stopped`.

        `given` is JSON as well: what the function is given besides; empty for nothing.
        """
        deadline = ticks(time)

        def per_event(outcome: str) -> bool:
            go_on = done(outcome)
            self._store.set_epoch_deadline(deadline)
            return go_on

        self._store.set_epoch_deadline(deadline)
        self._guests._done = per_event
        try:
            self._call("run", function, events, given)
        finally:
            self._guests._done = None

    def close(self) -> None:
        """Give back the memory."""
        self._store.close()

    def _call(self, name: str, *arguments: object) -> Any:
        try:
            return self._functions[name](self._store, *arguments)
        except WasmtimeError as error:
            raise _stopped(str(error), self._guests._opaque) from None
        except Stopped:
            raise
        except Exception as error:  # ours, from a host function: it must not cost the other apps their executor
            raise Stopped("crash", f"the sandbox's interface failed: {error!r}"[:500]) from None


_UNDEFINED = re.compile(r"unknown import: `wasi:([^`@]+)(?:@[^`#]*)?#?([^`]*)`")


def _stopped(message: str, opaque: bool) -> Stopped:
    if "wasm trap: interrupt" in message:
        return Stopped("timeout", "")
    if "call stack exhausted" in message:
        return Stopped("crash", "the recursion was too deep for the interpreter")
    if opaque and "`unreachable` instruction" in message:
        return Stopped("memory", "the interpreter gave up, as it does when its memory is full")
    if undefined := _UNDEFINED.search(message):
        return Stopped("error", f"functions have no {undefined[1]} ({undefined[2]})")
    last = message.strip().splitlines()[-1].strip() if message.strip() else "no reason given"
    return Stopped("crash", f"the interpreter broke: {last[:300]}")
