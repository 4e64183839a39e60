"""The command line's side of the API: typed messages to the running gateway, over its Unix socket."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from devices.exchange import DeviceLine, Imported
from devices.orders import Order
from devices.release_store import Package
from edge_runtime import config
from edge_runtime.errors import EdgeError
from edge_runtime.flows.deadletters import LetterDetail, Letters, Selection, Settled
from edge_runtime.flows.lineage import Trace
from edge_runtime.flows.replay import Replayed
from edge_runtime.ingress.broker.users import UserRow
from edge_runtime.planes.api_flows import Limit, Release, Scale
from edge_runtime.planes.api_operations import TraceRequest, Which
from edge_runtime.planes.api_ota import TrustedKey, Trusting
from edge_runtime.planes.api_users import Allowed, NewUser, UserKey
from edge_runtime.planes.backups import Saved
from edge_runtime.planes.control import ReplayRequest, Rewind, Rewound
from edge_runtime.planes.deployments import Rollback, VersionRow
from edge_runtime.planes.explanations import Explanation
from edge_runtime.planes.fleet import FleetRow, ReleaseRow, Resume, RollOut, RolloutRow
from edge_runtime.planes.inventory import (
    ConfigRow,
    DeviceDetail,
    Importing,
    NewConfig,
    NewDevice,
    NewKey,
    NewKeyRow,
    Ordering,
    StateRow,
    Tagging,
)
from edge_runtime.planes.messages import (
    AppKey,
    AppRow,
    Backup,
    Deploy,
    Deployed,
    DeviceKey,
    DeviceRow,
    FlowRow,
    Health,
    Lend,
    Lent,
    Line,
    Problem,
    Secret,
    Status,
)
from edge_runtime.planes.rehearsal import AppReplay, AppReplayed
from edge_runtime.planes.scaling import AlertMessage, Instances

T = TypeVar("T")
TIMEOUT = 60.0
"""Seconds: a deploy on a slow machine loads and checks an app well within it."""
LONG = 1800.0
"""Seconds for what reads the journal through (a dry run, a trace, the first look for dead letters), and for a deploy:
the first app in JavaScript has its guest built."""


class NotRunning(EdgeError):
    """No gateway answers on the socket."""


class Client:
    """Talks to the gateway whose socket is at `path`. A context manager: leaving it closes the connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url="http://edge", timeout=TIMEOUT, trust_env=False
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._http.close()

    def status(self) -> Status:
        """The gateway at a glance."""
        return self._ask("GET", "/status", Status)

    def health(self) -> Health:
        """Whether the gateway does all that it promises just now."""
        return self._ask("GET", "/health", Health)

    def flows(self) -> list[FlowRow]:
        """All flows."""
        return self._ask("GET", "/flows", list[FlowRow])

    def pause(self, flow: str) -> FlowRow:
        """Let a flow take no more events."""
        return self._flow(flow, "pause", FlowRow)

    def resume(self, flow: str) -> FlowRow:
        """Let a flow go on."""
        return self._flow(flow, "resume", FlowRow)

    def rewind(self, flow: str, request: Rewind) -> Rewound:
        """Take again what a flow has taken, from a moment on."""
        return self._flow(flow, "rewind", Rewound, request)

    def bootstrap(self, flow: str) -> Rewound:
        """Let a flow take everything that is kept, quietly, and then go live."""
        return self._flow(flow, "bootstrap", Rewound)

    def replay(self, flow: str, request: ReplayRequest) -> Replayed:
        """Run a flow over the past without any effect."""
        return self._flow(flow, "replay", Replayed, request)

    def scale(self, flow: str, lanes: int) -> FlowRow:
        """Let so many batches of a flow be under way at a time."""
        return self._flow(flow, "scale", FlowRow, Scale(lanes))

    def limit(self, flow: str, rate: float | None) -> FlowRow:
        """Let so many events a second through a flow."""
        return self._flow(flow, "rate", FlowRow, Limit(rate))

    def release(self, flow: str, key: str) -> FlowRow:
        """Let a flow try a held key again."""
        return self._flow(flow, "release", FlowRow, Release(key))

    def _flow(self, flow: str, verb: str, kind: type[T], message: object = None) -> T:
        return self._ask("POST", f"/flows/{quote(flow, safe='')}/{verb}", kind, message, timeout=LONG)

    def letters(self, which: Which) -> Letters:
        """The newest open dead letters."""
        return self._ask("GET", "/dead", Letters, params=msgspec.structs.asdict(which), timeout=LONG)

    def letter(self, offset: int) -> LetterDetail:
        """One dead letter in full."""
        return self._ask("GET", f"/dead/{offset}", LetterDetail, timeout=LONG)

    def retry(self, selection: Selection) -> Settled:
        """Hand dead letters to their flows once more."""
        return self._ask("POST", "/dead/retry", Settled, selection, timeout=LONG)

    def drop(self, selection: Selection) -> Settled:
        """Settle dead letters without doing anything."""
        return self._ask("POST", "/dead/drop", Settled, selection, timeout=LONG)

    def export_letters(self, which: Which) -> Iterator[LetterDetail]:
        """Open dead letters in full, one after the other."""
        return self._lines("/dead/export", msgspec.structs.asdict(which), LetterDetail)

    def trace(self, request: TraceRequest) -> Trace:
        """Where an event or command came from and what came of it."""
        return self._ask("POST", "/trace", Trace, request, timeout=LONG)

    def add_device(
        self,
        device: str,
        *,
        profile: str = "device",
        tags: dict[str, str] | None = None,
        token: bool = True,
        pem: str = "",
        hs256: bool = False,
    ) -> DeviceKey:
        """Register a device, with a token, with the public key `pem`, or with a secret for HS256."""
        return self._ask("POST", "/devices", DeviceKey, NewDevice(device, profile, tags or {}, token, pem, hs256))

    def rotate_key(self, device: str) -> DeviceKey:
        """Give a registered device a new token, or a new secret, in place of its only one."""
        return self._device(device, "key", DeviceKey)

    def devices(self) -> list[DeviceRow]:
        """The registered devices."""
        return self._ask("GET", "/devices", list[DeviceRow])

    def device(self, device: str) -> DeviceDetail:
        """One device in full."""
        return self._device(device, "", DeviceDetail, method="GET")

    def remove_device(self, device: str) -> list[DeviceRow]:
        """Forget a device."""
        return self._device(device, "", list[DeviceRow], method="DELETE")

    def block_device(self, device: str, blocked: bool) -> DeviceDetail:
        """Refuse a device, or let it in again."""
        return self._device(device, "block" if blocked else "unblock", DeviceDetail)

    def add_key(self, device: str, request: NewKey) -> NewKeyRow:
        """Give a device a key beside those that it has."""
        return self._device(device, "keys", NewKeyRow, request)

    def remove_key(self, device: str, key: str) -> DeviceDetail:
        """Make a key of a device void."""
        return self._device(device, f"keys/{quote(key, safe='')}", DeviceDetail, method="DELETE")

    def tag_device(self, device: str, tags: dict[str, str]) -> DeviceDetail:
        """Set tags of a device; an empty value removes one."""
        return self._device(device, "tags", DeviceDetail, Tagging(tags))

    def config(self, device: str, version: int = 0) -> ConfigRow:
        """A version of a device's configuration, by default the newest."""
        query = f"?version={version}" if version else ""
        return self._device(device, f"config{query}", ConfigRow, method="GET")

    def configure(self, device: str, request: NewConfig) -> ConfigRow:
        """Give a device a new configuration."""
        return self._device(device, "config", ConfigRow, request)

    def states(self, device: str) -> list[StateRow]:
        """The last states that a device has reported, the newest first."""
        return self._device(device, "states", list[StateRow], method="GET")

    def order(self, device: str, request: Ordering) -> Order:
        """Give a device a command."""
        return self._device(device, "commands", Order, request, timeout=request.wait + TIMEOUT)

    def orders(self, device: str) -> list[Order]:
        """The last commands that persons have given a device, the newest first."""
        return self._device(device, "commands", list[Order], method="GET")

    def releases(self) -> list[ReleaseRow]:
        """What boards can be given."""
        return self._ask("GET", "/ota/releases", list[ReleaseRow])

    def add_release(self, package: Package) -> ReleaseRow:
        """Hand in a release; the gateway signs it where nobody has."""
        return self._ask("POST", "/ota/releases", ReleaseRow, package, timeout=LONG)

    def release_package(self, name: str, version: str = "") -> Package:
        """A release to take to another gateway."""
        return self._ask("GET", _release(name), Package, params={"version": version}, timeout=LONG)

    def remove_release(self, name: str, version: str = "") -> list[ReleaseRow]:
        """Remove a release."""
        return self._ask("DELETE", _release(name), list[ReleaseRow], params={"version": version})

    def release_keys(self) -> list[TrustedKey]:
        """Whose releases the gateway takes in."""
        return self._ask("GET", "/ota/keys", list[TrustedKey])

    def trust_key(self, pem: str) -> list[TrustedKey]:
        """Take in releases signed with this key, too."""
        return self._ask("POST", "/ota/keys", list[TrustedKey], Trusting(pem))

    def distrust_key(self, name: str) -> list[TrustedKey]:
        """Take in no more releases signed with this key."""
        return self._ask("DELETE", f"/ota/keys/{quote(name, safe='')}", list[TrustedKey])

    def roll_out(self, request: RollOut) -> RolloutRow:
        """Begin to give devices a release."""
        return self._ask("POST", "/ota/rollouts", RolloutRow, request)

    def rollouts(self) -> list[RolloutRow]:
        """The roll-outs, the newest first."""
        return self._ask("GET", "/ota/rollouts", list[RolloutRow])

    def rollout(self, number: int = 0) -> RolloutRow:
        """A roll-out with its devices; 0 for the newest."""
        return self._ask("GET", f"/ota/rollouts/{number}", RolloutRow)

    def change_rollout(self, number: int, verb: str, *, go_on: bool = False) -> RolloutRow:
        """`pause`, `resume` or `abort` a roll-out; 0 for the newest."""
        message = Resume(go_on) if verb == "resume" else None
        return self._ask("POST", f"/ota/rollouts/{number}/{verb}", RolloutRow, message)

    def fleet(self) -> list[FleetRow]:
        """What the devices run."""
        return self._ask("GET", "/ota/fleet", list[FleetRow])

    def export_devices(self) -> Iterator[DeviceLine]:
        """All devices, as lines that another gateway takes in."""
        return self._lines("/devices-export", {}, DeviceLine)

    def import_devices(self, devices: list[DeviceLine]) -> Imported:
        """Have devices be as these lines say."""
        return self._ask("POST", "/devices-import", Imported, Importing(devices), timeout=LONG)

    def _device(
        self,
        device: str,
        verb: str,
        kind: type[T],
        message: object = None,
        *,
        method: str = "POST",
        timeout: float = TIMEOUT,
    ) -> T:
        path = f"/devices/{quote(device, safe='')}/{verb}".rstrip("/")
        return self._ask(method, path, kind, message, timeout=timeout)

    def deploy(
        self,
        files: dict[str, bytes],
        *,
        check: bool = False,
        grants: Sequence[str] = (),
        dry_run: int = 0,
        force: bool = False,
    ) -> Deployed:
        """Put an app live, or only check it. `files` are by their path in the app, `grants` what is approved.

        With `dry_run` it first goes over so many of the last events; if it fails on any, it does not go live, unless
        `force` is given.
        """
        message = Deploy(files, check, list(grants), dry_run, force)
        return self._ask("POST", "/apps", Deployed, message, timeout=LONG)

    def rollback(self, app: str, to: str = "", grants: Sequence[str] = ()) -> Deployed:
        """Put an earlier version of an app live; without `to` the one before."""
        return self._ask("POST", f"/apps/{quote(app, safe='')}/rollback", Deployed, Rollback(to, list(grants)))

    def secrets(self) -> list[str]:
        """The secrets that have a value."""
        return self._ask("GET", "/secrets", list[str])

    def set_secret(self, name: str, value: str) -> list[str]:
        """Give a secret a value."""
        return self._ask("PUT", f"/secrets/{quote(name, safe='')}", list[str], Secret(value))

    def remove_secret(self, name: str) -> list[str]:
        """Forget a secret."""
        return self._ask("DELETE", f"/secrets/{quote(name, safe='')}", list[str])

    def replay_app(self, app: str, request: AppReplay) -> AppReplayed:
        """Run a version of an app over the past without any effect."""
        return self._ask("POST", f"/apps/{quote(app, safe='')}/replay", AppReplayed, request, timeout=LONG)

    def users(self) -> list[UserRow]:
        """The users of MQTT."""
        return self._ask("GET", "/users", list[UserRow])

    def add_user(self, name: str, publish: list[str], subscribe: list[str]) -> UserKey:
        """Add a user of MQTT."""
        return self._ask("POST", "/users", UserKey, NewUser(name, publish, subscribe))

    def allow_user(self, name: str, publish: list[str], subscribe: list[str]) -> UserRow:
        """Let a user of MQTT use these topics, in the place of those that it had."""
        return self._ask("PUT", f"/users/{quote(name, safe='')}", UserRow, Allowed(publish, subscribe))

    def remove_user(self, name: str) -> list[UserRow]:
        """Remove a user of MQTT."""
        return self._ask("DELETE", f"/users/{quote(name, safe='')}", list[UserRow])

    def versions(self, app: str) -> list[VersionRow]:
        """The stored versions of an app."""
        return self._ask("GET", f"/apps/{quote(app, safe='')}/versions", list[VersionRow])

    def explain(self, app: str, version: str = "") -> Explanation:
        """How the functions of an app run, and why."""
        query = f"?version={quote(version, safe='')}" if version else ""
        return self._ask("GET", f"/apps/{quote(app, safe='')}/explain{query}", Explanation)

    def app_token(self, app: str) -> AppKey:
        """Give an app a new token for its endpoints; the old one is void."""
        return self._ask("POST", f"/apps/{quote(app, safe='')}/token", AppKey)

    def backup(self, to: Path) -> Saved:
        """Back the gateway up into a new folder (an absolute path, written by the gateway)."""
        return self._ask("POST", "/backup", Saved, Backup(str(to)), timeout=None)

    def lend_port(self, path: Path, seconds: float) -> bool:
        """Have the gateway leave a serial port to us for so long (0: no more); True if it had it."""
        return self._ask("POST", "/ports/lend", Lent, Lend(str(path), seconds)).held

    def apps(self) -> list[AppRow]:
        """The live apps."""
        return self._ask("GET", "/apps", list[AppRow])

    def decisions(self, app: str) -> Instances:
        """How many instances an app has, and why."""
        return self._ask("GET", f"/apps/{quote(app, safe='')}/decisions", Instances)

    def alert(self, app: str, message: AlertMessage) -> Instances:
        """Alerts about an app fire or are resolved."""
        return self._ask("POST", f"/apps/{quote(app, safe='')}/alert", Instances, message)

    def tail(self, after: int | None, *, follow: bool) -> Iterator[Line]:
        """Records after an offset (None: from now on), and with `follow` those that come, until closed."""
        params: dict[str, Any] = {"follow": int(follow)} | ({} if after is None else {"after": after})
        return self._lines("/tail", params, Line)

    def _lines(self, path: str, params: dict[str, Any], kind: type[T]) -> Iterator[T]:
        decode = msgspec.json.Decoder(kind).decode
        with (
            self._reachable(),
            self._http.stream("GET", path, params=params, timeout=httpx.Timeout(TIMEOUT, read=None)) as response,
        ):
            if response.status_code != 200:
                self._refuse(response.read())
            for text in response.iter_lines():
                yield decode(text)

    def _ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        message: object = None,
        *,
        params: dict[str, Any] | None = None,
        timeout: float | None = TIMEOUT,
    ) -> T:
        body = None if message is None else msgspec.json.encode(message)
        with self._reachable():
            response = self._http.request(method, path, content=body, params=params, timeout=timeout)
        if response.status_code >= 400:
            self._refuse(response.content)
        return msgspec.json.decode(response.content, type=kind)

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        # Asked first: the HTTP client leaves a socket open when nobody listens.
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._path))
            except PermissionError as error:
                raise EdgeError(
                    f"{self._path} belongs to another user", hint="Run this as the user who runs the gateway."
                ) from error
            except OSError as error:
                raise NotRunning(
                    f"no gateway is running on {self._path.parent}",
                    hint="Start one with 'edge run', or name its --config.",
                ) from error
        try:
            yield
        except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError) as error:
            raise NotRunning("the gateway has stopped") from error
        except httpx.TimeoutException as error:
            raise EdgeError("the gateway does not answer", hint="See its log.") from error

    def _refuse(self, body: bytes) -> None:
        problem = msgspec.json.decode(body, type=Problem)
        raise EdgeError(problem.error, hint=problem.hint)


def _release(name: str) -> str:
    return f"/ota/releases/{quote(name, safe='')}"


def connect(path: Path) -> Client:
    """A client for the gateway of a configuration file."""
    return Client(config.load(path).socket)
