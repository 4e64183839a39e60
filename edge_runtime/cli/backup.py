"""`edge backup`, `edge restore`, `edge salvage`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_runtime import config
from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, out, print_json
from edge_runtime.clock import SystemClock
from edge_runtime.planes import backups
from edge_runtime.planes.client import Client, NotRunning


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(backup)
    app.command()(restore)
    app.command()(salvage)


def backup(
    to: Annotated[Path, typer.Argument(help="A new folder for the backup.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Save the journal and the apps, checked record by record, whether the gateway runs or not."""
    settings = config.load(config_path)
    try:
        with Client(settings.socket) as client:
            saved = client.backup(to.absolute())
    except NotRunning:
        saved = backups.backup_stopped(settings.gateway.data, to.absolute())
    if as_json:
        print_json(saved)
    else:
        out.print(f"Saved {saved.records} records ({saved.bytes} bytes) and the apps in {saved.folder}.")


def restore(
    source: Annotated[Path, typer.Argument(help="The folder of a backup.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Make the gateway's data folder from a backup; an existing one is not touched."""
    settings = config.load(config_path)
    restored = backups.restore(source.absolute(), settings.gateway.data)
    if as_json:
        print_json(restored)
    else:
        out.print(f"Restored {restored.records} records and the apps to {restored.folder}. Next: edge run")


def salvage(
    to: Annotated[Path, typer.Argument(help="A new folder for what can be saved.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Save what can still be read of a damaged journal, as a backup to restore from; the gateway must not run."""
    settings = config.load(config_path)
    report = backups.salvage(settings.gateway.data, to.absolute(), SystemClock().now())
    if as_json:
        print_json(report)
        return
    for line in report.lines():
        out.print(line, markup=False)
    out.print(f"Saved in {to}. Next: move the old data folder away, and 'edge restore {to}'.")
