"""What may leave a function, and what it looks like then."""

from __future__ import annotations

import json
from typing import Any

import pytest
from edge import _plain
from hypothesis import given
from hypothesis import strategies as st

scalars = st.none() | st.booleans() | st.text(max_size=10) | st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    scalars | st.integers(-(2**63), 2**63 - 1),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_plain_values_leave_as_compact_json(value: Any) -> None:
    assert _plain.dumps(value) == json.dumps(value, separators=(",", ":"))


def test_without_the_accelerator_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("json.encoder.c_make_encoder", None)
    assert _plain._encoder()({"a": [1, 2.5, None, "ü"]}) == '{"a":[1,2.5,null,"\\u00fc"]}'


class Text(str):
    pass


def test_values_of_a_subclass_count_as_what_they_are() -> None:
    assert _plain.dumps([Text("a"), {Text("b"): True}, (1, 2)]) == '["a",{"b":true},[1,2]]'


deep: list[Any] = []
for _ in range(_plain.MAX_DEPTH):
    deep = [deep]


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        float("nan"),
        [float("inf")],
        {1: 2},
        b"x",
        [bytearray()],
        {"a": {1, 2}},
        object(),
        deep,
        {"a": Exception()},
    ],
)
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        _plain.dumps(value)
