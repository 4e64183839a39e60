"""`edge device key add|remove`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from devices.authority import write
from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, err, out, print_json
from edge_runtime.errors import EdgeError
from edge_runtime.planes.client import connect
from edge_runtime.planes.inventory import NewKey

MAX_PEM = 16 << 10
SECRET_GOES = 'It goes into the board\'s /edge.json: "jwt": {"alg": "HS256", "secret": "...", "audience": "..."}.'
_UNITS = {"m": 60, "h": 3600, "d": 86_400}


def register(group: typer.Typer) -> None:
    """Add the verbs to `edge device`."""
    keys = typer.Typer(help="Keys of a device: up to three, so that one can take over from another.")
    keys.command()(add)
    keys.command()(remove)
    group.add_typer(keys, name="key", no_args_is_help=True)


def add(
    device: Annotated[str, typer.Argument(help="A registered device.")],
    public_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A public key (PEM): the device signs JWTs, ES256 or RS256.")
    ] = None,
    hs256: Annotated[bool, typer.Option("--hs256", help="A shared secret: the device signs JWTs, HS256.")] = False,
    oscore: Annotated[bool, typer.Option("--oscore", help="An OSCORE context, for CoAP.")] = False,
    certificate: Annotated[
        bool, typer.Option("--certificate", help="A certificate of the gateway's own CA, and its private key.")
    ] = False,
    to: Annotated[Path, typer.Option(help="The folder where certificate and private key are put.")] = Path("."),
    expires: Annotated[str, typer.Option(metavar="90d", help="For how long it is good: 30m, 12h, 90d.")] = "",
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give a device one more key, by default a token, and show what is secret of it this once."""
    if (public_key is not None) + hs256 + oscore + certificate > 1:
        what = "--public-key, --hs256, --certificate and --oscore are different keys"
        raise EdgeError(what, hint="Add one after the other.")
    files = [to / f"{device}.pem", to / f"{device}.key", to / f"{device}.ca.pem"]
    if certificate:
        _check_files(files)
    ttl = _ttl(expires)
    if public_key is not None:
        request = NewKey("public", read_pem(public_key), ttl)
    else:
        kind = "hs256" if hs256 else "oscore" if oscore else "certificate" if certificate else "token"
        request = NewKey(kind, ttl=ttl)
    with connect(config_path) as client:
        made = client.add_key(device, request)
    for file, text, mode in zip(
        files, (made.certificate, made.private_key, made.ca), (0o644, 0o600, 0o644), strict=True
    ):
        if text:
            write(file, text.encode(), mode)
    made.private_key = ""
    if as_json:
        print_json(made)
        return
    out.print(f"Device [bold]{device}[/] has the new key {made.key.id} ({made.key.type}).")
    if made.key.type == "oscore":
        out.print("Its OSCORE context, in hex, of which the secret is shown only now:")
        out.out(f"master secret {made.secret}\nmaster salt   {made.salt}")
        out.out(f"sender id     {made.sender_id}\nrecipient id  {made.recipient_id}")
    elif made.certificate:
        out.print(f"For the board: {files[0]}, {files[1]} (its private key, kept nowhere else), {files[2]}")
    elif made.secret:
        out.print(f"The {'secret' if hs256 else 'token'}, shown only now:")
        out.out(made.secret)
        if hs256:
            err.print(SECRET_GOES, markup=False)
    err.print(f"When the board uses it, remove the old one: edge device key remove {device} KEY")


def remove(
    device: Annotated[str, typer.Argument(help="A registered device.")],
    key: Annotated[str, typer.Argument(help="The key's id, as `edge device show` has it.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Make one of a device's keys void, and end its connection: it may have used that one."""
    with connect(config_path) as client:
        found = client.remove_key(device, key)
    if as_json:
        print_json(found)
    else:
        out.print(f"Key {key} of {device} is void; {len(found.keys) or 'none'} left.")


def _check_files(files: list[Path]) -> None:
    for file in files:
        if file.exists():
            raise EdgeError(f"{file} is there already", hint="Move it away, or name another folder with --to.")
        if not file.parent.is_dir():
            raise EdgeError(f"{file.parent} is not a folder", hint="Make it, or name another one with --to.")


def _ttl(text: str) -> int:
    if not text:
        return 0
    match = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    if match is None:
        raise EdgeError(f"'{text}' is not a duration", hint="Say 30m, 12h or 90d.")
    return int(match[1]) * _UNITS[match[2]] * 1_000_000


def read_pem(file: Path) -> str:
    """A key from a file, of a bounded length. Raises EdgeError."""
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_PEM + 1).decode()
    except OSError as error:
        raise EdgeError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise EdgeError(f"{file} is not text", hint="Give a public key in PEM form.") from None
    if not text.strip():
        raise EdgeError(f"{file} is empty", hint="Give a public key in PEM form.")
    return text
