"""The modules of an app: imported from its files in memory, with ordinary imports."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGES = ".packages/"
"""The folder of an app that holds the packages it was deployed with."""

_ENDING = ".py"
_INIT = "/__init__.py"


class Taken(Exception):
    """A file of the app has the name of a module that is there already."""

    def __init__(self, file: str, name: str) -> None:
        whose = "the gateway" if name == "edge" else "Python's standard library"
        super().__init__(f"'{name}' is a module of {whose}, which would hide this one: give it another name")
        self.file = file


class Modules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads the modules of one app.

    As on a disk: the app's own modules come before those of its packages, a package before a module of the same name,
    and a folder without `__init__.py` is a package too. The standard library and `edge` come before all: an own module
    that has such a name is refused with `Taken`, one of a package is not found.
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files
        self._paths: dict[str, str] = {}
        self._folders: set[str] = set()
        for path in files:
            if not path.startswith(PACKAGES):
                self._add(path, path)
        own = set(self._paths) | self._folders
        for name in own:
            if _is_taken(name):
                raise Taken(self._paths.get(name) or min(p for p in files if p.startswith(name + "/")), name)
        self._own = frozenset(self._paths)
        own_tops = {name.partition(".")[0] for name in own}
        for path in files:
            if path.startswith(PACKAGES):
                inside = path.removeprefix(PACKAGES)
                top = inside.partition("/")[0].removesuffix(_ENDING)
                if top not in own_tops and not _is_taken(top):
                    self._add(path, inside)

    def _add(self, path: str, inside: str) -> None:
        name = inside.removesuffix(_INIT).removesuffix(_ENDING)
        if "." in name:
            return  # no import has such a name
        name = name.replace("/", ".")
        if inside.endswith(_INIT) or name not in self._paths:
            self._paths[name] = path
        while "." in name:
            name = name.rpartition(".")[0]
            self._folders.add(name)

    def install(self) -> None:
        """Let imports find these modules, and no others that an app has brought before."""
        for finder in [finder for finder in sys.meta_path if isinstance(finder, Modules)]:
            finder.remove()
        if not sys.modules.keys().isdisjoint(tops := {name for name in self._paths if "." not in name} | self._folders):
            for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
                del sys.modules[name]
        sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """Undo `install`."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for name, module in list(sys.modules.items()):
            if getattr(module, "__loader__", None) is self:
                del sys.modules[name]

    def own(self) -> list[ModuleType]:
        """The app's own modules that have been imported."""
        return [sys.modules[name] for name in sorted(self._own) if name in sys.modules]

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The module's spec, where it is one of the app's."""
        if not self._has(fullname):
            return None
        file = self._paths.get(fullname)
        is_package = file is None or file.endswith(_INIT)
        return importlib.util.spec_from_loader(fullname, self, origin=file, is_package=is_package)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        file = self._paths.get(module.__name__)
        if file is not None:
            module.__file__ = file
            exec(compile(self._files[file], file, "exec", dont_inherit=True), module.__dict__)

    def get_source(self, fullname: str) -> str | None:
        """The module's text, for tracebacks and `inspect`."""
        file = self._paths.get(fullname)
        return None if file is None else self._files[file]

    def _has(self, name: str) -> bool:
        return name in self._paths or name in self._folders


def _is_taken(name: str) -> bool:
    return name == "edge" or name in sys.stdlib_module_names
