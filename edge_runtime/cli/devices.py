"""`edge device add|rotate|list`."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, ago, err, out, print_json, table
from edge_runtime.clock import SystemClock
from edge_runtime.errors import NotFound, nearest
from edge_runtime.planes.client import Client, connect
from edge_runtime.planes.messages import DeviceKey


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(help="Register devices and see them.", no_args_is_help=True)
    group.command()(add)
    group.command()(rotate)
    group.command("list")(list_)
    app.add_typer(group, name="device")


def add(
    device: Annotated[str, typer.Argument(help="The new device's id: letters, digits, '_', '.' and '-'.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Register a device and show its key, this once."""
    with connect(config_path) as client:
        key = client.add_device(device)
    if as_json:
        print_json(key)
    else:
        _show(key, "added")


def rotate(
    device: Annotated[str, typer.Argument(help="A registered device.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give a device a new key; the old one is void at once."""
    with connect(config_path) as client:
        key = client.rotate_key(device)
    if as_json:
        print_json(key)
    else:
        _show(key, "has a new key")


def check_device(client: Client, device: str) -> None:
    """Raise NotFound, which names the nearest one, for a device that is not registered; empty is none asked for."""
    if device:
        known = [row.device for row in client.devices()]
        if device not in known:
            raise NotFound(f"there is no device '{device}'", hint=nearest(device, known))


def _show(key: DeviceKey, what: str) -> None:
    out.print(f"Device [bold]{key.device}[/] {what}. Its key, shown only now:")
    out.out(key.key)
    err.print("Put it into the board's /edge.json, beside the gateway's host and port.")


def list_(config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show the registered devices."""
    with connect(config_path) as client:
        rows = client.devices()
    if as_json:
        print_json(rows)
        return
    now = SystemClock().now()
    shown_rows = table("device", "connected", "last heard", "registered", "")
    for row in rows:
        connected = "[green]yes[/]" if row.connected else "no"
        blocked = "[red]blocked[/]" if row.blocked else ""
        shown_rows.add_row(row.device, connected, ago(row.last_seen, now), ago(row.created, now), blocked)
    out.print(shown_rows if rows else "No devices yet. Add one with: edge device add NAME")
