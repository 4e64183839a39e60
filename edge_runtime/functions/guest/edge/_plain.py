"""Plain values: what can leave a function. The same rules hold on the wire to the boards."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 16
"""How deep lists and dicts may be nested."""

_encoder = json.JSONEncoder(allow_nan=False, separators=(",", ":"), check_circular=False)


def check(value: Any, depth: int = 0) -> None:
    """Raise `TypeError` or `ValueError` where `value` is not made of dict, list, str, number, bool and None."""
    if value is None or isinstance(value, (str, bool, float)):
        return
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"the integer {value if abs(value) < 10**30 else 'given'} does not fit 64 bits")
        return
    if depth >= MAX_DEPTH:
        raise ValueError(f"values are nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not text")
            check(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check(item, depth + 1)
    elif isinstance(value, (bytes, bytearray)):
        raise TypeError("bytes cannot leave a function; send text, for example base64.b64encode(...).decode()")
    else:
        raise TypeError(f"a value of type {type(value).__name__} is not plain (dict, list, str, number, bool or None)")


def dumps(value: Any) -> str:
    """The value as compact JSON in ASCII; raises as `check` does."""
    check(value)
    return _encoder.encode(value)
