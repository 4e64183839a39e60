"""Loads an app from its files and finds out what is wrong with it."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping

from edge._app import App, AppError
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
    """Run the source of `entry` and find its one `App`. Raises `LoadError`."""
    names = frozenset(files)
    module = types.ModuleType(entry.removesuffix(".py").replace("/", "."))
    module.__file__ = entry
    sys.modules[module.__name__] = module
    try:
        code = compile(files[entry], entry, "exec", dont_inherit=True)
        exec(code, module.__dict__)
        app = _only_app(module, entry)
    except LoadError:
        raise
    except BaseException as error:
        file, line = place(error, names)
        raise LoadError(file or entry, line, message(error)) from None
    return Loaded(app, names)


def _only_app(module: types.ModuleType, entry: str) -> App:
    apps = {id(value): value for value in vars(module).values() if isinstance(value, App)}
    if not apps:
        raise LoadError(entry, 0, 'no App found; add: from edge import App; app = App("name")')
    if len(apps) > 1:
        names = ", ".join(f"'{app.name}'" for app in apps.values())
        raise LoadError(entry, 0, f"{len(apps)} apps in one file ({names}); one file holds one app")
    app = next(iter(apps.values()))
    if not app.triggers:
        raise LoadError(
            entry, 0, f"the app '{app.name}' has no functions; put @app.on(...) or @app.route(...) before one"
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
