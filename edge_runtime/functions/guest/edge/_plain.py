"""Plain values: what can leave a function. The same rules hold on the wire to the boards."""

from __future__ import annotations

import json
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import Any

MAX_DEPTH = 16
"""How deep lists and dicts may be nested."""

_SCALARS = frozenset({str, bool, float, type(None)})


def _encoder() -> Callable[[Any], str]:
    """Compact JSON of checked values. `json` itself makes an encoder for each: longer than a small value takes."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(allow_nan=False, separators=(",", ":"), check_circular=False).encode
    parts = make(None, None, encode_basestring_ascii, None, ":", ",", False, False, False)
    return lambda value: "".join(parts(value, 0))


_encode = _encoder()


def check(value: Any, depth: int = 0) -> None:
    """Raise `TypeError` or `ValueError` where `value` is not made of dict, list, str, number, bool and None."""
    if type(value) in _SCALARS or isinstance(value, (str, float)):
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
    if type(value) is str:
        return encode_basestring_ascii(value)
    check(value)
    return _encode(value)
