"""What native functions can import: all of it is in memory before the lock, since there are no files behind it."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import marshal
import os
import sys
import sysconfig
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

from edge_runtime.errors import EdgeError

_LEFT_OUT = {
    *("__pycache__", "_pyrepl", "curses", "dbm", "ensurepip", "idlelib", "lib2to3", "multiprocessing"),
    *("pydoc_data", "site-packages", "dist-packages", "sqlite3", "test", "tests", "tkinter", "turtledemo", "venv"),
    *("wsgiref", "xmlrpc", "antigravity", "this", "lib-dynload"),
}
"""What needs processes, terminals or libraries that a function does not have, tests, and jests."""

_NO_EXTENSIONS = (
    "_test",
    "xx",
    "_xx",
    "_tkinter",
    "_curses",
    "_dbm",
    "_gdbm",
    "_sqlite3",
    "readline",
    "nis",
    "ossaudio",
)
"""Extensions of the standard library that are not loaded, by the beginnings of their names."""

_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "BLIS_NUM_THREADS")
"""A process with threads cannot be forked safely, and a function has no threads. Numeric libraries read these."""


class PreloadError(EdgeError):
    """A module that the operator lists cannot be had."""


def preload(modules: Sequence[str], folders: Sequence[str]) -> None:
    """Import what the operator lists, from `folders`, with what it would import at first use. Raises `PreloadError`."""
    before = sys.path[:]
    sys.path.extend(folders)
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        for name in modules:
            _import(name)
        for name in _extensions():
            with suppress(Exception):
                importlib.import_module(name)
    finally:
        for variable in _ONE_THREAD:
            os.environ.pop(variable, None)
        sys.path[:] = before
    if len(os.listdir("/proc/self/task")) > 1:
        raise PreloadError(
            f"importing {', '.join(modules)} started threads, and functions have none",
            hint="Take it out of 'preload' in edge.toml, or set the app's tier to \"wasm\".",
        )


def _import(name: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
            for attribute in dir(module):  # some packages import their parts when these are asked for (PEP 562)
                with suppress(Exception):
                    getattr(module, attribute)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PreloadError(
            f"'{name}' of 'preload' in edge.toml cannot be imported: {type(error).__name__}: {error}"[:500],
            hint="Install it where the gateway is installed, with the same pip.",
        ) from None


def _extensions() -> Iterator[str]:
    """The C extensions of the standard library: after the lock no machine code can be loaded."""
    folder = Path(sysconfig.get_path("platstdlib")) / "lib-dynload"
    for path in sorted(folder.glob("*.so")):
        suffix = next((end for end in EXTENSION_SUFFIXES if path.name.endswith(end)), None)
        if suffix and not path.name.startswith(_NO_EXTENSIONS):
            yield path.name.removesuffix(suffix)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of the standard library in memory, where they lie compressed: 5 MB, shared by all children."""

    def __init__(self, root: Path | None = None) -> None:
        self._modules = dict(_library(root or Path(sysconfig.get_path("stdlib"))))

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The module's spec, where it is one of ours."""
        entry = self._modules.get(fullname)
        return entry and importlib.util.spec_from_loader(fullname, self, is_package=entry[0])

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        _, compiled, packed = self._modules[module.__name__]
        content = zlib.decompress(packed)
        code = marshal.loads(content) if compiled else compile(content, f"<stdlib>/{module.__name__}", "exec")
        exec(code, module.__dict__)


def _library(root: Path) -> Iterator[tuple[str, tuple[bool, bool, bytes]]]:
    """The pure-Python standard library: for each name whether it is a package, whether it is compiled, its content."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and not name.startswith("config-"))
        for file in sorted(files):
            path = Path(folder, file)
            stem = path.relative_to(root).as_posix().removesuffix(".py")
            name = stem.removesuffix("/__init__").replace("/", ".")
            if file.endswith(".py") and name not in sys.modules and name not in _LEFT_OUT:
                code = _compiled(path)
                content = path.read_bytes() if code is None else code
                yield name, (file == "__init__.py", code is not None, zlib.compress(content, 1))


def _compiled(path: Path) -> bytes | None:
    """The module's code, marshalled, where this interpreter has compiled just this file before."""
    try:
        cached = Path(importlib.util.cache_from_source(str(path))).read_bytes()
        found = path.stat()
    except (OSError, NotImplementedError):
        return None
    fresh = cached[4:16] == b"".join(
        value.to_bytes(4, "little") for value in (0, int(found.st_mtime) & 0xFFFFFFFF, found.st_size & 0xFFFFFFFF)
    )
    if cached[:4] != importlib.util.MAGIC_NUMBER or not fresh:
        return None
    with suppress(ValueError, EOFError, TypeError):
        if isinstance(marshal.loads(cached[16:]), CodeType):
            return cached[16:]
    return None
