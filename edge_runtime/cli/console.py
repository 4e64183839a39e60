"""The terminal: where messages for the person and output for programs go."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from edge_runtime.errors import EdgeError


class _Console(Console):
    """Leaves a sentence in one piece for the terminal to wrap, so that a path or a command in it can be copied.

    Tables and trees are laid out for the terminal's width.
    """

    def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        """As rich's, with `soft_wrap` for what is only text."""
        if soft_wrap is None:
            soft_wrap = all(isinstance(each, str) for each in objects)
        super().print(*objects, soft_wrap=soft_wrap, **options)


out = _Console(highlight=False)
err = _Console(stderr=True, highlight=False)

ConfigPath = Annotated[
    Path, typer.Option("--config", "-c", help="The gateway's configuration file.", envvar="EDGE_CONFIG")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
CONFIG = Path("edge.toml")


def problem(error: EdgeError) -> None:
    """Say what was wrong and what to do."""
    err.print(f"[bold red]edge:[/] {escaped(str(error))}")
    if error.hint:
        err.print(f"      {escaped(error.hint)}")


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def ago(micros: int | None, now: int) -> str:
    """How long ago, for a table: `3 s`, `5 min`, `2 h`, `4 d`; a dash for never."""
    if micros is None:
        return "-"
    seconds = max(0, (now - micros) // 1_000_000)
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds // size} {unit}"
    return f"{seconds // 86_400} d"


def table(*columns: str) -> Table:
    """A table that fits a terminal of 80 columns; the names in its first column stay whole."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        found.add_column(name, no_wrap=number == 0)
    return found


MANY = 500
"""Rows from which on `columns` is for: a table takes a millisecond for each."""


def columns(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same in plain columns."""
    cells = [names, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
    return "\n".join(lines)


def count(number: int, what: str) -> str:
    """`1 record`, `2 records`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def took(micros: int) -> str:
    """A duration for a table: `0.25 s`, `3 s`, `5 min`; empty for none."""
    if micros < 1_000_000:
        return f"{micros / 1e6:.2f} s" if micros else ""
    return ago(0, micros)


def escaped(text: str) -> str:
    """Text as it stands, in a line that may have mark-up; what would command the terminal is shown as unknown."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text).replace(
        "[", "\\["
    )
