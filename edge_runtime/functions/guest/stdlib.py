"""The standard library inside the guest: compiled when the guest is built, imported without any file system."""

from __future__ import annotations

import importlib.abc
import importlib.util
import marshal
import os
import sys
import zlib
from importlib.machinery import ModuleSpec
from types import ModuleType

_LEFT_OUT = {
    *("__pycache__", "_pyrepl", "ctypes", "curses", "dbm", "ensurepip", "idlelib", "lib2to3", "multiprocessing"),
    *("pydoc_data", "site-packages", "sqlite3", "test", "tests", "tkinter", "turtledemo", "venv", "wsgiref", "xmlrpc"),
}
"""Packages that need processes, terminals or libraries that a guest does not have, and tests."""


def _modules() -> dict[str, tuple[bool, bytes]]:
    found = {}
    for root in sys.path:
        if not os.path.exists(f"{root}/os.py"):
            continue
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name not in _LEFT_OUT]
            for file in files:
                path = f"{folder}/{file}"[len(root) + 1 :]
                name = path.removesuffix(".py").replace("/", ".")
                if not file.endswith(".py") or name in sys.modules:
                    continue
                with open(f"{root}/{path}", encoding="utf-8") as source:
                    code = compile(source.read(), f"<stdlib>/{path}", "exec", optimize=2)
                found[name.removesuffix(".__init__")] = (
                    file == "__init__.py",
                    zlib.compress(marshal.dumps(code), 9),
                )
    return found


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of the standard library that were compiled into this guest."""

    def __init__(self) -> None:
        self._modules = _modules()

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The module's spec, where it is one of ours."""
        entry = self._modules.get(fullname)
        return entry and importlib.util.spec_from_loader(fullname, self, is_package=entry[0])

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        exec(marshal.loads(zlib.decompress(self._modules[module.__name__][1])), module.__dict__)
