"""Puts the bodies of functions where they are called, for a processor whose stack is too short to call so deep."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy

from hil.shrink import shared, stored


def inline(nodes: Sequence[ast.stmt], name: str) -> None:
    """Put the body of the function or method `name` of these statements where they call it.

    A call must stand by itself, or be what is assigned or returned. ValueError where a `return` or `global` in it is in
    the way.
    """
    for callee in [part for node in nodes for part in _functions(node) if part.name == name]:
        if shared([callee]):
            raise ValueError(f"'{name}' cannot be put where it is called: it has a global statement")
        for node in nodes:
            for caller in _functions(node):
                if caller is not callee:
                    caller.body = _Inlining(callee).block(caller.body, tail=True)
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                _Inlining(callee).nested(node, tail=False)


def _functions(node: ast.stmt) -> Iterator[ast.FunctionDef]:
    return (part for part in ast.walk(node) if isinstance(part, ast.FunctionDef))


class _Inlining:
    def __init__(self, callee: ast.FunctionDef) -> None:
        self._callee = callee

    def block(self, statements: list[ast.stmt], *, tail: bool) -> list[ast.stmt]:
        """`tail` says that nothing of the caller comes after these."""
        out: list[ast.stmt] = []
        for at, node in enumerate(statements):
            following = statements[at + 1 : at + 2]
            leaves = isinstance(following[0], ast.Return) and following[0].value is None if following else tail
            out += self._statement(node, leaves)
        return out

    def nested(self, node: ast.stmt, *, tail: bool) -> None:
        """The blocks inside a statement."""
        inner = tail and isinstance(node, ast.If)
        for name in ("body", "orelse"):
            block = getattr(node, name, None)
            if block and not isinstance(node, ast.FunctionDef | ast.ClassDef):
                setattr(node, name, self.block(block, tail=inner))

    def _statement(self, node: ast.stmt, leaves: bool) -> list[ast.stmt]:
        match node:
            case ast.Expr(value=ast.Call() as call) if self._is_it(call):
                return self._body(call, None, keeps=leaves)
            case ast.Assign(value=ast.Call() as call) if self._is_it(call):
                return self._body(call, node, keeps=False)
            case ast.Return(value=ast.Call() as call) if self._is_it(call):
                body = self._body(call, None, keeps=True)
                return body if isinstance(body[-1], ast.Return) else [*body, ast.Return(None)]
        self.nested(node, tail=leaves)
        return [node]

    def _is_it(self, call: ast.Call) -> bool:
        match call.func:
            case ast.Name(id=name) | ast.Attribute(value=ast.Name(), attr=name):
                return name == self._callee.name
        return False

    def _body(self, call: ast.Call, assign: ast.Assign | None, *, keeps: bool) -> list[ast.stmt]:
        """The callee's statements with the call's arguments; `keeps` where a return may stay one."""
        callee = deepcopy(self._callee)
        given = [*([call.func.value] if isinstance(call.func, ast.Attribute) else []), *call.args]
        changed = stored(callee)
        names: dict[str, ast.expr] = {name: ast.Name(f"{callee.name}_{name}", ast.Load()) for name in changed}
        first: list[ast.stmt] = []
        for parameter, value in zip(callee.args.args, given, strict=True):
            if parameter.arg in changed or not isinstance(value, ast.Name | ast.Constant):
                own = f"{callee.name}_{parameter.arg}"
                first.append(ast.Assign([ast.Name(own, ast.Store())], value))
                value = ast.Name(own, ast.Load())
            names[parameter.arg] = value
        body = [_Replace(names).visit(node) for node in callee.body]
        returns = [part for node in body for part in ast.walk(node) if isinstance(part, ast.Return)]
        if not keeps and returns:
            last = body.pop()
            if returns != [last] or last.value is None:
                raise ValueError(f"'{callee.name}' cannot be put where it is called: it returns from its middle")
            if assign is not None:
                body.append(ast.Assign(assign.targets, last.value))
        return first + body


class _Replace(ast.NodeTransformer):
    def __init__(self, names: Mapping[str, ast.expr]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        found = self._names.get(node.id)
        if found is None:
            return node
        return ast.Name(found.id, node.ctx) if isinstance(found, ast.Name) else found

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        found = self._names.get(node.name or "")
        if isinstance(found, ast.Name):
            node.name = found.id
        return self.generic_visit(node)
