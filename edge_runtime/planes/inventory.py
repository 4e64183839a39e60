"""The devices as an operator sees and changes them: over registry, twin and orders."""

from __future__ import annotations

import asyncio
import contextlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Collection, Container
from math import isfinite
from typing import Any

import msgspec

from devices import exchange, keys
from devices.authority import Authority
from devices.exchange import DeviceLine, Imported
from devices.orders import Order, Orders
from devices.registry import DeviceInfo, Registry
from devices.twin import BYTES, Content, Index, Twin, json_content
from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, NotFound
from edge_runtime.journal.records import Key
from edge_runtime.planes.messages import DeviceKey, DeviceRow

LONGEST_WAIT = 3600.0
"""Seconds that a request may wait for the end of a command."""


class NewDevice(msgspec.Struct, forbid_unknown_fields=True):
    """Register a device."""

    device: str
    profile: str = "device"
    tags: dict[str, str] = {}
    token: bool = True
    """Whether it gets a token at once."""
    pem: str = ""
    """A public key that it gets at once, or a certificate whose public key it is; then no token."""
    hs256: bool = False
    """Whether it gets, in place of a token, a secret with which it signs JWTs."""


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """Give a device a key beside those that it has."""

    type: str = keys.TOKEN
    """`token`, `hs256`, `public` (with `pem`), `certificate` (from the gateway's own CA) or `oscore`."""
    pem: str = ""
    """A public key, or a certificate whose public key it is."""
    ttl: int = 0
    """Microseconds for which it is good; 0 for ever."""


class Tagging(msgspec.Struct, forbid_unknown_fields=True):
    """Tags to set; an empty value removes one."""

    tags: dict[str, str]


class Ordering(msgspec.Struct, forbid_unknown_fields=True):
    """A command for a device."""

    name: str
    args: Any = None
    ttl: int = 60_000_000
    """Microseconds after which it is not wanted any more."""
    wait: float = 0
    """Seconds to wait for its end before the answer."""


class Importing(msgspec.Struct, forbid_unknown_fields=True):
    """Devices that are to be as these lines say."""

    devices: list[DeviceLine]


class KeyRow(msgspec.Struct):
    """A key of a device; nothing of it is secret."""

    id: str
    type: str
    created: int
    expires: int
    shown: str
    """A public key, a fingerprint or an id, where the type has one."""


class NewKeyRow(msgspec.Struct):
    """A key that was just made, and what is to be said of it only now."""

    device: str
    key: KeyRow
    secret: str = ""
    """The token, or the secret of HS256; for OSCORE the master secret in hex."""
    salt: str = ""
    """For OSCORE: the master salt in hex."""
    sender_id: str = ""
    """For OSCORE: the id that the device sends with, in hex."""
    recipient_id: str = ""
    """For OSCORE: the id that the gateway sends with, in hex."""
    certificate: str = ""
    """For a certificate: itself, as PEM, and below that of the CA."""
    private_key: str = ""
    """For a certificate: the key that goes with it, as PEM."""
    ca: str = ""


class DeviceDetail(msgspec.Struct):
    """One device in full."""

    device: str
    created: int
    blocked: bool
    connected: bool
    last_seen: int | None
    profile: str
    tags: dict[str, str]
    keys: list[KeyRow]
    orders: list[Order]
    """Commands that persons have given since the gateway started, or that were under way then; the newest first."""
    twin: Index
    """What there is of configurations and states."""
    skew: int | None = None
    """Microseconds that its clock seems to be behind; None while too little came from it."""


class NewConfig(msgspec.Struct, forbid_unknown_fields=True):
    """A new configuration: plain values, or bytes that only the device understands."""

    config: Any = None
    data: bytes | None = None


class ConfigRow(msgspec.Struct):
    """A version of a device's configuration."""

    device: str
    version: int
    time: int
    form: str
    config: Any
    """Bytes are `{"base64": ...}`."""
    twin: Index


class StateRow(msgspec.Struct):
    """A state that a device has reported."""

    time: int
    state: Any


class Inventory:
    """Everything that can be asked of the devices, and done to them."""

    def __init__(
        self,
        registry: Registry,
        twin: Twin,
        orders: Orders,
        authority: Authority,
        clock: Clock,
        connected: Callable[[], Collection[str]],
        skew_of: Callable[[str], int | None] = lambda _device: None,
        users: Container[str] = (),
    ) -> None:
        """`users` are the names of MQTT users: no new device may have one, since a name decides whose key is asked."""
        self.registry = registry
        self.twin = twin
        self.orders = orders
        self._authority = authority
        self._clock = clock
        self._connected = connected
        self._skew_of = skew_of
        self._users = users

    def rows(self) -> list[DeviceRow]:
        """All devices, by id."""
        connected = self._connected()
        return [
            DeviceRow(
                d.id, d.created, d.blocked, d.id in connected, d.last_seen, d.profile, d.tags, self._skew_of(d.id)
            )
            for d in self.registry.list()
        ]

    async def detail(self, device: str) -> DeviceDetail:
        """One device in full."""
        info: DeviceInfo = self.registry.info(device)
        twin = await self.twin.index(device)
        return DeviceDetail(
            device,
            info.created,
            info.blocked,
            device in self._connected(),
            info.last_seen,
            info.profile,
            info.tags,
            [_row(key) for key in info.keys],
            self.orders.of(device),
            twin,
            self._skew_of(device),
        )

    async def remove(self, device: str) -> None:
        """Forget a device, its keys and its twin."""
        await self.registry.remove(device)
        await self.twin.forget(device)

    async def config(self, device: str, version: int = 0) -> ConfigRow:
        """A version of a device's configuration, by default the newest. Raises NotFound."""
        self.registry.info(device)
        index = await self.twin.index(device)
        found = await self.twin.config(device, version)
        if found is None:
            which = f"no version {version} of a configuration" if version else "no configuration"
            hint = f"Kept: {', '.join(str(kept.number) for kept in index.configs)}." if index.configs else ""
            raise NotFound(f"there is {which} for '{device}'", hint=hint)
        number, content = found
        kept = next(kept for kept in index.configs if kept.number == number)
        return ConfigRow(device, number, kept.time, content.form, plain(content.value()), index)

    async def configure(self, device: str, request: NewConfig) -> ConfigRow:
        """Give a device a new configuration; it is sent at once where the device is connected."""
        content = Content(BYTES, request.data) if request.data is not None else json_content(request.config)
        return await self.config(device, await self.twin.set_config(device, content))

    async def states(self, device: str) -> list[StateRow]:
        """The last states that a device has reported, the newest first."""
        self.registry.info(device)
        return [StateRow(kept.time, plain(content.value())) for kept, content in await self.twin.states(device)]

    async def add(self, request: NewDevice) -> DeviceKey:
        """Register a device; its token or secret, if it gets one, is shown this once."""
        self._check_free(request.device)
        made = await self.registry.add(
            request.device,
            profile=request.profile,
            tags=request.tags,
            token=request.token,
            pem=request.pem,
            hs256=request.hs256,
        )
        return DeviceKey(request.device, made, keys.HS256 if request.hs256 else keys.TOKEN)

    async def rotate(self, device: str) -> DeviceKey:
        """Give a device a new token, or a new secret, in place of its only one, which is void at once."""
        key, text = await self.registry.rotate(device)
        return DeviceKey(device, text, key.type)

    async def add_key(self, device: str, request: NewKey) -> NewKeyRow:
        """Give a device a key beside those that it has."""
        expires = self._clock.now() + request.ttl if request.ttl else 0
        match request.type:
            case keys.TOKEN:
                key, text = await self.registry.add_token(device, expires)
                return NewKeyRow(device, _row(key), text)
            case keys.HS256:
                key, text = await self.registry.add_hs256(device, expires)
                return NewKeyRow(device, _row(key), text)
            case "public":
                return NewKeyRow(device, _row(await self.registry.add_public_key(device, request.pem, expires)))
            case "certificate":
                self.registry.info(device)
                issued = self._authority.issue(device, self._clock.now(), expires)
                key = await self.registry.add_certificate(device, issued.der, issued.expires)
                ca = self._authority.certificate.read_text()
                texts = issued.certificate.decode(), issued.key.decode(), ca
                return NewKeyRow(device, _row(key), "", "", "", "", *texts)
            case keys.OSCORE:
                key, made = await self.registry.add_oscore(device, expires)
                ids = made.recipient_id.hex(), made.sender_id.hex()
                return NewKeyRow(device, _row(key), made.master_secret.hex(), made.master_salt.hex(), *ids)
        raise EdgeError(
            f"a key of type '{request.type[:20]}' cannot be made here",
            hint="token, hs256, public, certificate or oscore.",
        )

    async def order(self, device: str, request: Ordering) -> Order:
        """Give a command, and with `wait` answer once it has ended or so much time has passed."""
        if not 0 <= request.wait <= LONGEST_WAIT:
            raise EdgeError(f"'wait' is between 0 and {LONGEST_WAIT:.0f} seconds")
        order = await self.orders.give(device, request.name, request.args, request.ttl)
        if request.wait:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.orders.outcome(order.id), request.wait)
        return order

    async def exported(self) -> AsyncIterator[DeviceLine]:
        """All devices, as lines that another gateway takes in."""
        for line in exchange.exported(self.registry):
            yield line

    async def take_in(self, request: Importing) -> Imported:
        """Have devices be as these lines say."""
        for line in request.devices:
            if line.device not in self.registry:  # one that is there goes on, whoever came first
                self._check_free(line.device)
        return await exchange.take_in(self.registry, request.devices)

    def _check_free(self, device: str) -> None:
        if device in self._users:
            raise EdgeError(
                f"there is an MQTT user '{device}', so no device can be called so",
                hint=f"Choose another id, or remove the user first: edge user remove {device}",
            )


def plain(value: Any) -> Any:
    """A board's value as JSON can have it."""
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _row(key: Key) -> KeyRow:
    return KeyRow(key.id, key.type, key.created, key.expires, keys.shown(key))
