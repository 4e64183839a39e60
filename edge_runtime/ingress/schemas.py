"""What events of a kind must look like: JSON Schema (draft 2020-12), read once when the gateway starts.

`jsonschema_rs` is imported only where there is a schema: it is 15 MB on disk and loaded in 20 ms.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError

MAX_FILE = 1 << 20
MAX_SHOWN = 300
"""Characters of a complaint: it may quote the event."""

Check = Callable[[Any], str]
"""Given an event's data: what is wrong with it and where, or nothing."""


def load(files: Mapping[str, Path]) -> dict[str, Check]:
    """The checks by kind. Raises ConfigError for a schema that cannot be used, with its file and place."""
    return {kind: _compile(path) for kind, path in files.items()}


def _compile(path: Path) -> Check:
    import jsonschema_rs

    text, schema = _read(path)
    try:
        validator = jsonschema_rs.Draft202012Validator(
            schema,
            offline=True,
            # Linear in the text, whatever the expression: what devices send must not be able to keep the gateway busy.
            pattern_options=jsonschema_rs.RegexOptions(),
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        where = [str(part) for part in getattr(error, "instance_path", [])]
        what = str(getattr(error, "message", "") or error).splitlines()[0]
        place = f", line {_line_of(text, where)}, at {_pointer(where)}" if where else ""
        raise ConfigError(
            f"{path}{place}: not a JSON Schema: {what[:MAX_SHOWN]}.",
            hint="Draft 2020-12, complete in one file: references to other files or addresses are not followed.",
        ) from None

    def check(data: Any) -> str:
        try:
            if validator.is_valid(data):
                return ""
            complaint = next(iter(validator.iter_errors(data)))
        except ValueError as error:  # a value that JSON does not have
            return f"the data cannot be compared with the schema of its kind: {str(error)[:MAX_SHOWN]}"
        where = _pointer([str(part) for part in complaint.instance_path])
        return f"{where}: {complaint.message[:MAX_SHOWN]}"

    return check


def _read(path: Path) -> tuple[str, Any]:
    try:
        if path.stat().st_size > MAX_FILE:
            raise ConfigError(f"{path}: a schema has at most {MAX_FILE >> 20} MiB.")
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: the schema cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: the schema is not UTF-8 text.") from None
    try:
        return text, json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {error.lineno}: not readable as JSON: {error.msg}.") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply.") from None


def _pointer(path: list[str]) -> str:
    """A place in the data, as of RFC 6901, or in words."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path) or "the data as a whole"


def _line_of(text: str, path: list[str]) -> int:
    """About where a place of a JSON text is: the line after which all names on the way to it have come, in turn."""
    at = 0
    for name in path:
        found = text.find(json.dumps(name), at)
        at = found if found >= 0 else at
    return text.count("\n", 0, at) + 1
