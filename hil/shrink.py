"""Makes Python text short for a compiler with little memory: constants put in, dead branches gone, short names."""

from __future__ import annotations

import ast
import builtins
import keyword
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from itertools import product
from string import ascii_letters
from tokenize import DEDENT, INDENT, NEWLINE, NL, generate_tokens
from typing import Any, cast

GIVEN = frozenset(dir(builtins)).union(*(dir(kind) for kind in (bytes, bytearray, str, list, dict, int)))
"""Names that are not ours to change."""


def fold(node: ast.stmt, known: Mapping[str, object]) -> list[ast.stmt]:
    """A statement with values put in for names (`"x"`), attributes (`".x"`) and other expressions (`"len(x) == 1"`).

    What these decide is left out, and what is stored for such attributes.
    """
    done = _Fold(known).visit(node)
    if done is None:
        return []
    return list(done) if isinstance(done, list) else [done]


class _Fold(ast.NodeTransformer):
    def __init__(self, known: Mapping[str, object]) -> None:
        self._known = known

    def visit(self, node: ast.AST) -> Any:
        """As its base does, but for expressions whose text is known."""
        if isinstance(node, ast.Call | ast.Compare) and (found := ast.unparse(node)) in self._known:
            return ast.Constant(self._known[found])  # type: ignore[arg-type]
        return super().visit(node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and node.id in self._known:
            return ast.Constant(self._known[node.id])  # type: ignore[arg-type]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and "." + node.attr in self._known:
            return ast.Constant(self._known["." + node.attr])  # type: ignore[arg-type]
        node.value = self.visit(node.value)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.stmt | None:
        left = [t for t in node.targets if not (isinstance(t, ast.Attribute) and "." + t.attr in self._known)]
        if not left:
            return None
        node.targets = left
        return cast(ast.stmt, self.generic_visit(node))

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt | None:
        if isinstance(node.target, ast.Attribute) and "." + node.target.attr in self._known:
            return None
        return cast(ast.stmt, self.generic_visit(node))

    def visit_Expr(self, node: ast.Expr) -> ast.stmt | None:
        node.value = self.visit(node.value)
        return None if isinstance(node.value, ast.Constant) else node  # a docstring, or nothing any more

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.stmt:
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt]:
        test = self.visit(node.test)
        if isinstance(test, ast.Constant):
            return [done for part in (node.body if test.value else node.orelse) for done in fold(part, self._known)]
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        test = self.visit(node.test)
        if isinstance(test, ast.Constant):
            return cast(ast.expr, self.visit(node.body if test.value else node.orelse))
        return cast(ast.expr, self.generic_visit(node))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        stops = isinstance(node.op, ast.Or)
        values: list[ast.expr] = []
        for value in node.values:
            done = self.visit(value)
            if not isinstance(done, ast.Constant):
                values.append(done)
            elif bool(done.value) == stops:  # whatever stands behind it is not looked at
                values.append(done)
                break
        if not values:
            return ast.Constant(not stops)
        if isinstance(values[0], ast.Constant) or len(values) == 1:
            return values[0]
        node.values = values
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        left, right = node.left, node.comparators[0]
        literals = isinstance(left, ast.Constant) and isinstance(right, ast.Constant) and len(node.ops) == 1
        if literals and isinstance(node.ops[0], ast.Is | ast.IsNot):
            return ast.Constant((left.value is right.value) == isinstance(node.ops[0], ast.Is))  # type: ignore[attr-defined]
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "encode" and not node.args:
            # The same for a MicroPython before 1.10, whose texts have no such method.
            return ast.Call(ast.Name("bytes", ast.Load()), [node.func.value, ast.Constant("utf-8")], [])
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.stmt:
        if isinstance(node.exc, ast.Call):  # what it would say is text, and takes memory
            node.exc = node.exc.func
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        left, right = node.left, node.right
        if isinstance(left, ast.Constant) and isinstance(right, ast.Constant):
            return ast.Constant(eval(ast.unparse(node)))  # of two literals
        if isinstance(node.op, ast.BitOr):
            for one, other in ((left, right), (right, left)):
                if isinstance(one, ast.Constant) and one.value == 0:
                    return other
        return node


def text(node: ast.stmt) -> str:
    """The text of a statement with no more space than it needs."""
    out, line, depth = [], "", 0
    for token in generate_tokens(StringIO(ast.unparse(ast.fix_missing_locations(node)) + "\n").readline):
        if token.type == INDENT:
            depth += 1
        elif token.type == DEDENT:
            depth -= 1
        elif token.type in (NEWLINE, NL):
            out += [line] if line else []
            line = ""
        elif token.string:
            line = line or " " * depth
            line += " " * (_is_word(line[-1:]) and _is_word(token.string[0])) + token.string
    return "\n".join(out)


def _is_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def own_attributes(nodes: Iterable[ast.AST]) -> set[str]:
    """Names of methods and of attributes that `self` is given."""
    found: set[str] = set()
    for node in nodes:
        for part in ast.walk(node):
            if isinstance(part, ast.ClassDef):
                found |= {method.name for method in part.body if isinstance(method, ast.FunctionDef)}
            elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                found.add(part.attr)
    return {name for name in found if name not in GIVEN and not name.startswith("__")}


def shorten(nodes: Sequence[ast.stmt], own: set[str], attributes: set[str], taken: set[str]) -> list[ast.stmt]:
    """The same statements with short names for `own` globals, `attributes`, and the variables of functions.

    `taken` names are used otherwise. Functions of ours must be called without keywords.
    """
    used = taken | {part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)} - own
    free = (name for name in _names() if name not in used and name not in GIVEN)
    globals_ = {name: next(free) for name in sorted(own)}
    # Attributes and variables are looked up apart: the same letters serve again, and cost no further memory.
    renamed = dict(zip(sorted(attributes), _names(), strict=False))
    return [cast(ast.stmt, _Rename(globals_, renamed).visit(node)) for node in nodes]


def _names() -> Iterator[str]:
    """All of one letter, then all of two."""
    for size in (1, 2):
        for letters in product(ascii_letters, repeat=size):
            name = "".join(letters)
            if not keyword.iskeyword(name):
                yield name


class _Rename(ast.NodeTransformer):
    def __init__(self, globals_: Mapping[str, str], attributes: Mapping[str, str]) -> None:
        self._globals = globals_
        self._attributes = attributes
        self._locals: dict[str, str] = {}

    def visit_Name(self, node: ast.Name) -> ast.expr:
        node.id = self._locals.get(node.id) or self._globals.get(node.id, node.id)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.ExceptHandler:
        if node.name:
            node.name = self._locals.get(node.name) or self._globals.get(node.name, node.name)
        return cast(ast.ExceptHandler, self.generic_visit(node))

    def visit_Global(self, node: ast.Global) -> ast.stmt:
        node.names = [self._globals[name] for name in node.names]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        node.value = self.visit(node.value)
        node.attr = self._attributes.get(node.attr, node.attr)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        node.name = self._globals.get(node.name, node.name)
        return cast(ast.stmt, self.generic_visit(node))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.stmt:
        node.name = self._attributes.get(node.name) or self._globals.get(node.name, node.name)
        variables = list(dict.fromkeys([argument.arg for argument in node.args.args] + stored(node)))
        variables = [name for name in variables if name not in shared([node])]
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}.difference(variables)
        taken = {self._globals.get(name, name) for name in names}
        self._locals = dict(zip(variables, (name for name in _names() if name not in taken), strict=False))
        for argument in node.args.args:
            argument.arg = self._locals[argument.arg]
        self.generic_visit(node)
        self._locals = {}
        return node


def stored(node: ast.AST) -> list[str]:
    """The variables that a function assigns to, in their order."""
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load)] + [
        part.name for part in ast.walk(node) if isinstance(part, ast.ExceptHandler) and part.name
    ]


def shared(nodes: Iterable[ast.AST]) -> set[str]:
    """The names that functions declare `global`, so that they change."""
    return {name for node in nodes for part in ast.walk(node) if isinstance(part, ast.Global) for name in part.names}
