"""Loads an app from its files and finds out what is wrong with it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType

from edge._app import App, AppError
from edge._modules import Modules, Taken
from edge._plain import dumps

MAX_DETAIL = 2000
"""Characters of an error's description."""


class LoadError(Exception):
    """An app could not be loaded. `line` is 0 where no line is to blame."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}:{line}: {reason}" if line else f"{file}: {reason}")
        self.file = file
        self.line = line
        self.reason = reason


class Loaded:
    """An app in memory, with the files its code came from."""

    def __init__(self, app: App, files: frozenset[str]) -> None:
        self.app = app
        self.files = files

    def manifest(self) -> str:
        """The app's manifest as JSON."""
        return dumps(self.app.manifest())


def load(files: Mapping[str, str], entry: str) -> Loaded:
    """Import the module in the file `entry`, which may import the others, and find its one `App`.

    Raises `LoadError`. Only the app that was loaded last can still import what it has not imported yet.
    """
    names = frozenset(files)
    try:
        modules = Modules(files)
        modules.install()
        importlib.import_module(entry.removesuffix(".py"))
        app = _only_app(modules.own(), entry)
    except LoadError:
        raise
    except Taken as error:
        raise LoadError(error.file, 0, str(error)) from None
    except BaseException as error:
        file, line = place(error, names)
        raise LoadError(file or entry, line, message(error)) from None
    return Loaded(app, names)


def _only_app(modules: list[ModuleType], entry: str) -> App:
    found = {
        id(value): (value, module) for module in modules for value in vars(module).values() if isinstance(value, App)
    }
    if not found:
        raise LoadError(entry, 0, 'no App found; add: from edge import App; app = App("name")')
    if len(found) > 1:
        files = {module.__file__ for _, module in found.values()}
        what = "file" if len(files) == 1 else "folder"
        where = "" if len(files) == 1 else " in {}"
        names = ", ".join(f"'{app.name}'" + where.format(module.__file__) for app, module in found.values())
        raise LoadError(entry, 0, f"{len(found)} apps in one {what} ({names}); one {what} holds one app")
    [(app, _)] = found.values()
    if not app.triggers:
        raise LoadError(
            entry, 0, f"the app '{app.name}' has no functions; put @app.on(...), or another trigger, before one"
        )
    return app


def message(error: BaseException) -> str:
    """An error in a line."""
    if isinstance(error, SyntaxError):
        return f"{error.msg}: {error.text.strip()[:200]}" if error.text else str(error.msg)
    if isinstance(error, AppError):
        return str(error)
    text = str(error)[:MAX_DETAIL]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def frames(error: BaseException, files: frozenset[str]) -> list[tuple[str, int, str]]:
    """Where it passed through the app's own files: file, line and function, the outermost first."""
    found = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_filename in files:
            found.append((code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    return found


def place(error: BaseException, files: frozenset[str]) -> tuple[str, int]:
    """File and line to blame; empty and 0 where none of the app's is."""
    if isinstance(error, SyntaxError) and error.filename in files:
        return error.filename, error.lineno or 0
    found = frames(error, files)
    return (found[-1][0], found[-1][1]) if found else ("", 0)
