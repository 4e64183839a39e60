"""`edge trace`: where an event or command has come from, and what has come of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, escaped, out, print_json
from edge_runtime.cli.flows import moment
from edge_runtime.flows.lineage import Node, Step
from edge_runtime.planes.api_operations import TraceRequest
from edge_runtime.planes.client import connect
from edge_runtime.planes.moments import shown

COLOURS = {"event": "cyan", "command": "yellow", "dead-letter": "red", "unknown": "dim"}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(trace)


def trace(
    id: Annotated[str, typer.Argument(metavar="ID", help="Of an event or command, as `edge tail` shows it.")],
    since: Annotated[str, typer.Option(help="Search only what is newer: 1h, 2026-11-22T10:00.")] = "",
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show the lineage of an event or command: back to the device's event, and on to all effects."""
    with connect(config_path) as client:
        found = client.trace(TraceRequest(id, moment("", since)))
    if as_json:
        print_json(found)
        return
    for line in (_label(found.root), *_branches(found.root)):
        out.print(line)
    if not found.complete:
        out.print(f"There may be more: the search ended at record {found.last} or at its limits.")


def _branches(node: Node, before: str = "") -> Iterator[str]:
    """The lines below a node, each behind the strokes that make it a tree."""
    steps = [step for step in node.steps if step.type == "route" or step.state != "done"]
    parts: list[Step | Node] = [*steps, *node.effects]
    left = len(parts)
    for part in parts:
        left -= 1
        mine, below = ("├── ", "│   ") if left else ("└── ", "    ")
        if isinstance(part, Node):
            yield before + mine + _label(part)
            yield from _branches(part, before + below)
        else:
            yield f"{before}{mine}[dim]{part.type}[/] {part.flow}: {_coloured(part.state)}"


def _label(node: Node) -> str:
    colour = COLOURS[node.type]
    if node.type == "unknown":
        return f"[dim]event {escaped(node.id)}: not kept any more[/]"
    mark = " [reverse]this one[/]" if node.asked else ""
    by = f" by {node.flow}" + (f", epoch {node.epoch}" if node.epoch else "") if node.flow else ""
    if node.type == "dead-letter":
        return (
            f"[{colour}]dead letter {node.id}[/] {node.name}{by}, {node.state}: {escaped(str(node.data).strip()[:200])}"
        )
    data = escaped(msgspec.json.encode(node.data).decode()[:200])
    end = ""
    if node.type == "command":
        result = "" if node.result is None else f" {escaped(msgspec.json.encode(node.result).decode()[:200])}"
        end = f" -> {_coloured(node.state)}{result}"
    where = f"[dim]{shown(node.time)}, record {node.offset}[/]"
    return f"[{colour}]{node.type}[/] [bold]{node.name}[/] {escaped(node.id)}{by} {data}{end} {where}{mark}"


def _coloured(state: str) -> str:
    good, bad = ("done", "delivered"), ("dead letter", "failed", "unknown", "expired")
    return f"[{'green' if state in good else 'red' if state in bad else 'yellow'}]{state}[/]"
