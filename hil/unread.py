"""Leaves out of a program what it computes for nobody: variables and parameters that are never read."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence


def drop_unread(nodes: Sequence[ast.stmt]) -> None:
    """Leave them out, with the arguments given for them; whoever computes more than a value for one keeps it."""
    while True:
        before = [ast.dump(node) for node in nodes]
        for function, calls in _callees(nodes):
            _drop_parameters(function, calls)
        for node in nodes:
            for function in _functions(node):
                _Unread(_read(function)).visit(function)
        if before == [ast.dump(node) for node in nodes]:
            return


def _functions(node: ast.AST) -> Iterator[ast.FunctionDef]:
    return (part for part in ast.walk(node) if isinstance(part, ast.FunctionDef))


def _callees(nodes: Sequence[ast.stmt]) -> Iterator[tuple[ast.FunctionDef, list[ast.Call]]]:
    """The functions and methods of which all uses are known, and these: calls by the one name that each has."""
    named: dict[str, list[ast.FunctionDef]] = {}
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            for method in _functions(node):
                name = node.name if method.name == "__init__" else "." + method.name
                named.setdefault(name, []).append(method)
        elif isinstance(node, ast.FunctionDef):
            named.setdefault(node.name, []).append(node)
    mentions: dict[str, int] = {}
    calls: dict[str, list[ast.Call]] = {}
    for part in (part for node in nodes for part in ast.walk(node)):
        if name := _name(part):
            mentions[name] = mentions.get(name, 0) + 1
        if isinstance(part, ast.Call) and not part.keywords and (name := _name(part.func)):
            calls.setdefault(name, []).append(part)
    for name, functions in named.items():
        if len(functions) == 1 and mentions.get(name, 0) == len(calls.get(name, [])):
            yield functions[0], calls.get(name, [])


def _name(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(attr=name):
            return "." + name
    return ""


def _drop_parameters(function: ast.FunctionDef, calls: Sequence[ast.Call]) -> None:
    read, parameters = _read(function), function.args.args
    is_method = bool(parameters) and parameters[0].arg == "self"
    for at in reversed(range(is_method, len(parameters))):
        place = at - is_method
        given = [call.args[place] for call in calls if place < len(call.args)]
        if parameters[at].arg in read or not all(map(_is_pure, given)):
            continue
        for call in calls:
            del call.args[place : place + 1]
        if (default := at - len(parameters) + len(function.args.defaults)) >= 0:
            del function.args.defaults[default]
        del parameters[at]


def _read(function: ast.FunctionDef) -> set[str]:
    return {p.id for p in ast.walk(function) if isinstance(p, ast.Name) and isinstance(p.ctx, ast.Load)}


def _is_pure(node: ast.expr) -> bool:
    """Whether nothing but a value comes of it; of methods, `get` of a table is known to be so."""
    calls = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
    return all(isinstance(call.func, ast.Attribute) and call.func.attr == "get" for call in calls)


class _Unread(ast.NodeTransformer):
    def __init__(self, read: set[str]) -> None:
        self._read = read

    def visit_Assign(self, node: ast.Assign) -> ast.stmt | None:
        match node.targets:
            case [ast.Name(id=name)] if name not in self._read and _is_pure(node.value):
                return None
        return node
