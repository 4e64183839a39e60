"""Which devices there are, and who may speak for them: a projection of the journal's `Device` records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec

from devices import jwt, keys
from devices.credentials import NOBODY, new_key, new_secret, same, token_digest
from devices.keys import HS256, MAX_KEYS, OSCORE, TOKEN, X509, OscoreContext
from devices.rules import IOTCORE, PROFILES, check_id, check_profile, check_tags
from edge_runtime.clock import TRUSTED_AFTER, Clock
from edge_runtime.errors import EdgeError, NotFound, nearest
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import Device, Entry, Key, StateChange, Stored

KEPT = "$devices"
"""What the registry keeps beside its records, as a flow keeps its state: no flow can be called so."""
SEEN = "seen"
MAX_APPEND = 1000
WAITS = "the gateway does not know the time yet, and a JWT is only good at its time; tokens work"


class DeviceInfo(msgspec.Struct, frozen=True):
    """What a person may see of a device."""

    id: str
    created: int
    blocked: bool
    last_seen: int | None
    """When it was last heard, microseconds since 1970-01-01 UTC, to the minute after a restart; None for never."""
    keys: list[Key] = []
    tags: dict[str, str] = {}
    profile: str = "device"


class Login(msgspec.Struct, frozen=True):
    """What came of an attempt to speak for a device."""

    device: str
    refused: str = ""
    """Why not, for the security log and nobody else; empty for who is let in."""
    key: str = ""
    """The id of the key that opened."""
    profile: str = PROFILES[0]
    until: int = 0
    """When, by the wall clock, the connection has to end; 0 for never."""


class Registry:
    """The devices. Made with `await Registry.open(journal, clock)`; changes are durable when their call returns."""

    def __init__(self, journal: Journal, clock: Clock, audiences: Iterable[str] = ("gateway",)) -> None:
        self.last_seen: dict[str, int] = {}
        """When a device was last heard, by whoever hears it; `save_seen` makes it durable now and then."""
        self.audiences = frozenset(audiences)
        """What `aud` of a JWT may be: the names of this gateway."""
        self._journal = journal
        self._clock = clock
        self._devices: dict[str, Device] = {}
        self._by_certificate: dict[bytes, str] = {}
        self._by_kid: dict[bytes, str] = {}
        self._offsets: dict[str, int] = {}
        """Where the newest record of a device stands that was heard of since the opening."""
        self._saved: dict[str, int] = {}
        self._watchers: list[Callable[[str], None]] = []
        self._changing = asyncio.Lock()

    @classmethod
    async def open(cls, journal: Journal, clock: Clock, audiences: Iterable[str] = ("gateway",)) -> Registry:
        """The registry as the journal has it, kept up to date from then on."""
        registry = cls(journal, clock, audiences)
        early: list[Stored] = []
        opened = False

        def heard(stored: Sequence[Stored]) -> None:
            changes = [s for s in stored if type(s.record) is Device]
            if opened:
                registry._apply(changes)
            else:
                early.extend(changes)

        journal.listen(heard, events=False)
        tables = await journal.tables()
        seen = (await journal.states(KEPT, [SEEN])).get(SEEN, {}) if KEPT in tables.stateful else {}
        for device in tables.devices.values():
            registry._enter(device)
        registry._saved = {device: int(value) for device, (value, _) in seen.items() if device in tables.devices}
        registry.last_seen.update(registry._saved)
        registry._apply([s for s in early if s.offset > tables.head])
        opened = True
        return registry

    def watch(self, watcher: Callable[[str], None]) -> None:
        """Have `watcher` called with the id of each device that may not be who it was: one that is added, removed,
        blocked or unblocked, has lost a key, or speaks another profile.
        """
        self._watchers.append(watcher)

    def list(self) -> list[DeviceInfo]:
        """All devices, by id."""
        return [self.info(device) for device in sorted(self._devices)]

    def info(self, device: str) -> DeviceInfo:
        """One device. Raises NotFound."""
        d = self._find(device)
        return DeviceInfo(d.id, d.created, d.blocked, self.last_seen.get(d.id), d.all_keys, d.tags, d.profile)

    def __contains__(self, device: str) -> bool:
        return device in self._devices

    def __len__(self) -> int:
        return len(self._devices)

    # Who is let in

    def verify(self, device: str, key: bytes | str) -> bool:
        """Whether `login` lets in."""
        return not self.login(device, key).refused

    def login(self, device: str, secret: bytes | str) -> Login:
        """Let in who has a token of the device, or a JWT signed with one of its keys.

        A refusal takes equal work for devices that do not exist, and for any number of keys.
        """
        raw = secret if isinstance(secret, bytes) else secret.encode("utf-8", "replace")
        found = self._devices.get(device)
        of_device = [] if found is None else found.all_keys
        if jwt.is_jwt(raw):
            return self._login_by_jwt(device, found, of_device, raw)
        digest = token_digest(raw)
        compared = digest or NOBODY[::-1]
        kept = [key for key in of_device if key.type == TOKEN]
        matching = [same(compared, key.data) for key in kept]
        matching += [same(compared, NOBODY) for _ in range(MAX_KEYS - len(kept))]
        if found is None or not any(matching):
            return Login(device, "wrong key, or unknown device")
        return self._let_in(found, kept[matching.index(True)])

    def login_by_proof(self, device: str, made: Callable[[bytes], bytes], shown: bytes) -> tuple[Login, bytes]:
        """Let in who has shown what `made` makes of the digest of one of the device's tokens; and that digest.

        A refusal takes equal work for devices that do not exist, and for any number of keys.
        """
        found = self._devices.get(device)
        kept = [key for key in ([] if found is None else found.all_keys) if key.type == TOKEN]
        matching = [same(shown, made(key.data)) for key in kept]
        matching += [same(shown, made(NOBODY)) for _ in range(MAX_KEYS - len(kept))]
        if found is None or not any(matching[: len(kept)]):
            return Login(device, "wrong key, or unknown device"), b""
        key = kept[matching.index(True)]
        return self._let_in(found, key), key.data

    def login_without_proof(self, device: str) -> Login:
        """Let in, by its word alone, a device on a line that is trusted; one that is blocked stays out."""
        found = self._devices.get(device)
        if found is None:
            return Login(device, "unknown device")
        return Login(device, "the device is blocked") if found.blocked else Login(device, "", "", found.profile)

    def login_by_certificate(self, certificate: bytes) -> Login:
        """Let in who has shown (in a TLS handshake, against our CA) a certificate, in DER form, of some device."""
        digest = keys.fingerprint(certificate)
        found = self._devices.get(self._by_certificate.get(digest, ""))
        if found is None:
            return Login("", f"no device has the certificate {digest.hex()}")
        return self._let_in(found, next(key for key in found.all_keys if key.type == X509 and key.data == digest))

    def oscore(self, kid: bytes) -> tuple[Login, OscoreContext | None]:
        """The context of the device that calls itself `kid`, for who can read with it what it sent."""
        found = self._devices.get(self._by_kid.get(kid, ""))
        if found is None:
            return Login("", f"no device has the OSCORE id {kid[:8].hex()}"), None
        held = next(k for k in found.all_keys if k.type == OSCORE and keys.oscore_of(k).recipient_id == kid)
        login = self._let_in(found, held)
        return login, None if login.refused else keys.oscore_of(held)

    def _login_by_jwt(self, device: str, found: Device | None, of_device: Sequence[Key], raw: bytes) -> Login:
        now = self._clock.now()
        if now <= TRUSTED_AFTER:
            return Login(device, WAITS)
        kind = jwt.algorithm(raw)
        if not kind:
            return Login(device, "a JWT that is not signed with ES256, RS256 or HS256")
        kept = [key for key in of_device if key.type == kind]
        if kind == HS256 and found is not None and found.profile == IOTCORE:
            kept = []  # that contract has no shared secrets
        index, claims = jwt.signed(raw, kind, [key.data for key in kept], MAX_KEYS)
        if found is None or index < 0:
            return Login(device, "a JWT that no key of the device has signed, or unknown device")
        if claims is None:
            return Login(device, "its JWT lacks 'iat', 'exp' or 'aud'")
        wrong = jwt.objection(claims, self.audiences, now)
        until = round(claims.exp) * jwt.SECOND + jwt.SKEW if not wrong else 0
        return Login(device, wrong) if wrong else self._let_in(found, kept[index], until)

    def _let_in(self, found: Device, key: Key, until: int = 0) -> Login:
        now = self._clock.now()
        if found.blocked:
            return Login(found.id, "the device is blocked")
        if key.expires and now >= key.expires and now > TRUSTED_AFTER:
            return Login(found.id, f"its key {key.id} has expired")
        until = min(until, key.expires) if until and key.expires else until or key.expires
        return Login(found.id, "", key.id, found.profile, until)

    # Changes

    async def add(
        self,
        device: str,
        *,
        profile: str = PROFILES[0],
        tags: dict[str, str] | None = None,
        token: bool = True,
        pem: str = "",
        hs256: bool = False,
    ) -> str:
        """Add a device and return its token, or with `hs256` the secret of its JWTs: it cannot be had a second time.

        With `pem`, a public key, it has that one and no token; without `token` either it has no key yet.
        """
        if pem and hs256:
            raise EdgeError("a device gets one key at first", hint="Give it the other: edge device key add.")
        public = jwt.read_public_key(pem) if pem else None
        check_id(device)
        check_profile(profile)
        check_tags(tags or {})
        if hs256:
            _check_shares(device, profile)
        async with self._changing:
            if device in self._devices:
                raise EdgeError(
                    f"there is a device '{device}' already",
                    hint=f"Choose another id, or give this device a new key: edge device rotate {device}",
                )
            now = self._clock.now()
            kind = HS256 if hs256 else TOKEN
            text, data = _new(kind)
            made = hs256 or (token and public is None)
            first = [Key("1", *public, now)] if public else [Key("1", kind, data, now)] if made else []
            await self._store(Device(device, b"", now, False, first, tags or {}, profile))
        return text if made else ""

    async def rotate(self, device: str) -> tuple[Key, str]:
        """Give the device a new token, or a new secret for its JWTs, in place of its only one: void from then on."""
        async with self._changing:
            found = self._find(device)
            held = [key for key in found.all_keys if key.type in (TOKEN, HS256)]
            if len(held) != 1:
                raise EdgeError(
                    f"'{device}' has {len(held) or 'no'} token{'s' * (len(held) > 1)}"
                    f" or secret{'s' * (len(held) > 1)}: which one to replace?",
                    hint=f"Use edge device key add {device} and edge device key remove {device} KEY.",
                )
            text, data = _new(held[0].type)
            changed = Key(keys.next_id(found.all_keys), held[0].type, data, self._clock.now())
            kept = [changed if key is held[0] else key for key in found.all_keys]
            await self._store(_with_keys(found, kept))
        return changed, text

    async def add_token(self, device: str, expires: int = 0) -> tuple[Key, str]:
        """Give the device a token beside the keys that it has; it cannot be had a second time."""
        text, data = _new(TOKEN)
        return await self.add_key(device, TOKEN, data, expires), text

    async def add_hs256(self, device: str, expires: int = 0) -> tuple[Key, str]:
        """Let the device prove itself by JWTs signed with a secret, which cannot be had a second time."""
        text, data = _new(HS256)
        return await self.add_key(device, HS256, data, expires), text

    async def add_public_key(self, device: str, pem: str, expires: int = 0) -> Key:
        """Let the device prove itself by JWTs signed with the private key of a public one."""
        return await self.add_key(device, *jwt.read_public_key(pem), expires)

    async def add_certificate(self, device: str, certificate: bytes, expires: int = 0) -> Key:
        """Let the device prove itself by a certificate, in DER form."""
        return await self.add_key(device, X509, keys.fingerprint(certificate), expires)

    async def add_oscore(self, device: str, expires: int = 0) -> tuple[Key, OscoreContext]:
        """Give the device a fresh OSCORE context."""
        taken = len(self._by_kid)
        while (kid := taken.to_bytes(3)) in self._by_kid:
            taken += 1
        context = keys.new_oscore(kid)
        return await self.add_key(device, OSCORE, context.encode(), expires), context

    async def add_key(self, device: str, kind: str, data: bytes, expires: int = 0) -> Key:
        """Give the device a key beside those that it has."""
        async with self._changing:
            found, now = self._find(device), self._clock.now()
            kept = found.all_keys
            if len(kept) >= MAX_KEYS:
                hint = f"Remove one first: edge device key remove {device} KEY"
                raise EdgeError(f"'{device}' has {MAX_KEYS} keys, and cannot have more", hint=hint)
            if expires and expires <= now:
                raise EdgeError("the key would have expired already", hint="Give a moment that is to come.")
            if any(key.type == kind and key.data == data for key in kept):
                raise EdgeError(f"'{device}' has this key already")
            if kind == HS256:
                _check_shares(device, found.profile)
            if kind == X509 and data in self._by_certificate:
                raise EdgeError(f"this certificate is that of '{self._by_certificate[data]}' already")
            if kind == OSCORE:
                owner = self._by_kid.get(msgspec.msgpack.decode(data, type=OscoreContext).recipient_id)
                if owner is not None:
                    raise EdgeError(f"the device '{owner}' has an OSCORE context with this id", hint="Try again.")
            key = Key(keys.next_id(kept), kind, data, now, expires)
            await self._store(_with_keys(found, [*kept, key]))
        return key

    async def remove_key(self, device: str, key: str) -> None:
        """Make one of a device's keys void."""
        async with self._changing:
            found = self._find(device)
            kept = [held for held in found.all_keys if held.id != key]
            if len(kept) == len(found.all_keys):
                hint = nearest(key, [held.id for held in found.all_keys])
                raise NotFound(f"'{device}' has no key '{key}'", hint=hint)
            await self._store(_with_keys(found, kept))

    async def tag(self, device: str, changes: dict[str, str]) -> dict[str, str]:
        """Set tags of a device; an empty value removes one. Returns all that it then has."""
        async with self._changing:
            found = self._find(device)
            tags = {name: value for name, value in {**found.tags, **changes}.items() if value}
            check_tags(tags)
            if tags != found.tags:
                await self._store(msgspec.structs.replace(found, tags=tags))
        return tags

    async def block(self, device: str) -> None:
        """Refuse the device until it is unblocked."""
        await self._set_blocked(device, True)

    async def unblock(self, device: str) -> None:
        """Let the device in again, with the keys it had."""
        await self._set_blocked(device, False)

    async def remove(self, device: str) -> None:
        """Forget the device and its keys. What it has sent stays in the journal."""
        async with self._changing:
            found = self._find(device)
            await self._store(Device(device, b"", found.created, removed=self._clock.now() or 1))

    async def put(self, records: Sequence[Device]) -> None:
        """Have devices be as these records, which `devices.exchange` has checked, say."""
        async with self._changing:
            for start in range(0, len(records), MAX_APPEND):
                self._apply((await self._journal.append(records[start : start + MAX_APPEND])).stored)

    async def save_seen(self) -> None:
        """Make durable when devices were last heard: one record for all, so cheap enough for once a minute."""
        changed = {d: t for d, t in self.last_seen.items() if d in self._devices and self._saved.get(d) != t}
        entries: dict[str, Entry | None] = {device: (str(time), 0) for device, time in changed.items()}
        entries.update({device: None for device in self._saved if device not in self._devices})
        if entries:
            await self._journal.append([StateChange(KEPT, SEEN, entries, {})])
            self._saved = {d: t for d, t in {**self._saved, **changed}.items() if d in self._devices}

    async def _set_blocked(self, device: str, blocked: bool) -> None:
        async with self._changing:
            found = self._find(device)
            if found.blocked != blocked:
                await self._store(msgspec.structs.replace(found, blocked=blocked))

    def owner_of_certificate(self, digest: bytes) -> str:
        """The device that has the certificate with this fingerprint; empty for none."""
        return self._by_certificate.get(digest, "")

    def record(self, device: str) -> Device | None:
        """As the journal has it; None for a device that is not there."""
        return self._devices.get(device)

    def _find(self, device: str) -> Device:
        found = self._devices.get(device)
        if found is None:
            raise NotFound(f"there is no device '{device}'", hint=nearest(device, self._devices))
        return found

    async def _store(self, record: Device) -> None:
        appended = await self._journal.append([record])
        # A journal may answer before it tells its listeners; what was just stored must be known here either way,
        # and is not undone by what is told late.
        self._apply(appended.stored)

    def _apply(self, changes: Sequence[Stored]) -> None:
        for change in changes:
            record = change.record
            if type(record) is Device and self._offsets.get(record.id, -1) < change.offset:
                self._offsets[record.id] = change.offset
                before = self._leave(record.id)
                if record.removed:
                    self.last_seen.pop(record.id, None)
                else:
                    self._enter(record)
                if before is None or _may_be_another(before, record):
                    for watcher in self._watchers:
                        watcher(record.id)

    def _enter(self, record: Device) -> None:
        self._devices[record.id] = record
        for key in record.all_keys:
            if key.type == X509:
                self._by_certificate[key.data] = record.id
            elif key.type == OSCORE:
                self._by_kid[keys.oscore_of(key).recipient_id] = record.id

    def _leave(self, device: str) -> Device | None:
        before = self._devices.pop(device, None)
        for key in [] if before is None else before.all_keys:
            if key.type == X509:
                self._by_certificate.pop(key.data, None)
            elif key.type == OSCORE:
                self._by_kid.pop(keys.oscore_of(key).recipient_id, None)
        return before


def _new(kind: str) -> tuple[str, bytes]:
    """A token or a secret as text, and what is to be kept of it."""
    return new_secret() if kind == HS256 else new_key()


def _check_shares(device: str, profile: str) -> None:
    if profile == IOTCORE:
        hint = "Give it a public key: edge device key add DEVICE --public-key FILE"
        raise EdgeError(f"'{device}' speaks the contract iotcore, whose JWTs are RS256 or ES256", hint=hint)


def _with_keys(found: Device, kept: Sequence[Key]) -> Device:
    return msgspec.structs.replace(found, key_digest=b"", keys=[*kept])


def _may_be_another(before: Device, after: Device) -> bool:
    lost = any(key not in after.all_keys for key in before.all_keys)
    return lost or before.blocked != after.blocked or before.profile != after.profile or after.removed > 0
