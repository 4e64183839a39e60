"""The keys of a device: what there is of each type, and when one counts."""

from __future__ import annotations

import secrets
from base64 import b64encode
from hashlib import sha256

import msgspec

from devices import jwt
from edge_runtime.errors import EdgeError
from edge_runtime.journal.records import Key

MAX_KEYS = 3
"""Of one device: one in use, one that takes over, one to spare."""
TOKEN, HS256, ES256, RS256, X509, OSCORE = "token", "hs256", "es256", "rs256", "x509", "oscore"
PUBLIC = (ES256, RS256)
SECRET = (HS256, OSCORE)
"""Of these the gateway has to keep the secret itself: it is in the journal, and leaves the gateway by no export."""
TYPES = (TOKEN, ES256, RS256, X509, *SECRET)


class OscoreContext(msgspec.Struct, frozen=True):
    """What both sides derive an OSCORE security context from (RFC 8613 section 3.2), seen from the gateway."""

    master_secret: bytes
    master_salt: bytes
    sender_id: bytes
    """The gateway's."""
    recipient_id: bytes
    """The device's: what its messages carry as `kid`."""
    id_context: bytes | None = None

    def encode(self) -> bytes:
        """As a key's `data`."""
        return msgspec.msgpack.encode(self)


def new_oscore(recipient_id: bytes) -> OscoreContext:
    """A context with fresh secrets, for the device that names itself so."""
    return OscoreContext(secrets.token_bytes(16), secrets.token_bytes(8), b"\x00gw", recipient_id)


def oscore_of(key: Key) -> OscoreContext:
    """The context that an `oscore` key holds."""
    return msgspec.msgpack.decode(key.data, type=OscoreContext)


def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of a certificate in DER form."""
    return sha256(certificate).digest()


def shown(key: Key) -> str:
    """What tells a key from others and is no secret: a public key or fingerprint as text."""
    match key.type:
        case "token" | "hs256":
            return ""
        case "oscore":
            return f"kid {oscore_of(key).recipient_id.hex()}"
        case "x509":
            return f"SHA-256 {key.data.hex()}"
        case _:
            return b64encode(key.data).decode()


def next_id(keys: list[Key]) -> str:
    """An id that none of a device's keys has."""
    return str(max((int(key.id) for key in keys if key.id.isdecimal()), default=0) + 1)


def check(key: Key) -> None:
    """Raise EdgeError for a key, from outside, that cannot be one."""
    if key.type in (TOKEN, X509):
        if len(key.data) != 32:
            raise EdgeError(f"the data of key '{key.id}' is not a SHA-256 digest (32 bytes in base64)")
    elif key.type in PUBLIC:
        if jwt.kind_of(key.data) != key.type:
            raise EdgeError(f"the data of key '{key.id}' is not a public key for {key.type.upper()} (DER in base64)")
    else:
        raise EdgeError(
            f"a key of type '{key.type[:20]}' cannot be imported",
            hint=f"Types: {', '.join(t for t in TYPES if t not in SECRET)}.",
        )
    if not key.id.isdecimal() or len(key.id) > 9:
        raise EdgeError(f"'{key.id[:20]}' is not the id of a key: they are numbers")
