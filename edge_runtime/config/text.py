"""Every setting with its documentation and default: for docs/configuration.md, and for the file of `edge init`."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

import msgspec

from edge_runtime.config import sections
from edge_runtime.config.kinds import unit_of
from edge_runtime.config.sections import (
    TARGETS,
    AppSettings,
    Config,
    ControlSettings,
    MappingSettings,
    PaceSettings,
    SchemaSettings,
    SerialSettings,
    StreamSettings,
)


class Setting(msgspec.Struct, frozen=True):
    """One line of the documentation."""

    table: str
    name: str
    default: str
    """In TOML; empty where it must be given."""
    doc: str


def _texts() -> dict[str, dict[str, str]]:
    """The text under each field of each section, and under `""` that of the struct itself."""
    tree = ast.parse(inspect.getsource(sections))
    texts: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found = texts[node.name] = {"": ast.get_docstring(node) or ""}
            for field, text in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                ):
                    found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return texts


def _tables() -> list[tuple[str, type[msgspec.Struct]]]:
    fields = msgspec.structs.fields(Config)
    tables = [(field.name, field.type) for field in fields if field.name not in _NAMED]
    named = [("mappings.own.NAME", MappingSettings), ("schemas.KIND", SchemaSettings), ("apps.NAME", AppSettings)]
    named[2:2] = [("serial.NAME", SerialSettings), ("streams.NAME", StreamSettings)]
    named[0:0] = [("pace.NAME", PaceSettings), ("controls.NAME", ControlSettings)]
    return [*tables, *named, *(("targets.NAME", kind) for kind in TARGETS.values())]


_NAMED = ("schemas", "serial", "streams", "pace", "controls", "apps", "targets")
_EXAMPLES = {
    "mappings.own.NAME": "mappings.own.shelly",
    "schemas.KIND": "schemas.climate",
    "serial.NAME": "serial.boards",
    "streams.NAME": "streams.minute",
    "pace.NAME": "pace.loggers",
    "controls.NAME": "controls.fan",
    "apps.NAME": "apps.greenhouse",
    "targets.NAME": "targets.cloud",
}
_EXAMPLE_VALUES = {
    "topic": '"shellies/{device}/status"',
    "kind": '"power"',
    "file": '"climate.schema.json"',
    "emit": '"power.minute"',
    "command": '"fan"',
}


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the file."""
    texts = _texts()
    for table, kind in _tables():
        for field in msgspec.structs.fields(kind):
            if field.name != "own":  # has its own table
                yield Setting(table, field.name, _default(field), texts[kind.__name__][field.name])


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return json.dumps(get_args(field.type)[0]) if get_origin(field.type) is Literal else ""
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    unit = unit_of(field.type)
    if unit is not None:
        return unit.show(value)
    return json.dumps(str(value) if isinstance(value, Path) else value)


def default_text() -> str:
    """A configuration file for a person to start from: every setting with its default, as a comment."""
    texts = _texts()
    lines = [
        "# The configuration of an edge gateway. A line that starts with '#' shows a default.",
        '# Durations: "500ms", "10s", "5m", "1h", or a number of seconds.',
        '# Sizes: "64KiB", "64MiB", "2GiB", or a number of bytes.',
    ]
    for table, kind in _tables():
        # A table with a free name is an example and stays a comment as a whole.
        mark, shown = ("# ", _EXAMPLES[table]) if table in _EXAMPLES else ("", table)
        lines += ["", f"# {texts[kind.__name__]['']}", f"{mark}[{shown}]"]
        for setting in (setting for setting in settings() if setting.table == table):
            default = setting.default or _EXAMPLE_VALUES.get(setting.name, '"https://example.org/on-event"')
            lines += [*(f"# {line}" for line in setting.doc.splitlines()), f"# {setting.name} = {default}"]
    return "\n".join(lines) + "\n"


def lan_text() -> str:
    """The same for a gateway that boards reach over the network: with TLS, and announced."""
    text = default_text()
    for default, chosen in (
        ('# tls_listen = ""', 'tls_listen = "0.0.0.0:8883"'),
        ("# announce = false", "announce = true"),
    ):
        text = text.replace(default, chosen, 1)
    return text
