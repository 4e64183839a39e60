"""The `where` language: readable cases, its errors, and Python itself as the oracle for what both understand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import expr
from edge_runtime.expr import ExpressionError

DATA: dict[str, Any] = {
    "temperature": 31.5,
    "count": 7,
    "zero": 0,
    "mode": "auto",
    "open": True,
    "shut": False,
    "nothing": None,
    "gps": {"lat": 52.5, "a b": 1, "and": 2},
    "levels": [1, 2, [3]],
    "tags": ["wet", "cold"],
    "nan": math.nan,
    "raw": b"\x00",
    "ключ": 1,
}

TRUE = [
    "temperature > 30",
    "30 < temperature",
    "temperature >= 31.5 and count <= 7",
    "5 < count < temperature < 40",
    "open",
    "not shut",
    "not (count == 8)",
    "mode == 'auto'",
    'mode != "off"',
    "mode in ['auto', 'boost']",
    "mode not in ['off',]",
    "'cold' in tags",
    "'ut' in mode",
    "'lat' in gps",
    "'lon' not in gps",
    "gps.lat > 52",
    "gps['a b'] == 1",
    "gps.and == 2",
    "levels[0] == 1",
    "levels[-1] == [3]",
    "levels == [1, 2, [3]]",
    "levels[2][0] == 3",
    "count % 2 == 1",
    "-count % 4 == 1",
    "count - 2 - 2 == 3",
    "count + 1 * 2 == 9",
    "(count + 1) * 2 == 16",
    "count / 2 == 3.5",
    "-(-count) == +count",
    "nothing == null",
    "nothing == None",
    "open == True and shut == false",
    "count != '7'",
    "count == 7.0",
    "count > 0 or missing > 0",
    "missing > 0 or count > 0",
    "nan != nan",
    "ключ == 1",
    "mode == '\\u0061uto'",
    "1e3 > .5 and 2. > 1",
    "true",
    "",
    "  ",
]

FALSE = ["temperature > 40", "not open", "shut", "1 < count < 5", "count == true", "open == 1", "count in [true, '7']"]

UNKNOWN = [
    "missing > 0",
    "missing == null",
    "missing != 1",
    "gps.lon == 1",
    "mode.x == 1",
    "levels[9] == 1",
    "levels.x == 1",
    "levels['x'] == 1",
    "mode > 3",
    "open > 0",
    "nothing < 1",
    "count",
    "mode",
    "count and open",
    "count / zero == 1",
    "count % zero == 1",
    "count + mode == 1",
    "-mode == 1",
    "+open == 1",
    "1 in count",
    "1 in mode",
    "1 in gps",
    "missing in [1]",
    "missing and open",
    "raw > 1",
    "count" + " * 9223372036854775807" * 20 + " / 2 > 1",
]


@pytest.mark.parametrize("text", TRUE)
def test_true_matches(text: str) -> None:
    assert expr.compile(text).matches(DATA) is True


@pytest.mark.parametrize("text", FALSE)
def test_false_does_not_match_and_its_opposite_does(text: str) -> None:
    assert expr.compile(text).matches(DATA) is False
    assert expr.compile(f"not ({text})").matches(DATA) is True


@pytest.mark.parametrize("text", UNKNOWN)
def test_unknown_does_not_match_and_neither_does_its_opposite(text: str) -> None:
    assert expr.compile(text).matches(DATA) is False
    assert expr.compile(f"not ({text})").matches(DATA) is False


@pytest.mark.parametrize("data", [None, 3, "temperature", [31], True, b""])
def test_data_that_is_no_map_has_no_fields(data: Any) -> None:
    assert not expr.compile("temperature > 30").matches(data)
    assert not expr.compile("temperature == 30").matches(data)


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("temperature >", 14, "a field"),
        ("temperature = 3", 13, "'=='"),
        ("open & shut", 6, "'and'"),
        ("open | shut", 6, "'or'"),
        ("!open", 1, "'not'"),
        ("(open", 6, "')'"),
        ("open shut", 6, "an operator or the end"),
        ("mode == 'auto", 9, "a closing '"),
        ("gps.", 5, "the name of a field"),
        ("gps[x]", 5, "a whole number or a text"),
        ("gps[1.5]", 5, "a whole number or a text"),
        ("gps[-'x']", 6, "a whole number or a text"),
        ("gps[1", 6, "']'"),
        ("count + 2", 1, "a condition"),
        ("open and 'x'", 10, "a condition"),
        ("count + (open == shut) > 1", 9, "a number"),
        ("count not 3", 11, "'in'"),
        ("count == not open", 10, "a field"),
        ("count in [mode]", 11, "a literal"),
        ("count in [1 2]", 13, "','"),
        ("count > 9223372036854775808", 9, "64 bits"),
        ("count > 1e999", 9, "a 64-bit float"),
        (r"mode == 'a\qb'", 11, "one of"),
        ("count > 1 $", 11, "an expression"),
        ("()", 2, "a field"),
        ("__import__('os')", 11, "an operator or the end"),
        ("(" * 33 + "open" + ")" * 33, 33, "at most 32 levels"),
        ("not " * 40 + "open", 129, "at most 32 levels"),
        ("0" + "+count" * 40 + " > 1", 1, "at most 32"),
        ("open" + " " * 1000, 1001, "at most 1000"),
    ],
)
def test_an_error_names_the_column_and_what_was_expected(text: str, column: int, expected: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        expr.compile(text)
    assert caught.value.column == column
    assert expected in caught.value.expected
    assert str(caught.value).startswith(f"column {column}: found ")


def test_the_fields_are_listed_once_in_order() -> None:
    compiled = expr.compile("gps.lat > 1 and levels[0] < count or gps.lat < 0 and tags['x'] == 'mode'")
    assert compiled.fields == ("gps.lat", "levels[0]", "count", "tags['x']")


def test_long_chains_of_and_or_are_allowed() -> None:
    assert expr.compile(" or ".join(["count == 1"] * 60 + ["open"])).matches(DATA)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("temperature * 2", 63.0),
        ("count", 7),
        ("mode", "auto"),
        ("levels", [1, 2, [3]]),
        ("count > 3", True),
        ("missing", None),
        ("count / zero", None),
        ("mode * 2", None),
        ("count > nothing", None),
        ("nan", None),
        ("temperature * 1e308", None),
        ("count * 9223372036854775807", None),
        ("-9223372036854775807 - 1", -(2**63)),
    ],
)
def test_an_expression_has_a_value_that_events_can_hold(text: str, expected: Any) -> None:
    found = expr.compile(text, "any").value(DATA)
    assert (type(found), found) == (type(expected), expected)


def test_values_nested_without_end_are_unknown_not_an_error() -> None:
    left: list[Any] = []
    right: list[Any] = []
    for _ in range(100_000):
        left, right = [left], [right]
    data = {"left": left, "right": right, "many": [right]}
    for text in ("left == right", "left != right", "left in many"):
        assert not expr.compile(text).matches(data)


# --- Python as the oracle: where every field is there and every type fits, both must agree -----------------------

NAMES = {"a": st.integers(-50, 50), "b": st.floats(-50, 50), "c": st.integers(1, 9)}
_numbers = st.one_of(
    st.sampled_from(sorted(NAMES)),
    st.integers(0, 60).map(str),
    st.floats(0, 60, allow_subnormal=False).map(repr),
)


def _nested_numbers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "%"]), inner).map(" ".join),
        inner.map("({})".format),
        inner.map("-{}".format),
    )


numbers = st.recursive(_numbers, _nested_numbers, max_leaves=5)
texts = st.sampled_from(["s", "'x'", '"xy"', "''", "'\\n'", "'\\''"])
orders = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
_conditions = st.one_of(
    st.tuples(numbers, orders, numbers).map(" ".join),
    st.tuples(numbers, orders, numbers, orders, numbers).map(" ".join),
    st.tuples(texts, orders, texts).map(" ".join),
    st.tuples(texts, st.sampled_from(["in", "not in"]), texts).map(" ".join),
    st.tuples(numbers, st.sampled_from(["in [1, 2, 3]", "not in [4, -5.5]"])).map(" ".join),
    st.tuples(numbers, st.just("in"), st.just("many")).map(" ".join),
    st.sampled_from(["True", "False", "yes", "no"]),
)


def _nested_conditions(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
        inner.map("not {}".format),
        inner.map("({})".format),
    )


conditions = st.recursive(_conditions, _nested_conditions, max_leaves=6)


@given(
    conditions.filter(lambda text: len(text) < 1000),
    st.fixed_dictionaries(NAMES),
    st.sampled_from(["x", "y", "\n", "'"]),
    st.lists(st.integers(-3, 3), max_size=3),
)
def test_it_agrees_with_python(text: str, numbers: dict[str, Any], s: str, many: list[int]) -> None:
    data = {**numbers, "s": s, "many": many, "yes": True, "no": False}
    try:
        expected = eval(text, {"__builtins__": {}}, data)
    except ZeroDivisionError:
        # Python gives up where ours goes on with unknown; it must only not raise.
        expr.compile(text).matches(data)
    else:
        assert expr.compile(text).matches(data) is expected


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "s"]), inner, max_size=3),
    max_leaves=8,
)


@given(conditions.filter(lambda text: len(text) < 1000), plain)
def test_it_never_raises_and_never_matches_together_with_its_opposite(text: str, data: Any) -> None:
    assert not (expr.compile(text).matches(data) and expr.compile(f"not ({text})").matches(data))


@given(st.text(alphabet="ab1.,'\"()[]<>=!+-*/% \\ndotrue", max_size=40))
def test_any_text_compiles_or_is_refused_with_a_column_inside_it(text: str) -> None:
    try:
        compiled = expr.compile(text)
    except ExpressionError as error:
        refusal = error
    else:
        assert compiled.matches(DATA) in (True, False)
        return
    assert 1 <= refusal.column <= len(text) + 1
