"""`edge apps`: what is live, in which version, and how it is."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, ago, count, escaped, out, print_json, table
from edge_runtime.clock import SystemClock
from edge_runtime.errors import NotFound, nearest
from edge_runtime.functions.stats import Stops
from edge_runtime.planes.client import connect
from edge_runtime.planes.messages import TriggerRow

AppName = Annotated[str, typer.Argument(metavar="APP", help="The app's name, as in `edge apps`.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(invoke_without_command=True)
    group.callback()(apps)
    group.command()(versions)
    group.command()(decisions)
    group.command()(token)
    group.command()(metrics)
    app.add_typer(group, name="apps")


def described(trigger: TriggerRow) -> str:
    """A trigger in a line, for rich."""
    if trigger.terms:
        return f"{trigger.name}: {trigger.terms}".replace("[", "\\[")
    where = f" where {trigger.where}" if trigger.where else ""
    to = f" -> target {trigger.to}" if trigger.to else ""
    return f"{trigger.name}: on {trigger.kind}{where}{to}".replace("[", "\\[")


def apps(context: typer.Context, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show the live apps; `versions` shows what one can go back to, `decisions` why it has so many instances."""
    if context.invoked_subcommand is not None:
        return
    with connect(config_path) as client:
        rows = client.apps()
    if as_json:
        print_json(rows)
        return
    now = SystemClock().now()
    shown_rows = table("app", "version", "live since", "activity", "triggers")
    shown_rows.columns[1].no_wrap = True  # it may be wanted for a rollback
    for row in rows:
        triggers = "\n".join(map(described, row.triggers))
        activity = [count(row.instances, "instance"), count(row.stats.calls, "call"), *_stops(row.stats.stops)]
        shown_rows.add_row(row.app, row.version, ago(row.deployed, now), "\n".join(activity), triggers)
    out.print(shown_rows if rows else "No apps yet. Deploy one with: edge deploy FILE")
    for row in rows:
        if row.health != "ok":
            out.print(f"  {escaped(row.health)}")


def versions(app: AppName, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show the stored versions of an app: which is live, and where a rollback goes."""
    with connect(config_path) as client:
        rows = client.versions(app)
    if as_json:
        print_json(rows)
        return
    now = SystemClock().now()
    shown_rows = table("version", "deployed", "went live", "")
    for row in rows:
        state = {"live": "live", "rollback": "where a rollback goes"}.get(row.state, "")
        shown_rows.add_row(row.version, f"{ago(row.stored, now)} ago", _since(row.since, now), state)
    out.print(shown_rows)


def _since(moment: int | None, now: int) -> str:
    return "-" if moment is None else f"{ago(moment, now)} ago"


def _stops(stops: Stops) -> list[str]:
    return [count(number, what) for what, number in (("error", stops.error), ("time-out", stops.timeout)) if number]


def token(
    app: Annotated[str, typer.Argument(help="The app's name.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give an app a new token for its endpoints, shown this once; the old one is void."""
    with connect(config_path) as client:
        found = client.app_token(app)
    if as_json:
        print_json(found)
        return
    out.print(f"The token of [bold]{escaped(found.app)}[/], which cannot be shown again:")
    out.print(found.token, highlight=False, markup=False)


def decisions(
    app: AppName,
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


def metrics(app: AppName, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show what an app's functions have measured (`ctx.metric`) since the gateway started."""
    with connect(config_path) as client:
        rows = {row.app: row for row in client.apps()}
    if app not in rows:
        raise NotFound(f"there is no app '{app}'", hint=nearest(app, rows))
    found = rows[app].metrics
    if as_json:
        print_json(found)
        return
    now = SystemClock().now()
    shown_rows = table("metric", "count", "sum", "last", "least", "greatest", "ago")
    for name, metric in found.items():
        figures = (f"{value:g}" for value in (metric.sum, metric.last, metric.least, metric.greatest))
        shown_rows.add_row(name, str(metric.count), *figures, ago(metric.time, now))
    out.print(shown_rows if found else f"{app} has measured nothing yet.")
