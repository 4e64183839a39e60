"""The guest without WebAssembly: the very `guest/main.py` that runs there, in this interpreter."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import edge_runtime.functions
from edge_runtime.functions.sandbox.native import library

SOURCES = Path(edge_runtime.functions.__file__).parent / "guest"


class Err(Exception):
    """What a guest raises where its interface has a result: the stand-in for componentize-py's."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


class Guest:
    """The guest's two functions. Until `on_done` is set it may report nothing."""

    def __init__(self, main: Any, host: ModuleType, preloaded: Sequence[str] = ()) -> None:
        self._world = main.WitWorld()
        self._rehearse = main._rehearse
        self._host = host
        self._kept = {name.partition(".")[0] for name in preloaded}

    def forget_ours(self) -> None:
        """Take out of `sys` what is the gateway's and the machine's, and nothing that a function could miss."""
        for name in list(sys.modules):
            top = name.partition(".")[0]
            if top in ("edge_runtime", "msgspec", "main", "stdlib", "__main__") and top not in self._kept:
                del sys.modules[name]
        sys.modules["__main__"] = ModuleType("__main__")
        sys.path.clear()
        sys.path_importer_cache.clear()
        sys.argv[:] = [""]
        sys.orig_argv[:] = []
        os.environ.clear()

    def rehearse(self) -> None:
        """Do once what every app does: in a new process that copies the pages that it takes, before there is hurry."""
        self._rehearse()

    def on_done(self, done: Callable[[str], bool]) -> None:
        """From here on outcomes go to `done`, which answers whether to go on."""
        self._host.done = done  # type: ignore[attr-defined]

    def load(self, app: str, seed: int) -> tuple[bool, str]:
        """Load an app: True and its manifest, or False and what is wrong with it; both are JSON."""
        try:
            return True, str(self._world.load(app, seed))
        except Err as error:
            return False, str(error.value)

    def run(self, function: str, events: str, given: str) -> None:
        """Run a function over events, reporting the outcome of each."""
        self._world.run(function, events, given)


def prepare(modules: Sequence[str], folders: Sequence[str]) -> Guest:
    """Import everything that functions can use, and the guest. The process's `sys` is the guest's from then on.

    Raises `PreloadError`.
    """
    library.preload(modules, folders)
    host = _module("wit_world.imports.host")
    imports = _module("wit_world.imports", host=host)
    _module("wit_world", imports=imports, WitWorld=type("WitWorld", (), {}))
    _module("componentize_py_types", Err=Err)
    _module("stdlib", Finder=library.Finder)
    sys.modules.pop("main", None)  # one that was preloaded
    sys.path.insert(0, str(SOURCES))
    main = importlib.import_module("main")
    return Guest(main, host, modules)


def _module(name: str, **content: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module
    return module
