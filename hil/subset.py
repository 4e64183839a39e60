"""Takes from the firmware what one program needs, in as few bytes as it can, for a board that the whole does not fit.

The program imports names from `edge_device`. Those functions and classes are taken by their names, with all that they
use; of classes, the methods that something calls. Their text stays the firmware's own, but: comments and docstrings go,
constants are put in, what a known value makes unreachable goes, names become short. What comes out are pieces, each
to be compiled by itself on the board, since the compiler needs several times the memory of what it makes.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from edge_runtime.errors import EdgeError
from hil.inline import inline
from hil.shrink import fold, own_attributes, shared, shorten, stored, text
from hil.unread import drop_unread

PACKAGE = "edge_device"
_MAIN = "main"

Definition = ast.FunctionDef | ast.ClassDef


class SubsetError(EdgeError):
    """A program asks for what cannot be taken from the firmware."""


@dataclass(frozen=True)
class Subset:
    """What goes onto the board."""

    pieces: tuple[str, ...]
    """In the order in which they are to be run; the last is what the program does, the others define what it needs."""
    taken: tuple[str, ...]
    """What of the firmware is in them: `module.name` and `module.Class.method`."""


@dataclass
class _Module:
    """What stands at the top level of a file."""

    definitions: dict[str, Definition] = field(default_factory=dict)
    values: dict[str, ast.expr] = field(default_factory=dict)
    ours: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Names imported from the package: the module, and the name there (none for the module itself)."""
    foreign: dict[str, str] = field(default_factory=dict)
    """Names imported from elsewhere: the statement that does so."""
    actions: list[ast.stmt] = field(default_factory=list)


def take(folder: Path, program: str, known: Mapping[str, object] | None = None, inlined: Sequence[str] = ()) -> Subset:
    """The subset of the package in `folder` that `program`, a text, needs, the program included.

    `known` fixes values: of names (`"sha256": None`), of attributes (`".configured": False`), of calls and comparisons
    (`"len(readings) == 1": True`). What the program defines takes the place of what the modules have by that name.
    The functions and methods in `inlined` are put where they are called, one after the other. Raises SubsetError.
    """
    return _Taking(folder, dict(known or {})).take(program, inlined)


class _Taking:
    def __init__(self, folder: Path, known: dict[str, object]) -> None:
        self._folder = folder
        self._known = known
        self._modules: dict[str, _Module] = {}
        self._place: dict[str, str] = {}
        """The module of each name that was taken."""
        self._chosen: dict[str, Definition] = {}
        self._values: dict[str, ast.expr] = {}
        self._imports: dict[str, str] = {}

    def take(self, program: str, inlined: Sequence[str]) -> Subset:
        main = self._modules[_MAIN] = self._read(program)
        for name in [*main.definitions, *main.values]:
            self.choose(name, _MAIN)
        actions = [self._flat(node, _MAIN) for node in main.actions]
        changed = shared([*self._chosen.values()])
        literals = {
            name: node.value
            for name, node in self._values.items()
            if isinstance(node, ast.Constant) and name not in changed
        }
        assignments = [
            ast.Assign([ast.Name(name, ast.Store())], node)
            for name, node in self._values.items()
            if name not in literals
        ]
        actions = [done for node in actions for done in fold(node, literals)]
        nodes = [done for node in (*self._chosen.values(), *assignments) for done in fold(node, literals)] + actions
        _drop_uncalled(nodes)
        taken = self._names()
        for name in inlined:
            inline(nodes, name)
        _drop_uncalled(nodes)
        drop_unread(nodes)
        nodes = _used(nodes)
        attributes = own_attributes(nodes)
        # The largest first: compiling them takes the most memory, and there is never more of it than at the beginning.
        parts = sorted((part for node in nodes for part in _parts(node)), key=_weight)
        own = {*self._chosen, *self._values, *(name for node in actions for name in stored(node))}
        short = shorten(parts, own, attributes, set(self._imports))
        imports = "\n".join(dict.fromkeys(self._imports.values()))
        last = len(short) - sum(1 for node in nodes if any(node is action for action in actions))
        pieces = [imports, *map(text, short[:last]), "\n".join(map(text, short[last:]))]
        return Subset(tuple(piece for piece in pieces if piece), taken)

    def _names(self) -> tuple[str, ...]:
        names = []
        for name, place in self._place.items():
            node = self._chosen.get(name)
            if place == _MAIN or node is None:
                continue
            if isinstance(node, ast.ClassDef):
                names += [f"{place}.{name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)]
            else:
                names.append(f"{place}.{name}")
        return tuple(sorted(names))

    def choose(self, name: str, place: str) -> None:
        """Take a name of a module, and whatever that needs."""
        other = self._place.setdefault(name, place)
        if other != place:
            if other == _MAIN:
                return  # the program's own takes its place
            raise SubsetError(f"'{name}' is a name of {other}.py and of {place}.py; a subset has one for each thing")
        if name in self._chosen or name in self._values:
            return
        module = self._module(place)
        if name in module.definitions:
            self._chosen[name] = module.definitions[name]  # at once: functions may need each other
            node = self._flat(module.definitions[name], place)
            self._chosen[name] = cast(Definition, node)
        elif name in module.values:
            self._values[name] = self._flat(module.values[name], place)
        else:
            raise SubsetError(f"there is no '{name}' in {PACKAGE}/{place}.py")

    def foreign(self, name: str, statement: str) -> None:
        """Take an import from elsewhere, unless the program has its own."""
        if name not in self._modules[_MAIN].definitions:
            self._imports[name] = statement

    def _flat(self, node: Any, place: str) -> Any:
        return _Flat(self, self._module(place), place).visit(node)

    def _module(self, place: str) -> _Module:
        if place not in self._modules:
            path = self._folder / f"{place}.py"
            if not path.is_file():
                raise SubsetError(f"there is no {path}")
            self._modules[place] = self._read(path.read_text())
        return self._modules[place]

    def _read(self, source: str) -> _Module:
        module = _Module()
        nodes = [done for part in ast.parse(source).body for done in fold(part, self._known)]
        stores = Counter(name for node in nodes if not isinstance(node, Definition) for name in stored(node))
        for node in nodes:
            match node:
                case ast.FunctionDef() | ast.ClassDef():
                    module.definitions[node.name] = node
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if stores[name] == 1:
                    if isinstance(value, ast.Call) and ast.unparse(value.func) == "const":
                        value = value.args[0]
                    module.values[name] = value
                case ast.ImportFrom(module=source_name, names=aliases, level=level):
                    package, _, inner = (source_name or "").partition(".")
                    if level:
                        package, inner = PACKAGE, source_name or ""
                    for alias in aliases:
                        name = alias.asname or alias.name
                        if package == PACKAGE:
                            module.ours[name] = (inner, alias.name) if inner else (alias.name, "")
                        else:
                            module.foreign[name] = f"from {source_name} import {alias.name}"
                case ast.Import(names=aliases):
                    module.foreign |= {alias.name: f"import {alias.name}" for alias in aliases}
                case ast.Try():
                    pass  # an import that may be missing: `known` says which way it goes
                case _:
                    module.actions.append(node)
        return module


class _Flat(ast.NodeTransformer):
    """Puts names of one flat program in the place of a module's, and has them taken."""

    def __init__(self, taking: _Taking, module: _Module, place: str) -> None:
        self._taking = taking
        self._module = module
        self._place = place
        self._locals: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self._locals = {argument.arg for argument in node.args.args} | set(stored(node)) - shared([node])
        self.generic_visit(node)
        self._locals = set()
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id not in self._locals:
            place, name = self._module.ours.get(node.value.id, ("", "-"))
            if place and not name:
                self._taking.choose(node.attr, place)
                return ast.Name(node.attr, ast.Load())
        node.value = self.visit(node.value)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        name, module = node.id, self._module
        if name in self._locals:
            return node
        if name in module.ours:
            place, name = module.ours[name]
            self._taking.choose(name, place)
            return ast.Name(name, node.ctx)
        if name in module.definitions or name in module.values:
            self._taking.choose(name, self._place)
        elif name in module.foreign:
            self._taking.foreign(name, module.foreign[name])
        return node


def _drop_uncalled(nodes: list[ast.stmt]) -> None:
    """Leave out methods whose names stand nowhere but in their own text."""
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    while True:
        mentions: dict[str, set[int]] = {}
        for node in nodes:
            for part in node.body if isinstance(node, ast.ClassDef) else [node]:
                for inner in ast.walk(part):
                    if isinstance(inner, ast.Attribute):
                        mentions.setdefault(inner.attr, set()).add(id(part))
        dropped = False
        for node in classes:
            for part in list(node.body):
                called = mentions.get(getattr(part, "name", ""), set()) - {id(part)}
                if isinstance(part, ast.FunctionDef) and part.name != "__init__" and not called:
                    node.body.remove(part)
                    dropped = True
        if not dropped:
            return


def _used(nodes: list[ast.stmt]) -> list[ast.stmt]:
    """Without the tables and functions that nobody uses any more."""

    def is_kept(node: ast.stmt) -> bool:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict()) | ast.FunctionDef(name=name):
                return any(
                    isinstance(part, ast.Name) and part.id == name and isinstance(part.ctx, ast.Load)
                    for other in nodes
                    for part in ast.walk(other)
                )
        return True

    return [node for node in nodes if is_kept(node)]


def _weight(node: ast.stmt) -> tuple[int, int]:
    """What is run comes last, in its order; a class before its methods; functions by size."""
    if isinstance(node, ast.ClassDef):
        return 0, 0
    if isinstance(node, ast.FunctionDef | ast.Module):
        return 1, -sum(1 for _ in ast.walk(node))
    return 2, 0


def _parts(node: ast.stmt) -> list[ast.stmt]:
    """A class as its empty form and one piece for each method; anything else as it is."""
    if not isinstance(node, ast.ClassDef):
        return [node]
    kept: list[ast.stmt] = [part for part in node.body if not isinstance(part, ast.FunctionDef)]
    parts: list[ast.stmt] = [ast.ClassDef(node.name, node.bases, node.keywords, kept or [ast.Pass()], [])]
    for method in node.body:
        if isinstance(method, ast.FunctionDef):
            name = ast.Attribute(ast.Name(node.name, ast.Load()), method.name, ast.Store())
            method.name = "_"
            moved = ast.Assign([name], ast.Name("_", ast.Load()))
            parts.append(ast.Module([method, moved], []))  # type: ignore[arg-type]
    return parts
