"""`edge device config get|set` and `edge device state`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, ago, escaped, out, print_json
from edge_runtime.clock import SystemClock
from edge_runtime.errors import EdgeError
from edge_runtime.planes.client import connect
from edge_runtime.planes.inventory import ConfigRow, NewConfig

Device = Annotated[str, typer.Argument(help="A registered device.")]
MAX_FILE = 64 << 10


def register(group: typer.Typer) -> None:
    """Add the verbs to `edge device`."""
    configs = typer.Typer(help="What a device is to be set to: versions, of which the last ten are kept.")
    configs.command()(get)
    configs.command("set")(set_)
    group.add_typer(configs, name="config", no_args_is_help=True)
    group.command()(state)


def get(
    device: Device,
    version: Annotated[int, typer.Option(help="Which version; by default the newest.")] = 0,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show a device's configuration, and which version it has taken."""
    with connect(config_path) as client:
        found = client.config(device, version)
    if as_json:
        print_json(found)
        return
    out.print(f"Version {found.version}, {_taken(found)}")
    print_json(found.config)


def set_(
    device: Device,
    config: Annotated[str, typer.Argument(help="JSON, or @FILE for a file with JSON.")],
    raw: Annotated[bool, typer.Option("--raw", help="Not JSON: the bytes as they are, for the device to make of.")] = (
        False
    ),
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give a device a new version of its configuration; it gets it at once, or when it connects."""
    data = _read(config[1:]) if config.startswith("@") else config.encode()
    if raw:
        request = NewConfig(data=data)
    else:
        try:
            decoded: Any = msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise EdgeError(
                f"the configuration is not JSON: {error}", hint="Or give it as it is, with --raw."
            ) from None
        request = NewConfig(decoded)
    with connect(config_path) as client:
        found = client.configure(device, request)
    if as_json:
        print_json(found)
    else:
        out.print(
            f"Version {found.version} is kept. See whether the device has taken it: edge device config get {device}"
        )


def state(device: Device, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show the last states that a device has reported, the newest first."""
    with connect(config_path) as client:
        rows = client.states(device)
    if as_json:
        print_json(rows)
        return
    now = SystemClock().now()
    for row in rows:
        out.print(f"{ago(row.time, now)} ago: {escaped(msgspec.json.encode(row.state).decode())}")
    if not rows:
        out.print(f"{escaped(device)} has not reported a state.")


def _taken(found: ConfigRow) -> str:
    twin, version = found.twin, found.version
    if twin.rejected == version:
        return f"[bold red]refused by the device[/]: {escaped(twin.detail)}"
    if twin.acknowledged == version:
        return f"[green]taken by the device[/] {ago(twin.acknowledged_at, SystemClock().now())} ago"
    last = f"it has taken version {twin.acknowledged}" if twin.acknowledged else "it has taken none"
    return f"[yellow]not taken by the device[/] ({last})"


def _read(name: str) -> bytes:
    try:
        with Path(name).open("rb") if name != "-" else sys.stdin.buffer as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise EdgeError(f"{name} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise EdgeError(f"{name} is larger than {MAX_FILE >> 10} KiB, the most that a configuration can have")
    return data
