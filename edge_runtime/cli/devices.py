"""`edge device add|show|list|rotate|block|unblock|remove|tag|command|import|export`; others are beside this."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from devices.exchange import DeviceLine
from devices.keys import HS256
from devices.orders import UNDER_WAY, Order
from edge_runtime.cli import device_keys, device_port, twin
from edge_runtime.cli.console import (
    CONFIG,
    MANY,
    AsJson,
    ConfigPath,
    ago,
    columns,
    err,
    escaped,
    out,
    print_json,
    table,
)
from edge_runtime.clock import SystemClock
from edge_runtime.errors import EdgeError, NotFound, nearest
from edge_runtime.planes.client import Client, connect
from edge_runtime.planes.inventory import DeviceDetail, Ordering
from edge_runtime.planes.messages import DeviceKey
from edge_runtime.planes.moments import shown

Device = Annotated[str, typer.Argument(help="A registered device.")]
MAX_IMPORT = 48 << 20


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(help="Register devices, see them, command them.", no_args_is_help=True)
    for verb in (add, show, rotate, block, unblock, remove, tag, command):
        group.command()(verb)
    group.command("list")(list_)
    group.command("import")(import_)
    group.command()(export)
    device_keys.register(group)
    device_port.register(group)
    twin.register(group)
    app.add_typer(group, name="device")


def add(
    device: Annotated[str, typer.Argument(help="The new device's id: letters, digits, '_', '.' and '-'.")],
    profile: Annotated[str, typer.Option(help="The contract it speaks: device or iotcore.")] = "device",
    tags: Annotated[list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="A tag; repeatable.")] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="No token: it gets a key of another type.")] = False,
    public_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A public key (PEM) in place of a token: it signs JWTs.")
    ] = None,
    hs256: Annotated[
        bool, typer.Option("--hs256", help="A shared secret in place of a token: it signs JWTs, HS256.")
    ] = False,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Register a device and show its key, this once."""
    if (public_key is not None) + hs256 + no_token > 1:
        raise EdgeError("--public-key, --hs256 and --no-token exclude one another", hint="Leave out all but one.")
    pem = "" if public_key is None else device_keys.read_pem(public_key)
    with connect(config_path) as client:
        key = client.add_device(
            device, profile=profile, tags=_tags(tags or []), token=not no_token, pem=pem, hs256=hs256
        )
    if as_json:
        print_json(key)
    elif public_key is not None:
        out.print(f"Device [bold]{device}[/] added with the public key of {public_key}.")
    elif no_token:
        out.print(f"Device [bold]{device}[/] added. Give it a key: edge device key add {device} --public-key FILE")
    else:
        _show_key(key, "added")


def rotate(device: Device, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Give a device a new key; the old one is void at once."""
    with connect(config_path) as client:
        key = client.rotate_key(device)
    if as_json:
        print_json(key)
    else:
        _show_key(key, "has a new key")


def check_device(client: Client, device: str) -> None:
    """Raise NotFound, which names the nearest one, for a device that is not registered; empty is none asked for."""
    if device:
        known = [row.device for row in client.devices()]
        if device not in known:
            raise NotFound(f"there is no device '{device}'", hint=nearest(device, known))


def _show_key(key: DeviceKey, what: str) -> None:
    shared = key.type == HS256
    out.print(f"Device [bold]{key.device}[/] {what}. Its {'secret' if shared else 'key'}, shown only now:")
    out.out(key.key)
    where = (
        device_keys.SECRET_GOES if shared else "Put it into the board's /edge.json, beside the gateway's host and port."
    )
    err.print(where, markup=False)


def show(device: Device, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show one device: its keys, tags and last commands."""
    with connect(config_path) as client:
        found = client.device(device)
    _answer(found, as_json)


def block(device: Device, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Refuse a device, and end its connection, until it is unblocked."""
    with connect(config_path) as client:
        found = client.block_device(device, True)
    _answer(found, as_json, f"{device} is blocked.")


def unblock(device: Device, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Let a blocked device in again, with the keys it had."""
    with connect(config_path) as client:
        found = client.block_device(device, False)
    _answer(found, as_json, f"{device} is let in again.")


def remove(
    device: Device,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Forget a device and its keys; what it has sent stays in the journal."""
    with connect(config_path) as client:
        client.device(device)
        if not yes and not typer.confirm(f"Forget {device} and its keys?"):
            raise typer.Exit(1)
        rows = client.remove_device(device)
    if as_json:
        print_json(rows)
    else:
        out.print(f"{escaped(device)} is forgotten.")


def tag(
    device: Device,
    tags: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="NAME= removes one.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Set tags of a device, by which it can be found."""
    with connect(config_path) as client:
        found = client.tag_device(device, _tags(tags))
    _answer(found, as_json, f"{device}: {_tags_text(found.tags) or 'no tags'}")


def list_(
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="Only those with it; repeatable.")
    ] = None,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show the registered devices."""
    wanted = _tags(tags or [])
    with connect(config_path) as client:
        everything = client.devices()
    rows = [row for row in everything if wanted.items() <= row.tags.items()]
    if as_json:
        print_json(rows)
        return
    now = SystemClock().now()
    names = ("device", "connected", "last heard", "clock", "registered", "tags", "")
    cells = [
        (
            row.device,
            "yes" if row.connected else "no",
            ago(row.last_seen, now),
            _clock(row.skew),
            ago(row.created, now),
            _tags_text(row.tags),
            "blocked" if row.blocked else "",
        )
        for row in rows
    ]
    if len(cells) >= MANY:
        out.print(columns(names, cells), markup=False, highlight=False, soft_wrap=True)
        return
    found = table(*names)
    for device, connected, *others, tags_text, blocked in cells:
        connected = "[green]yes[/]" if connected == "yes" else connected
        blocked = f"[red]{blocked}[/]" if blocked else ""
        found.add_row(device, connected, *others, escaped(tags_text), blocked)
    nothing = "No device has these tags." if everything else "No devices yet. Add one with: edge device add NAME"
    out.print(found if rows else nothing)


def command(
    device: Device,
    name: Annotated[str, typer.Argument(help="The command; without it, the last ones are shown.")] = "",
    args: Annotated[str, typer.Argument(help="Its arguments as JSON.")] = "null",
    wait: Annotated[float, typer.Option(help="Seconds to wait for the reply; 0 not to.")] = 10,
    expires: Annotated[float, typer.Option(help="Seconds after which it is not wanted any more.")] = 60,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give a device a command and show its reply; without one, what became of the last ones."""
    with connect(config_path) as client:
        if not name:
            given = client.orders(device)
            if as_json:
                print_json(given)
            else:
                _show_orders(given)
            return
        try:
            decoded: Any = msgspec.json.decode(args)
        except msgspec.DecodeError as error:
            raise EdgeError(f"the arguments are not JSON: {error}", hint="""Such as '{"on": true}'.""") from None
        order = client.order(device, Ordering(name, decoded, round(expires * 1e6), wait))
    if as_json:
        print_json(order)
    else:
        result = "" if order.result is None else f": {msgspec.json.encode(order.result).decode()}"
        colour = {"done": "green", UNDER_WAY: "yellow"}.get(order.state, "bold red")
        out.print(f"{escaped(order.name)}: [{colour}]{order.state}[/]{escaped(result)}")
        if order.state == UNDER_WAY:
            err.print(f"See what becomes of it with: edge device command {device}")
    if wait and order.state != "done":
        raise typer.Exit(1)


def export(config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Write all devices to standard output, a line of JSON for each: digests and public keys, no secrets."""
    with connect(config_path) as client:
        for line in client.export_devices():
            sys.stdout.write(msgspec.json.encode(line).decode() + "\n")


def import_(
    file: Annotated[Path, typer.Argument(help="What `edge device export` has written; - for standard input.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Have devices be as an export says: all of them, or none. Doing it again changes nothing."""
    try:
        raw = sys.stdin.buffer.read(MAX_IMPORT + 1) if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise EdgeError(f"{file} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_IMPORT:
        raise EdgeError(f"{file} is larger than {MAX_IMPORT >> 20} MiB", hint="Import it in several parts.")
    lines = []
    for number, text in enumerate(raw.splitlines(), 1):
        if text.strip():
            try:
                lines.append(msgspec.json.decode(text, type=DeviceLine))
            except msgspec.MsgspecError as error:
                raise EdgeError(f"{file}, line {number}: {error}", hint="Nothing was imported.") from None
    with connect(config_path) as client:
        done = client.import_devices(lines)
    if as_json:
        print_json(done)
    else:
        out.print(f"{done.added} added, {done.changed} changed, {done.unchanged} as they were.")


def _tags(texts: list[str]) -> dict[str, str]:
    tags = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise EdgeError(f"'{text}' is not a tag", hint="Tags look like site=north.")
        tags[name] = value
    return tags


def _tags_text(tags: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(tags.items()))


def _clock(skew: int | None) -> str:
    """How far a device's clock seems to be off; less than that may be the way its events take."""
    if skew is None:
        return ""
    return "right" if abs(skew) < 2_000_000 else f"{abs(skew) // 1_000_000} s {'behind' if skew > 0 else 'ahead'}"


def _answer(found: DeviceDetail, as_json: bool, words: str = "") -> None:
    if as_json:
        print_json(found)
        return
    if words:
        out.print(escaped(words))
        return
    now = SystemClock().now()
    state = "[red]blocked[/]" if found.blocked else "[green]connected[/]" if found.connected else "not connected"
    heard = "never heard" if found.last_seen is None else f"last heard {ago(found.last_seen, now)} ago"
    out.print(
        f"[bold]{found.device}[/]: {state}, {heard}, registered {ago(found.created, now)} ago, profile {found.profile}"
    )
    if found.skew is not None:
        out.print(f"Clock: {_clock(found.skew)}")
    if found.tags:
        out.print(f"Tags: {escaped(_tags_text(found.tags))}")
    rows = table("key", "type", "made", "expires", "")
    for key in found.keys:
        expires = shown(key.expires) if key.expires else "never"
        text = key.shown if len(key.shown) <= 30 else f"{key.shown[:27]}..."
        rows.add_row(key.id, key.type, f"{ago(key.created, now)} ago", expires, text)
    out.print(rows if found.keys else f"No keys. Give it one: edge device key add {found.device}")
    if found.orders:
        _show_orders(found.orders[:5])


def _show_orders(orders: list[Order]) -> None:
    now = SystemClock().now()
    rows = table("command", "given", "state", "arguments", "reply")
    for order in orders:
        result = "" if order.result is None else msgspec.json.encode(order.result).decode()
        args = msgspec.json.encode(order.args).decode()
        rows.add_row(order.name, f"{ago(order.created, now)} ago", order.state, escaped(args), escaped(result))
    out.print(rows if orders else "Nobody has commanded it since the gateway started. What functions order: edge tail")
