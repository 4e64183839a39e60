"""`edge tail`: what enters the journal, as it does."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated

import msgspec
import typer

from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, out
from edge_runtime.cli.devices import check_device
from edge_runtime.planes.client import connect
from edge_runtime.planes.messages import Line

COLOURS = {"event": "cyan", "command": "yellow", "command-end": "green", "dead-letter": "red"}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(tail)


def tail(
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
    after: Annotated[
        int | None, typer.Option(help="Start after this record; -1 for the whole journal. Default: now.")
    ] = None,
    device: Annotated[str, typer.Option(help="Only this device.")] = "",
    kind: Annotated[str, typer.Option(help="Only events of this kind, commands of this name.")] = "",
    only: Annotated[str, typer.Option("--type", help="Only event, command, command-end or dead-letter.")] = "",
    follow: Annotated[bool, typer.Option(help="Go on with what comes.")] = True,
) -> None:
    """Show events, commands and dead letters as they enter the journal, until Ctrl-C."""
    with connect(config_path) as client:
        check_device(client, device)
        for line in client.tail(after, follow=follow):
            if (device and line.device != device) or (kind and line.name != kind) or (only and line.type != only):
                continue
            if as_json:
                sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
                sys.stdout.flush()
            else:
                out.print(render(line))


def render(line: Line) -> str:
    """One record as a coloured line."""
    time = datetime.fromtimestamp(line.time / 1e6).strftime("%H:%M:%S.%f")[:-3]
    colour = COLOURS.get(line.type, "white")
    data = "" if line.data is None else msgspec.json.encode(line.data).decode().replace("[", "\\[")
    cause = f" [dim]because of {line.cause}[/]" if line.cause else ""
    return (
        f"[dim]{line.offset:>8} {time}[/] [{colour}]{line.type:<11}[/] {line.device} [bold]{line.name}[/] {data}{cause}"
    )
