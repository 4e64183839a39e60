"""`edge user add|list|allow|remove`: programs that use the gateway as an MQTT broker."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, ago, err, out, print_json, table
from edge_runtime.clock import SystemClock
from edge_runtime.planes.client import connect

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user: letters, digits, '_', '.' and '-'.")]
Publish = Annotated[
    list[str] | None, typer.Option("--publish", "-p", metavar="FILTER", help="Topics it may publish on. Repeatable.")
]
Subscribe = Annotated[
    list[str] | None, typer.Option("--subscribe", "-s", metavar="FILTER", help="Topics it may read. Repeatable.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(help="Let programs use MQTT: with a name, a key, and the topics they may use.")
    group.command()(add)
    group.command("list")(list_)
    group.command()(allow)
    group.command()(remove)
    app.add_typer(group, name="user")


def add(
    name: Name,
    publish: Publish = None,
    subscribe: Subscribe = None,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Add a user and show its key, this once. For example: --publish 'home/#' --subscribe 'home/#'."""
    with connect(config_path) as client:
        made = client.add_user(name, publish or [], subscribe or [])
    if as_json:
        print_json(made)
        return
    out.print(f"User [bold]{made.name}[/] added. Its key, the MQTT password, shown only now:")
    out.out(made.key)
    if not publish and not subscribe:
        err.print(f"It may use no topic yet: edge user allow {name} --publish FILTER --subscribe FILTER")


def allow(
    name: Name,
    publish: Publish = None,
    subscribe: Subscribe = None,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Let a user use these topics, in the place of those that it had; counts at once."""
    with connect(config_path) as client:
        row = client.allow_user(name, publish or [], subscribe or [])
    if as_json:
        print_json(row)
        return
    out.print(f"[bold]{row.name}[/] may publish on {_list(row.publish)} and subscribe to {_list(row.subscribe)}.")


def remove(name: Name, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Remove a user: its connections are closed, and what was kept for it is gone."""
    with connect(config_path) as client:
        rows = client.remove_user(name)
    if as_json:
        print_json(rows)
        return
    out.print(f"The user [bold]{name}[/] is gone.")


def list_(config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show the users and what they may do."""
    with connect(config_path) as client:
        rows = client.users()
    if as_json:
        print_json(rows)
        return
    now = SystemClock().now()
    shown = table("user", "connections", "may publish on", "may subscribe to", "added")
    for row in rows:
        shown.add_row(row.name, str(row.connections), _list(row.publish), _list(row.subscribe), ago(row.created, now))
    out.print(shown if rows else "No users yet. Add one with: edge user add NAME --publish FILTER --subscribe FILTER")


def _list(patterns: list[str]) -> str:
    return ", ".join(patterns) or "nothing"
