"""`edge explain`: how an app's functions run, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, escaped, out, print_json, table
from edge_runtime.planes.client import connect


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(explain)


def explain(
    app: Annotated[str, typer.Argument(metavar="APP", help="The app's name, as in `edge apps`.")],
    version: Annotated[str, typer.Option(help="A stored version, instead of the live one.")] = "",
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show how each trigger of an app runs, why so, what it keeps and what it should cost."""
    with connect(config_path) as client:
        found = client.explain(app, version)
    if as_json:
        print_json(found)
        return
    out.print(f"[bold]{escaped(found.app)}[/], version {escaped(found.version)}")
    for trigger in found.triggers:
        rows = table(escaped(trigger.trigger), "")
        rows.columns[0].no_wrap = True
        for part in trigger.parts:
            rows.add_row("[bold]flow[/]", f"[bold]{escaped(part.flow)}[/]")
            for name, text in (
                ("runs as", f"{part.runs_as}: {part.why}"),
                ("takes", part.takes),
                ("keeps", part.state),
                ("cost", part.cost),
            ):
                rows.add_row(name, escaped(text))
        out.print(rows)
