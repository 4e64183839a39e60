"""`edge secret set|list|remove`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, out, print_json
from edge_runtime.errors import EdgeError
from edge_runtime.planes.client import connect

Name = Annotated[str, typer.Argument(metavar="NAME", help="The secret, as functions name it: ctx.secret(NAME).")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(help="Give functions secrets; their values are never shown.", no_args_is_help=True)
    group.command("set")(set_)
    group.command("list")(list_)
    group.command()(remove)
    app.add_typer(group, name="secret")


def set_(name: Name, config_path: ConfigPath = CONFIG) -> None:
    """Give a secret a value, asked for on the terminal or read from standard input; it counts from the next call on."""
    value = _asked() if sys.stdin.isatty() else sys.stdin.read().removesuffix("\n")
    if not value:
        raise EdgeError(f"the secret '{name}' was given no value", hint=f"For example: edge secret set {name} < FILE")
    with connect(config_path) as client:
        client.set_secret(name, value)
    out.print(f"The secret [bold]{name}[/] is set. Apps with the grant secret:{name} can read it.")


def _asked() -> str:
    value: str = typer.prompt("Value (not shown)", hide_input=True)
    return value


def list_(config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show which secrets have a value."""
    with connect(config_path) as client:
        names = client.secrets()
    if as_json:
        print_json(names)
    else:
        out.print("\n".join(names) or "No secrets yet. Set one with: edge secret set NAME")


def remove(name: Name, config_path: ConfigPath = CONFIG) -> None:
    """Forget a secret."""
    with connect(config_path) as client:
        client.remove_secret(name)
    out.print(f"The secret [bold]{name}[/] is gone.")
