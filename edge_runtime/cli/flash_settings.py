"""What `edge flash` writes into a board's `/edge.json`: who it is, its key, and where its gateway is."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import typer

from devices.authority import is_outside, own_names
from edge_runtime.config import Config
from edge_runtime.errors import EdgeError
from edge_runtime.planes.client import Client
from edge_runtime.planes.inventory import NewKey
from edge_runtime.planes.messages import Status

LINKS = ("mqtt", "coap", "serial")
MAX_KEY = 4096
CA = "/ca.pem"
"""Where the gateway's CA goes on the board."""
WIFI_PASSWORD = "EDGE_WIFI_PASSWORD"


@dataclass(frozen=True)
class Place:
    """How the board reaches its gateway."""

    form: dict[str, Any]
    """The entries of the settings file."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What has to be on the board for that."""


def values(texts: list[str], what: str) -> dict[str, Any]:
    """`NAME=JSON` each; a text that is no JSON stands for itself. Raises EdgeError."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise EdgeError(f"'{text}' is not {what}", hint="It looks like NAME=VALUE, such as queue=200.")
        try:
            found[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            found[name] = value
    return found


def place(link: str, host: str, status: Status | None, settings: Config, *, tls: bool | None, virtual: bool) -> Place:
    """Where the gateway is, as the board will see it. `virtual` boards are on this machine. Raises EdgeError.

    Without a word on `tls`, it is TLS where the gateway has that and a CA, unless `host` names another port.
    """
    if link not in LINKS:
        raise EdgeError(f"--link {link} is not a link", hint="Say mqtt, coap or serial.")
    if tls and link != "mqtt":
        raise EdgeError(f"--tls is for MQTT, not for {link}", hint="Leave it out.")
    if link == "serial":
        return Place({"link": "serial"})
    ca = settings.gateway.data / "ca" / "ca.pem"
    if tls is None:
        door = settings.mqtt.tls_listen.rpartition(":")[2]
        named = host.rpartition(":")[2] if host.count(":") == 1 else door
        tls = link == "mqtt" and bool(door) and named == door and ca.is_file()
    if tls:
        listens = settings.mqtt.tls_listen
        missing = "MQTT with TLS"
    else:
        listens = (status.mqtt if link == "mqtt" else status.coap) if status is not None else ""
        missing = "MQTT" if link == "mqtt" else "CoAP"
    given, colon, port = host.rpartition(":") if host.count(":") == 1 else (host, "", "")
    if colon and not port.isdecimal():
        raise EdgeError(f"--host {host} is not a host", hint="It looks like 192.168.1.7 or gateway.local:1883.")
    if not listens and not port:
        hint = (
            "Name it with --host HOST:PORT." if status is None else "See 'edge init --lan', and docs/configuration.md."
        )
        raise EdgeError(f"it is not known where the gateway listens for {missing}", hint=hint)
    at, _, number = listens.rpartition(":")
    form: dict[str, Any] = {"host": given or _host(at.strip("[]"), virtual), "port": int(port or number)}
    if link == "coap":
        form["link"] = "coap"
    if not tls:
        return Place(form)
    try:
        pem = ca.read_bytes()
    except OSError as error:
        hint = "'edge init --lan' makes one; run this as the gateway's user."
        raise EdgeError(f"{ca} cannot be read: {error.strerror}", hint=hint) from None
    return Place({**form, "tls": {"ca": CA, "since": int(ca.stat().st_mtime)}}, {CA: pem})


def _host(listens: str, virtual: bool) -> str:
    if listens in ("0.0.0.0", "::", ""):
        outside = [name for name in own_names() if is_outside(name)]
        if outside:
            return outside[0]
        raise EdgeError("this machine has no address on a network", hint="Name the gateway with --host.")
    if listens in ("127.0.0.1", "::1", "localhost") and not virtual:
        raise EdgeError(
            f"the gateway listens at {listens} alone, which no board can reach",
            hint="'edge init --lan' opens it with TLS; or mqtt.listen (docs/service.md); or --link serial.",
        )
    return listens


def wifi(name: str) -> dict[str, str]:
    """The network's name and password, which comes from the environment or is asked for: never from the arguments."""
    password = os.environ.get(WIFI_PASSWORD)
    if password is None:
        if not sys.stdin.isatty():
            raise EdgeError(f"the password of the Wi-Fi '{name}' is missing", hint=f"Set {WIFI_PASSWORD}.")
        password = str(typer.prompt(f"Password of the Wi-Fi '{name}'", hide_input=True))
    return {"ssid": name, "password": password} if password else {"ssid": name}


@dataclass(frozen=True)
class Given:
    """The key that the board is to have."""

    key: str = field(repr=False)
    how: str
    """Where it is from, for the person."""
    hs256: bool = False
    """Whether it signs JWTs, and is not shown itself."""

    def entries(self, audience: str) -> dict[str, Any]:
        """The entries of the settings file."""
        if not self.hs256:
            return {"key": self.key}
        # A JWT needs the time before there is a connection, and most boards do not know it when they start.
        return {"jwt": {"alg": "HS256", "secret": self.key, "audience": audience}, "clock": {}}


def key_for(
    client: Client, device: str, board: dict[str, Any], tags: dict[str, str], *, anew: bool, hs256: bool
) -> Given:
    """The key of a device: a new device's, the one that the board has (`board` is its settings file), or one more.

    A board that signs JWTs goes on with that, without `hs256` too.
    """
    jwt = board.get("jwt") if board.get("device") == device else None
    secret = jwt.get("secret") if isinstance(jwt, dict) else None
    hs256 = hs256 or secret is not None
    known = {row.device for row in client.devices()}
    if device not in known:
        return Given(client.add_device(device, tags=tags, hs256=hs256).key, f"{device} is registered", hs256)
    client.tag_device(device, tags)
    held = secret if hs256 else board.get("key")
    if board.get("device") == device and isinstance(held, str) and held and not anew:
        return Given(held, f"{device} keeps the key that it has", hs256)
    made = client.add_key(device, NewKey("hs256" if hs256 else "token"))
    how = f"{device} has the new key {made.key.id}; remove what it had: edge device key remove"
    return Given(made.secret, how, hs256)


def read_key(file: Path) -> str:
    """A key from a file, or with `-` asked for. Raises EdgeError."""
    if str(file) == "-":
        return str(typer.prompt("The device's key", hide_input=True)).strip()
    try:
        with file.open() as opened:
            text = opened.read(MAX_KEY).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeError(f"{file} cannot be read: {error}") from None
    if not text:
        raise EdgeError(f"{file} is empty", hint="It holds the device's key alone.")
    return text
