"""What may stand where a setting stands, in words: for messages, the template and the documentation."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, get_args, get_origin

from msgspec import Meta

from edge_runtime.config.values import Unit


def bounds_of(kind: Any) -> Meta | None:
    """The bounds of an annotated type."""
    return next((item for item in get_args(kind)[1:] if isinstance(item, Meta)), None)


def unit_of(kind: Any) -> Unit | None:
    """The unit that a setting of this type may have."""
    meta = bounds_of(kind) if get_origin(kind) is Annotated else None
    return meta.extra["unit"] if meta is not None and meta.extra else None


def shown(raw: Any) -> str:
    """A value of TOML, cut, for a message."""
    if type(raw) is str:
        return json.dumps(raw if len(raw) <= 40 else raw[:40] + "…", ensure_ascii=False)
    if type(raw) is dict:
        return "a table"
    if type(raw) is list:
        return "a list"
    return str(raw).lower() if type(raw) is bool else str(raw)[:40]


def expected(kind: Any) -> str:
    """What may stand there, in words."""
    described = bounds_of(kind)
    if described is not None and described.description:
        return described.description
    if get_origin(kind) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(kind))
    meta, unit = (bounds_of(kind), unit_of(kind)) if get_origin(kind) is Annotated else (None, None)
    base = get_args(kind)[0] if meta is not None else kind
    if base is str:
        if meta is not None and meta.pattern:
            return "1 to 64 letters, digits, '_', '.' or '-', the first a letter or digit"
        return f"a text of at most {meta.max_length} characters" if meta is not None else "a text in quotes"
    if get_origin(base) is tuple:
        choices = get_args(get_args(base)[0]) if get_origin(get_args(base)[0]) is Literal else ()
        if choices:
            return "a list of " + ", ".join(f'"{choice}"' for choice in choices)
        return 'a list of modules, such as ["numpy"]'
    if get_origin(base) is dict:
        return 'a table of texts, such as { power = "ENERGY.Power" }'
    name = (
        f"a {unit.name}"
        if unit
        else "true or false"
        if base is bool
        else "a whole number"
        if base is int
        else "a number"
    )
    if meta is None:
        return name
    show = unit.show if unit else str
    return f"{name} from {show(meta.ge)} to {show(meta.le)}"  # type: ignore[arg-type]
