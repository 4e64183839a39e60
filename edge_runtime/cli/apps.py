"""`edge deploy`, `edge apps`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.cli.approval import Granted, approved
from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, ago, count, escaped, out, print_json, table
from edge_runtime.clock import SystemClock
from edge_runtime.functions.sources import read_files
from edge_runtime.functions.stats import Stops
from edge_runtime.grants import sentence
from edge_runtime.planes.client import connect
from edge_runtime.planes.messages import TriggerRow


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(deploy)
    group = typer.Typer(invoke_without_command=True)
    group.callback()(apps)
    group.command()(decisions)
    app.add_typer(group, name="apps")


def deploy(
    app: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="The app: a file, or a folder with a main.py.")],
    config_path: ConfigPath = CONFIG,
    check: Annotated[bool, typer.Option("--check", help="Only see whether it could go live.")] = False,
    grant: Granted = None,
    as_json: AsJson = False,
) -> None:
    """Put an app live as a new version, without restarting anything; a broken one changes nothing."""
    started = time.monotonic()
    files = read_files(app)
    with connect(config_path) as client:
        found = approved(lambda given: client.deploy(files, check=check, grants=given), grant, check=check)
    if as_json:
        print_json(found)
        return
    seconds = time.monotonic() - started
    state = "could go live" if check else "was live already" if found.unchanged else "is live"
    out.print(
        f"[bold]{found.app}[/] {state} in version [bold]{found.version}[/]"
        f" ({seconds * 1e3:.0f} ms, of it {found.cold_start / 1e3:.1f} ms to start it in the sandbox)"
    )
    for trigger in found.triggers:
        out.print(f"  {_sentence(trigger)}")
    for asked in found.asks:
        out.print(f"  asks to {escaped(sentence(asked))}: to be approved when it is deployed")


def _sentence(trigger: TriggerRow) -> str:
    where = f" where {trigger.where}" if trigger.where else ""
    to = f" -> target {trigger.to}" if trigger.to else ""
    return f"{trigger.name}: on {trigger.kind}{where}{to}".replace("[", "\\[")


def apps(context: typer.Context, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show the live apps; `decisions` shows why one has so many instances."""
    if context.invoked_subcommand is not None:
        return
    with connect(config_path) as client:
        rows = client.apps()
    if as_json:
        print_json(rows)
        return
    now = SystemClock().now()
    shown_rows = table("app", "version", "live since", "instances", "calls", "stopped", "triggers")
    for row in rows:
        triggers = "\n".join(map(_sentence, row.triggers))
        figures = (str(row.instances), str(row.stats.calls), _stops(row.stats.stops))
        shown_rows.add_row(row.app, row.version, ago(row.deployed, now), *figures, triggers)
    out.print(shown_rows if rows else "No apps yet. Deploy one with: edge deploy FILE")


def _stops(stops: Stops) -> str:
    counts = {"errors": stops.error, "time-outs": stops.timeout}
    return ", ".join(f"{number} {what}" for what, number in counts.items() if number) or "-"


def decisions(
    app: Annotated[str, typer.Argument(help="The app's name.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show how many instances an app has, and why."""
    with connect(config_path) as client:
        found = client.decisions(app)
    if as_json:
        print_json(found)
        return
    out.print(f"[bold]{found.app}[/] has {count(found.instances, 'instance')}, of {found.min} to {found.max}")
    now = SystemClock().now()
    rows = table("ago", "instances", "reason")
    for decision in found.decisions:
        rows.add_row(ago(decision.time, now), f"{decision.before} -> {decision.after}", escaped(decision.reason))
    if found.decisions:
        out.print(rows)
