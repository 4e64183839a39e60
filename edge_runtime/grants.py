"""What an app may reach beyond its own events: asked for by the app, granted by the operator, one by one.

command:pump-1        commands to this device; command:pump-* to all whose id begins so, command:* to any
http:api.example.com  requests to this host over TLS; http:http://192.168.1.5:8080 to exactly this origin
secret:weather-key    the secret of this name
files                 the files of its own folder that are not Python
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from edge_runtime.errors import EdgeError
from edge_runtime.events import DEVICE, NAME

MAX_GRANTS = 50
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_PORTS = {"https": 443, "http": 80}


class GrantError(EdgeError):
    """That is not a grant; the message says why."""


class Grants(msgspec.Struct, frozen=True):
    """A set of grants, each in its one canonical spelling."""

    all: tuple[str, ...] = ()

    @classmethod
    def of(cls, grants: Iterable[str]) -> Grants:
        """Read grants as people write them. Raises `GrantError`."""
        found = tuple(sorted({_canonical(grant) for grant in grants}))
        if len(found) > MAX_GRANTS:
            raise GrantError(f"{len(found)} grants are too many; an app can have {MAX_GRANTS}")
        return cls(found)

    def command(self, device: str) -> bool:
        """Whether commands to a device may be given that did not cause the event."""
        return any(
            device.startswith(pattern[:-1]) if pattern.endswith("*") else device == pattern
            for pattern in self._of("command")
        )

    def http(self, url: str) -> bool:
        """Whether a request may go to a URL."""
        origin = origin_of(url)
        return origin is not None and origin in self._of("http")

    def secret(self, name: str) -> bool:
        """Whether a secret may be read."""
        return name in self._of("secret")

    @property
    def secrets(self) -> list[str]:
        """The secrets that may be read."""
        return self._of("secret")

    @property
    def files(self) -> bool:
        """Whether the app's own files may be read."""
        return "files" in self.all

    def beyond(self, others: Iterable[str]) -> list[str]:
        """What is granted here and not among the others."""
        known = set(others)
        return [grant for grant in self.all if grant not in known]

    def _of(self, kind: str) -> list[str]:
        return [grant.partition(":")[2] for grant in self.all if grant.startswith(f"{kind}:")]


def sentence(grant: str) -> str:
    """What a grant allows, for the person who is to approve it."""
    kind, _, what = grant.partition(":")
    match kind:
        case "command":
            if what == "*":
                return "give commands to any device"
            return (
                f"give commands to devices whose id begins with '{what[:-1]}'"
                if what.endswith("*")
                else (f"give commands to the device '{what}'")
            )
        case "http":
            return f"send requests to {what}"
        case "secret":
            return f"read the secret '{what}'"
        case _:
            return "read the files in its own folder"


def origin_of(url: str) -> str | None:
    """Scheme, host and port of a URL, as RFC 6454 compares them; None where it has none, or carries a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme not in _PORTS or not host or parts.username is not None or parts.password is not None:
        return None
    try:
        host = host.encode("idna").decode() if not host.isascii() else host.lower()
    except UnicodeError:
        return None
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port in (None, _PORTS[parts.scheme]) else f":{port}")


def _canonical(grant: str) -> str:
    kind, colon, what = grant.strip().partition(":")
    if kind == "files" and not colon:
        return "files"
    if kind == "command" and (
        what == "*" or DEVICE.fullmatch(what) or (what.endswith("*") and _PREFIX.fullmatch(what[:-1]))
    ):
        return f"command:{what}"
    if kind == "secret" and NAME.fullmatch(what):
        return f"secret:{what}"
    if kind == "http":
        origin = origin_of(what if "://" in what else f"https://{what}")
        rest = urlsplit(what if "://" in what else f"https://{what}")
        if origin is not None and rest.path in ("", "/") and not rest.query and "*" not in what:
            return f"http:{origin}"
        raise GrantError(
            f"'{grant[:200]}' is not a grant: http: is followed by a host",
            hint="Write http:api.example.com, or http:http://192.168.1.5:8080 for a host without TLS.",
        )
    raise GrantError(
        f"'{grant[:200]}' is not a grant",
        hint="There are command:DEVICE (or command:pump-*), http:HOST, secret:NAME and files.",
    )
