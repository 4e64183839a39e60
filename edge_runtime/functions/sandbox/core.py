"""The executor of a user's core WebAssembly module: one process, one module, any number of instances of it."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge._app import App, AppError
from edge._context import Context
from edge._event import Event
from edge._load import Loaded
from edge._runtime import run
from edge._terms import Given, OutputLimits, Terms
from wasmtime import Engine, Func, Linker, Memory, Module, Store, Trap, TrapCode, WasmtimeError

from edge_runtime.errors import EdgeError
from edge_runtime.functions.limits import MIB
from edge_runtime.functions.sandbox import executor
from edge_runtime.functions.sandbox.core_host import Call, Failed, Host
from edge_runtime.functions.sandbox.engine import core_engine
from edge_runtime.functions.sandbox.errors import Refusal, Stopped
from edge_runtime.functions.sandbox.instance import Done, ticks

_TRIGGERS = ("on", "route", "schedule", "http")
_TABLES = {"instances": 1, "tables": 4, "table_elements": 100_000, "memories": 1}
_PAGE = 65536
_FULL = 7 / 8
"""A module that gives up with so much of its memory in use has most likely run out of it: it is not told apart by
WebAssembly, where a refused growth is an answer and what follows is the program's own affair."""

_WORDS = {
    TrapCode.STACK_OVERFLOW: "the recursion was too deep",
    TrapCode.MEMORY_OUT_OF_BOUNDS: "it reached outside its memory",
    TrapCode.TABLE_OUT_OF_BOUNDS: "it reached outside a table",
    TrapCode.INDIRECT_CALL_TO_NULL: "it called a function pointer that is null",
    TrapCode.BAD_SIGNATURE: "it called a function pointer of another type",
    TrapCode.INTEGER_OVERFLOW: "an integer overflowed in a division",
    TrapCode.INTEGER_DIVISION_BY_ZERO: "it divided by zero",
    TrapCode.BAD_CONVERSION_TO_INTEGER: "it converted a number that no integer holds",
    TrapCode.UNREACHABLE: "it gave up (its code ran into 'unreachable': an abort, a panic or a failed assertion)",
}


class Modules:
    """Makes instances of one compiled module."""

    def __init__(self, engine: Engine, path: Path | str) -> None:
        self.engine = engine
        self.module = Module.deserialize_file(engine, str(path))
        self.host = Host()
        self.linker = Linker(engine)
        self.host.define(self.linker)

    def virgin(self, rehearse: bool = True) -> ModuleInstance:
        """A place for an instance: nothing of the user's runs before its limits are set."""
        return ModuleInstance(self)


class ModuleInstance:
    """One app in a module of its own. What a trap leaves behind is thrown away and made anew with the next event."""

    def __init__(self, modules: Modules) -> None:
        self._modules = modules
        self._memory = 64 * MIB
        self._terms = Terms()
        self._file = ""
        self._load_time = 0
        self._live: _Live | None = None

    def allow_memory(self, memory: int) -> None:
        """Let the module's memory grow to so many bytes."""
        self._memory = memory

    def load(self, source: str, seed: int, load_time: int) -> str:
        """Start the module and let it describe itself; answers the manifest (JSON). Raises `Refusal` or `Stopped`."""
        request = json.loads(source)
        grants = tuple(request.get("grants", ()))
        self._terms = Terms(OutputLimits(**request["limits"]), grants, request.get("data", {}))
        self._file = request["entry"]
        self._load_time = load_time
        random.seed(seed)
        self._live = self._started()
        return self._live.loaded.manifest()

    def run(self, function: str, events: str, given: str, time: int, done: Done) -> None:
        """Run a function over events (a JSON array), each within `time` microseconds. Raises `Stopped`."""
        provided = Given(**json.loads(given)) if given else Given()
        deadline = ticks(time)
        for fields in json.loads(events):
            if self._live is None:
                self._live = self._started()
            live = self._live
            live.store.set_epoch_deadline(deadline)
            outcome = run(live.loaded, function, Event(*fields), self._terms, provided)
            if live.stopped is not None:
                self.close()
                outcome = _restated(outcome, live.stopped, time)
            if not done(outcome):
                return

    def close(self) -> None:
        """Give back the memory."""
        if self._live is not None:
            self._live.store.close()
            self._live = None

    def _started(self) -> _Live:
        """A fresh instance that has described itself."""
        live = _Live(self._modules, self._memory, self._terms.limits.output)
        live.store.set_epoch_deadline(ticks(self._load_time))
        try:
            live.start(self._file)
        except (Stopped, Refusal):
            live.store.close()
            raise
        return live


def _restated(outcome: str, stopped: Stopped, time: int) -> str:
    """The outcome of a call that did not come back: for Python, whose words these are, all ends are exceptions."""
    fields = json.loads(outcome)
    if fields["type"] != "failed":
        return outcome  # it waits for an answer, and is called again with it
    detail = stopped.detail or f"it ran longer than {time // 1000} ms"
    return json.dumps({**fields, "reason": stopped.reason, "detail": detail})


class _Live:
    """One instance of a module, from its start to its first trap."""

    def __init__(self, modules: Modules, memory: int, room: int) -> None:
        self._modules = modules
        self._limit = memory
        self._room = room
        self._file = ""
        self._memory: Memory | None = None
        self._exports: dict[str, Func] = {}
        self._app: App | None = None
        self._triggers: list[dict[str, Any]] = []
        self.store = Store(modules.engine)
        self.store.set_limits(**_TABLES, memory_size=memory)
        self.loaded: Loaded
        self.stopped: Stopped | None = None
        """Why the last call ended it."""

    def start(self, file: str) -> None:
        """Instantiate; whatever runs now may call `edge.app` and `edge.trigger`. Raises `Refusal` or `Stopped`."""
        self._file = file
        call = self._modules.host.call = Call(self._register, self._room)
        try:
            exports = self._modules.linker.instantiate(self.store, self._modules.module).exports(self.store)
            found = {name: exports[name] for name in exports}
            self._exports = {name: export for name, export in found.items() if isinstance(export, Func)}
            memory = found["memory"]
            assert isinstance(memory, Memory)  # modules.py has refused any other
            self._memory = call.memory = memory
            for name in ("_initialize", "edge_app"):
                if name in self._exports:
                    self._exports[name](self.store)
        except (Trap, WasmtimeError) as error:
            raise self._why(error) from None
        except Stopped:
            raise
        except Exception as error:  # from one of our own functions, which did not like what it was handed
            raise self._refusal(error) from None
        self._build()

    def _register(self, what: str, described: dict[str, Any]) -> None:
        if what == "trigger":
            self._triggers.append(described)
        elif self._app is not None:
            raise Failed("edge.app was called twice: a module holds one app")
        else:
            self._app = App(**described)

    def _build(self) -> None:
        """The app that the module described, with functions that call into it."""
        try:
            if self._app is None:
                raise Failed('no app found: export edge_app, and call edge.app({"name": ...}) in it')
            for described in self._triggers:
                self._add(self._app, dict(described))
            if not self._triggers:
                raise Failed(f"the app '{self._app.name}' has no functions: call edge.trigger for each")
        except (AppError, Failed, TypeError, ValueError) as error:
            raise self._refusal(error) from None
        self.loaded = Loaded(self._app, frozenset())

    def _add(self, app: App, described: dict[str, Any]) -> None:
        kind, name = described.pop("type", "on"), described.pop("name", "")
        if kind not in _TRIGGERS:
            raise Failed(f"a trigger's type is one of {', '.join(_TRIGGERS)}, not {kind!r}")
        exported = self._exports.get(name) if isinstance(name, str) else None
        if exported is None:
            raise Failed(f"there is a trigger for {name!r}, but the module exports no such function")
        signature = exported.type(self.store)
        if signature.params or [str(result) for result in signature.results] not in ([], ["i32"]):
            raise Failed(f"the function {name!r} must take nothing, and return nothing or an i32")
        getattr(app, kind)(**described)(self._function(name, exported))

    def _function(self, name: str, exported: Func) -> Callable[[Event, Context], Any]:
        def function(event: Event, ctx: Context) -> Any:
            host = self._modules.host
            call = host.call = Call(None, self._room)
            call.memory, call.event, call.context = self._memory, event, ctx
            self.stopped = Stopped("error", "")  # unless it comes back
            try:
                status = exported(self.store)
            except (Trap, WasmtimeError) as error:
                self.stopped = self._why(error, name)
                raise
            except Stopped as stopped:
                self.stopped = stopped
                raise
            except BaseException as error:  # from our own functions: a mistake of the module's, a limit, a request
                reason = "output" if ctx._exceeded else "error"
                plain = isinstance(error, Failed) or ctx._exceeded
                detail = ctx._exceeded or (str(error) if plain else f"{type(error).__name__}: {error}")
                self.stopped = Stopped(reason, f"{detail}{'' if ' <- ' in detail else f' <- {name}'}"[:2000])
                raise
            if status:
                self.stopped = Stopped("error", f"{name} returned {status}, which says that it failed")
                raise Failed
            self.stopped = None
            return call.value

        function.__name__ = name
        return function

    def _why(self, error: Trap | WasmtimeError, function: str = "") -> Stopped:
        """A trap in plain words, with the functions that it came through, the innermost first."""
        code = error.trap_code if isinstance(error, Trap) else None
        if code is TrapCode.INTERRUPT:
            return Stopped("timeout", "")
        if code is None:
            last = [line.strip() for line in str(error).splitlines() if line.strip()]
            detail = (last[-1] if last else "no reason given")[:300]
            limited = "memory minimum" in detail or "exceeds memory limits" in detail
            return Stopped("memory" if limited else "crash", detail)
        names = [frame.func_name for frame in error.frames[:3] if frame.func_name] if isinstance(error, Trap) else []
        place = "".join(f" <- {name}" for name in names or [function] if name)
        used = self._memory.size(self.store) * _PAGE if self._memory is not None else 0
        if code in (TrapCode.UNREACHABLE, TrapCode.MEMORY_OUT_OF_BOUNDS) and used >= self._limit * _FULL:
            return Stopped("memory", f"the memory limit of {self._limit // MIB} MiB was reached{place}")
        return Stopped("error", f"{_WORDS.get(code, f'it was stopped ({code.name.lower()})')}{place}"[:2000])

    def _refusal(self, error: Exception) -> Refusal:
        reason = str(error) or type(error).__name__
        return Refusal(json.dumps({"file": self._file, "line": 0, "reason": reason[:2000]}))


def main() -> None:
    """The process: `argv` is the path of the module's machine code."""
    try:
        executor.run(Path(sys.argv[1]), 0, core_engine(), Modules)
    except EdgeError as error:
        sys.exit(f"{error}. {error.hint}".rstrip())
