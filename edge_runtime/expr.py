"""The `where` language: a small, safe condition over an event's data.

    temperature > 30 and mode in ["auto", "boost"]
    10 <= gps.lat < 20 or levels[0] % 2 == 1
    not (door == "closed")

Field paths (`temperature`, `gps.lat`, `levels[0]`, `levels[-1]`, `tags["a b"]`), numbers, text in single or double
quotes, `true`, `false`, `null` (also `True`, `False`, `None`), lists of literals, `== != < <= > >= in`, `not in`,
`and or not`, `+ - * / %` and parentheses, with Python's precedence and chained comparisons. Nothing is called, and
nothing but the data is reached.

**Three values.** A condition is true, false or unknown, and only true matches. A missing field is unknown, and so is an
operation on values of the wrong type: ordering other than number with number or text with text, arithmetic on
anything but numbers, division by zero, `and`, `or`, `not` of something that is not a boolean. Unknown spreads as in
SQL: `not` unknown is unknown, unknown `and` false is false, unknown `or` true is true. `==` and `!=` are known for any
two values that are there: values of different types differ (`1 == 1.0` holds; `1 == true` and `1 == "1"` do not).
`x in y` looks into a list, for a part of a text, or for a key of a map. `%` has the sign of the divisor, as in Python.

Compiled into closures: `temperature > 30` takes a fraction of a microsecond. Evaluation never raises.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

MAX_LENGTH = 1000
"""Characters in an expression."""
MAX_DEPTH = 32
"""Levels of nesting, of parentheses as well as of operators."""


class ExpressionError(ValueError):
    """The text is not an expression. `column` counts from 1; `expected` says what could have stood there."""

    def __init__(self, column: int, found: str, expected: str) -> None:
        super().__init__(f"column {column}: found {found}, expected {expected}")
        self.column = column
        self.expected = expected


class Expression:
    """A compiled condition."""

    __slots__ = ("_run", "fields", "text")

    def __init__(self, text: str, fields: tuple[str, ...], run: Callable[[Any], Any]) -> None:
        self.text = text
        self.fields = fields
        """The field paths it reads, as written, in order of their first appearance."""
        self._run = run

    def matches(self, data: Any) -> bool:
        """Whether the condition is true of an event's data (plain values); never raises."""
        return self._run(data) is True

    def value(self, data: Any) -> Any:
        """What it comes to, a plain value; None where that is unknown or no number that events can hold (an integer of
        64 bits, a finite float). Never raises."""
        found = self._run(data)
        if found is _UNKNOWN:
            return None
        if type(found) is int:
            return found if -(2**63) <= found < 2**63 else None
        return None if type(found) is float and not math.isfinite(found) else found

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


def compile(text: str, wanted: str = "condition") -> Expression:
    """Compile an expression; blank text gives one that matches everything. Raises `ExpressionError`.

    With `wanted="any"` it need not be a condition: `value` tells what it comes to.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(MAX_LENGTH + 1, f"{len(text)} characters", f"at most {MAX_LENGTH}")
    if not text.strip():
        return Expression(text, (), lambda data: True)
    parser = _Parser(text)
    node = parser.whole(wanted)
    return Expression(text, tuple(parser.fields), node.run)


# --- Evaluation -------------------------------------------------------------------------------------------------

_Run = Callable[[Any], Any]


class _Unknown:
    """The third value."""


_UNKNOWN = _Unknown()


class _Node(NamedTuple):
    run: _Run
    type: str
    """What it yields when it is known: `condition`, `number`, `text`, `list`, `null`, or `any` for a field."""
    depth: int = 1
    literal: bool = False
    value: Any = None
    """Of a literal."""
    field: str | None = None
    """The name, where the node is a field of the topmost level."""


def _literal(value: Any, kind: str) -> _Node:
    return _Node(lambda data: value, kind, literal=True, value=value)


def _field(path: Sequence[str | int]) -> _Node:
    first, *rest = path

    def top(data: Any) -> Any:
        return data.get(first, _UNKNOWN) if type(data) is dict else _UNKNOWN

    def deep(data: Any) -> Any:
        for step in path:
            if type(data) is dict:
                data = data.get(step, _UNKNOWN)
            elif type(data) is list and type(step) is int and -len(data) <= step < len(data):
                data = data[step]
            else:
                return _UNKNOWN
        return data

    return _Node(deep, "any") if rest else _Node(top, "any", field=str(first))


def _is_number(value: Any) -> bool:
    kind = type(value)
    return kind is float or kind is int


def _equal(left: Any, right: Any) -> bool:
    """Equality of plain values in which a boolean is no number, at any depth."""
    kind = type(left)
    if kind is float or kind is int:
        return _is_number(right) and left == right
    if kind is not type(right):
        return False
    if kind is list:
        return len(left) == len(right) and all(map(_equal, left, right))
    if kind is dict:
        return left.keys() == right.keys() and all(_equal(value, right[key]) for key, value in left.items())
    return bool(left == right)


def _equals(left: Any, right: Any) -> Any:
    try:
        return _equal(left, right)
    except RecursionError:
        return _UNKNOWN


def _differs(left: Any, right: Any) -> Any:
    equal = _equals(left, right)
    return equal if equal is _UNKNOWN else not equal


def _contains(left: Any, right: Any) -> Any:
    kind = type(right)
    if kind is list:
        try:
            return any(_equal(left, item) for item in right)
        except RecursionError:
            return _UNKNOWN
    if type(left) is str and (kind is str or kind is dict):
        return left in right
    return _UNKNOWN


def _lacks(left: Any, right: Any) -> Any:
    found = _contains(left, right)
    return found if found is _UNKNOWN else not found


_ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_RELATION: dict[str, Callable[[Any, Any], Any]] = {
    "==": _equals,
    "!=": _differs,
    "in": _contains,
    "not in": _lacks,
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": operator.mod,
}


def _comparison(symbol: str, left: _Node, right: _Node) -> _Run:
    if symbol in _RELATION:
        return _related(_RELATION[symbol], left.run, right.run)
    if left.field is not None and right.literal and right.type == "number":
        return _field_against_number(_ORDER[symbol], left.field, right.value)
    return _ordered(_ORDER[symbol], left.run, right.run)


def _field_against_number(compare: Callable[[Any, Any], Any], field: str, number: float) -> _Run:
    """The commonest condition by far, in one call."""

    def run(data: Any) -> Any:
        if type(data) is dict:
            value = data.get(field)
            kind = type(value)
            if kind is float or kind is int:
                return compare(value, number)
        return _UNKNOWN

    return run


def _ordered(compare: Callable[[Any, Any], Any], left: _Run, right: _Run) -> _Run:
    def run(data: Any) -> Any:
        a, b = left(data), right(data)
        if (_is_number(a) and _is_number(b)) or (type(a) is str and type(b) is str):
            return compare(a, b)
        return _UNKNOWN

    return run


def _related(relation: Callable[[Any, Any], Any], left: _Run, right: _Run) -> _Run:
    def run(data: Any) -> Any:
        a, b = left(data), right(data)
        return _UNKNOWN if a is _UNKNOWN or b is _UNKNOWN else relation(a, b)

    return run


def _calculation(calculate: Callable[[Any, Any], Any], left: _Run, right: _Run) -> _Run:
    def run(data: Any) -> Any:
        a, b = left(data), right(data)
        if _is_number(a) and _is_number(b):
            try:
                return calculate(a, b)
            except ArithmeticError:
                pass
        return _UNKNOWN

    return run


def _negative(of: _Run) -> _Run:
    def run(data: Any) -> Any:
        value = of(data)
        return -value if _is_number(value) else _UNKNOWN

    return run


def _connected(parts: Sequence[_Run], decisive: bool) -> _Run:
    """`or` of the parts where True is decisive, `and` where False is."""

    def run(data: Any) -> Any:
        result: Any = not decisive
        for part in parts:
            value = part(data)
            if value is decisive:
                return decisive
            if value is not (not decisive):
                result = _UNKNOWN
        return result

    return run


def _negated(of: _Run) -> _Run:
    def run(data: Any) -> Any:
        value = of(data)
        if value is True:
            return False
        return True if value is False else _UNKNOWN

    return run


# --- Reading ----------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:
        (?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<name>[^\W\d]\w*)
      | (?P<symbol>==|!=|<=|>=|[-<>+*/%()\[\],.])
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_LITERALS: dict[str, tuple[Any, str]] = {
    "true": (True, "condition"),
    "True": (True, "condition"),
    "false": (False, "condition"),
    "False": (False, "condition"),
    "null": (None, "null"),
    "None": (None, "null"),
}
_RESERVED = frozenset({"and", "or", "not", "in", *_LITERALS})
_HABITS = {"=": "'==' to compare", "&": "'and'", "|": "'or'", "!": "'not' or '!='", "<>": "'!='"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_VALUE = "a field, a number, a text, 'true', 'false', 'null', '[' or '('"


class _Token(NamedTuple):
    kind: str
    """`number`, `text`, `name`, `end`; a symbol or a reserved word is its own kind."""
    text: str
    column: int

    @property
    def shown(self) -> str:
        return "the end" if self.kind == "end" else f"'{self.text}'"


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while True:
        match = _TOKEN.match(text, position)
        if match is None:
            rest = text[position:].lstrip(" \t\r\n")
            column = len(text) - len(rest) + 1
            if rest[0] in "\"'":
                raise ExpressionError(column, "a text without an end", f"a closing {rest[0]}")
            raise ExpressionError(column, f"'{rest[0]}'", _HABITS.get(rest[0], "an expression"))
        kind = match.lastgroup or "end"
        word = match[kind]
        own = kind == "symbol" or (kind == "name" and word in _RESERVED)
        tokens.append(_Token(word if own else kind, word, match.start(kind) + 1))
        if kind == "end":
            return tokens
        position = match.end()


class _Parser:
    """A Pratt parser that builds closures.

    Binding powers: `or` 1, `and` 2, `not` 3, comparisons 4, `+ -` 5, `* / %` 6, signs 7.
    """

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._nesting = 0
        self.fields: dict[str, None] = {}

    def whole(self, wanted: str) -> _Node:
        node = self._expression(0, wanted)
        if self._next.kind != "end":
            raise self._unexpected("an operator or the end")
        return node

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _unexpected(self, expected: str) -> ExpressionError:
        return ExpressionError(self._next.column, self._next.shown, expected)

    def _skip(self, kind: str, expected: str) -> None:
        if self._next.kind != kind:
            raise self._unexpected(expected)
        self._at += 1

    def _expression(self, power: int, wanted: str) -> _Node:
        """Read as far as the operators bind more tightly than `power`; `wanted` is the type that must come out."""
        start = self._next
        self._nesting += 1
        if self._nesting > MAX_DEPTH:
            raise ExpressionError(start.column, "too much nesting", f"at most {MAX_DEPTH} levels")
        node = self._prefix(power)
        while True:
            word = self._next.kind
            if word in ("or", "and") and power < (own := 1 if word == "or" else 2):
                node = self._connection(node, start, word, own)
            elif (word in _ORDER or word in _RELATION or word == "not") and power < 4:
                node = self._comparisons(node)
            elif word in _ARITHMETIC and power < (own := 5 if word in "+-" else 6):
                self._expect_type(node, "number", start)
                self._at += 1
                right = self._expression(own, "number")
                run = _calculation(_ARITHMETIC[word], node.run, right.run)
                node = self._checked(_Node(run, "number", 1 + max(node.depth, right.depth)), start)
            else:
                break
        self._nesting -= 1
        self._expect_type(node, wanted, start)
        return node

    def _expect_type(self, node: _Node, wanted: str, start: _Token) -> None:
        if wanted not in ("any", node.type) and node.type != "any":
            what = node.type if node.type == "null" else f"a {node.type}"
            raise ExpressionError(start.column, what, f"a {wanted}")

    def _checked(self, node: _Node, start: _Token) -> _Node:
        if node.depth > MAX_DEPTH:
            raise ExpressionError(start.column, "too many operators in a row", f"at most {MAX_DEPTH}")
        return node

    def _connection(self, first: _Node, start: _Token, word: str, power: int) -> _Node:
        self._expect_type(first, "condition", start)
        parts = [first]
        while self._next.kind == word:
            self._at += 1
            parts.append(self._expression(power, "condition"))
        run = _connected([part.run for part in parts], decisive=word == "or")
        return self._checked(_Node(run, "condition", 1 + max(part.depth for part in parts)), start)

    def _comparisons(self, left: _Node) -> _Node:
        start = self._next
        runs: list[_Run] = []
        depth = left.depth
        while (word := self._next.kind) in _ORDER or word in _RELATION or word == "not":
            self._at += 1
            if word == "not":
                self._skip("in", "'in' after 'not'")
                word = "not in"
            right = self._expression(4, "any")
            runs.append(_comparison(word, left, right))
            depth = max(depth, right.depth)
            left = right
        run = runs[0] if len(runs) == 1 else _connected(runs, decisive=False)
        return self._checked(_Node(run, "condition", 1 + depth), start)

    def _prefix(self, power: int) -> _Node:
        token = self._take()
        kind = token.kind
        if kind == "number":
            return self._number(token)
        if kind == "text":
            return _literal(_unquoted(token), "text")
        if kind in _LITERALS:
            return _literal(*_LITERALS[kind])
        if kind == "name":
            return self._path(token)
        if kind == "(":
            node = self._expression(0, "any")
            self._skip(")", "')' or an operator")
            return node
        if kind == "[":
            return self._list()
        if kind == "not" and power <= 3:
            of = self._expression(3, "condition")
            return self._checked(_Node(_negated(of.run), "condition", 1 + of.depth), token)
        if kind in ("-", "+"):
            of = self._expression(7, "number")
            if of.literal:
                return _literal(-of.value if kind == "-" else of.value, "number")
            sign = _negative if kind == "-" else _positive
            return self._checked(_Node(sign(of.run), "number", 1 + of.depth), token)
        self._at -= 1
        raise self._unexpected(_VALUE)

    def _number(self, token: _Token) -> _Node:
        if token.text.isdigit():
            number: float = int(token.text)
            if number >= 2**63:
                raise ExpressionError(token.column, token.shown, "an integer of at most 64 bits")
        else:
            number = float(token.text)
            if not math.isfinite(number):
                raise ExpressionError(token.column, token.shown, "a number that a 64-bit float can hold")
        return _literal(number, "number")

    def _list(self) -> _Node:
        items: list[Any] = []
        while self._next.kind != "]":
            start = self._next
            item = self._expression(4, "any")
            if not item.literal:
                raise ExpressionError(start.column, "something else", "a literal: lists hold only literals")
            items.append(item.value)
            if self._next.kind != ",":
                break
            self._at += 1
        self._skip("]", "',' or ']'")
        return _literal(items, "list")

    def _path(self, token: _Token) -> _Node:
        path: list[str | int] = [token.text]
        shown = token.text
        while self._next.kind in (".", "["):
            if self._take().kind == ".":
                # Any word may follow a dot, reserved or not: nothing else could stand there.
                if self._next.kind != "name" and self._next.kind not in _RESERVED:
                    raise self._unexpected("the name of a field")
                path.append(self._take().text)
                shown += f".{path[-1]}"
            else:
                path.append(self._index())
                shown += f"[{path[-1]!r}]"
        self.fields[shown] = None
        return _field(path)

    def _index(self) -> str | int:
        negative = self._next.kind == "-"
        self._at += negative
        token = self._next
        index: str | int
        if token.kind == "number" and token.text.isdigit():
            index = -int(token.text) if negative else int(token.text)
        elif token.kind == "text" and not negative:
            index = _unquoted(token)
        else:
            raise self._unexpected("a whole number or a text in quotes")
        self._at += 1
        self._skip("]", "']'")
        return index


def _positive(of: _Run) -> _Run:
    def run(data: Any) -> Any:
        value = of(data)
        return value if _is_number(value) else _UNKNOWN

    return run


def _unquoted(token: _Token) -> str:
    def replaced(match: re.Match[str]) -> str:
        escape = match[1]
        if len(escape) == 5:
            return chr(int(escape[1:], 16))
        if escape not in _ESCAPES:
            column = token.column + 1 + match.start()
            raise ExpressionError(column, f"'{match[0]}'", r"one of \\ \" \' \n \t \r \uXXXX")
        return _ESCAPES[escape]

    return _ESCAPE.sub(replaced, token.text[1:-1])
