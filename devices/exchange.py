"""Devices as lines of JSON, to take them from one gateway to another: digests and public keys, never a secret.

What a device proves itself with stays on the board; both gateways then know it by the same digest or public key.
Secrets of HS256 and OSCORE contexts stay behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from devices import keys
from devices.keys import MAX_KEYS, SECRET, X509
from devices.registry import Registry
from devices.rules import check_id, check_profile, check_tags
from edge_runtime.errors import EdgeError
from edge_runtime.journal.records import Device, Key

MAX_DEVICES = 20_000
"""In one import: more come in several."""


class KeyLine(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A key; `data` is base64: a SHA-256 digest (`token`, `x509`) or a public key in DER form (`es256`, `rs256`)."""

    id: str
    type: str
    data: bytes
    created: int
    expires: int = 0


class DeviceLine(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A device, as one line of an export."""

    device: str
    created: int
    keys: list[KeyLine] = []
    tags: dict[str, str] = {}
    profile: str = "device"
    blocked: bool = False


class Imported(msgspec.Struct):
    """What an import has done."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0


def exported(registry: Registry) -> Iterator[DeviceLine]:
    """All devices, by id."""
    for d in registry.list():
        lines = [KeyLine(k.id, k.type, k.data, k.created, k.expires) for k in d.keys if k.type not in SECRET]
        yield DeviceLine(d.id, d.created, lines, d.tags, d.profile, d.blocked)


async def take_in(registry: Registry, lines: Iterable[DeviceLine]) -> Imported:
    """Have devices be as these lines say: all or, where one of them is wrong, none. Doing it again changes nothing.

    Devices that are not named stay as they are, and so do secrets of those that are.
    """
    done = Imported()
    records: dict[str, Device] = {}
    certificates: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        try:
            if number > MAX_DEVICES:
                raise EdgeError(f"these are more than {MAX_DEVICES} devices", hint="Import them in several files.")
            record = _record(registry, line)
            for key in record.keys:
                if key.type == X509 and certificates.setdefault(key.data, record.id) != record.id:
                    raise EdgeError(f"'{record.id}' and '{certificates[key.data]}' have the same certificate")
        except EdgeError as error:
            raise EdgeError(f"line {number}: {error}; nothing was imported", hint=error.hint) from None
        if record.id in records:
            raise EdgeError(f"line {number}: '{record.id}' was there before; nothing was imported")
        records[record.id] = record
    wanted = []
    for record in records.values():
        before = registry.record(record.id)
        if before is None:
            done.added += 1
        elif msgspec.structs.replace(before, key_digest=b"", keys=before.all_keys) == record:
            done.unchanged += 1
            continue
        else:
            done.changed += 1
        wanted.append(record)
    await registry.put(wanted)
    return done


def _record(registry: Registry, line: DeviceLine) -> Device:
    check_id(line.device)
    check_profile(line.profile)
    check_tags(line.tags)
    if not 0 <= line.created < 2**62:
        raise EdgeError(f"'created' of '{line.device}' is no moment")
    found = [Key(k.id, k.type, k.data, k.created, k.expires) for k in line.keys]
    for key in found:
        keys.check(key)
        owner = registry.owner_of_certificate(key.data) if key.type == X509 else ""
        if owner not in ("", line.device):
            raise EdgeError(f"'{owner}' has the certificate of '{line.device}' already")
    before = registry.record(line.device)
    secret = [key for key in (before.all_keys if before is not None else []) if key.type in SECRET]
    for key in secret:
        taken = any(other.id == key.id for other in found)
        found.append(msgspec.structs.replace(key, id=keys.next_id(found)) if taken else key)
    if len(found) > MAX_KEYS:
        raise EdgeError(f"'{line.device}' would have {len(found)} keys; {MAX_KEYS} are the most")
    if len({key.id for key in found}) < len(found):
        raise EdgeError(f"two keys of '{line.device}' have the same id")
    found.sort(key=lambda key: int(key.id))
    return Device(line.device, b"", line.created, line.blocked, found, line.tags, line.profile)
