"""JSON Web Tokens (RFC 7519) by which a device proves that it has a key: signed ES256 or RS256 with its private one, or
HS256 with a secret that the gateway has, too (RFC 7518).

The rules are those of the retired IoT Core contract, whose clients are in the field: `iat`, `exp` and `aud`, at most
24 hours, 10 minutes of skew. The libraries are imported when the first public key is used: a gateway whose boards have
tokens, or share secrets with it, does not carry them.
"""

from __future__ import annotations

import binascii
import functools
import secrets
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from hmac import compare_digest, digest
from typing import TYPE_CHECKING, Any

import msgspec

from edge_runtime.errors import EdgeError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    PublicKey = EllipticCurvePublicKey | RSAPublicKey

SECOND = 1_000_000
SKEW = 600 * SECOND
"""How far a device's clock may be from ours."""
LONGEST = 24 * 3600 * SECOND
"""From `iat` to `exp`."""
MAX_LENGTH = 4096
"""Characters of a token: an RS256 one with a 4096-bit key has about 900."""
RSA_BITS = (2048, 4096)
"""Fewer are weak; more take longer to verify than a stranger should be able to make us work."""
MAX_PEM = 16 << 10
_BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="
ALGORITHMS = {"hs256": "HS256", "es256": "ES256", "rs256": "RS256"}
"""The algorithm of each type of key. The key decides which one it is, never the token."""


class Claims(msgspec.Struct, frozen=True):
    """What a token says of itself; times in seconds."""

    iat: float
    exp: float
    aud: str | list[str]


class Header(msgspec.Struct, frozen=True):
    """The part of a token's header that matters here."""

    alg: str
    crit: list[str] | None = None
    """What has to be understood beside it (RFC 7515 section 4.1.11); nothing of it is."""


def is_jwt(text: bytes) -> bool:
    """Whether a password has a JWT's form: three parts with dots between them."""
    return text.count(b".") == 2 and len(text) <= MAX_LENGTH


def algorithm(text: bytes) -> str:
    """The type of key that a token claims to be signed with; empty where there is no such type."""
    try:
        header = msgspec.json.decode(_decoded(text.split(b".", 1)[0]), type=Header)
    except (msgspec.MsgspecError, ValueError):
        return ""
    if header.crit is not None:
        return ""
    return next((kind for kind, name in ALGORITHMS.items() if name == header.alg), "")


def signed(text: bytes, kind: str, keys: Sequence[bytes], times: int) -> tuple[int, Claims | None]:
    """Which of `keys` has signed the token, and its claims; -1 for none of them.

    The keys are all of one type, public ones in DER form. A refusal takes `times` verifications,
    however many there are.
    """
    if kind == "hs256":
        return _signed_hs256(text, keys, times)
    import jwt

    nobody = [b""] * (times - len(keys))
    for index, der in enumerate([*keys, *nobody]):
        key = _loaded(der) if der else _nobody(kind)
        try:
            payload = jwt.api_jws.decode(_padded(text), key, algorithms=[ALGORITHMS[kind]])
        except (jwt.PyJWTError, ValueError):
            continue
        if der:
            try:
                return index, msgspec.json.decode(payload, type=Claims)
            except msgspec.MsgspecError:
                return index, None
    return -1, None


def _signed_hs256(text: bytes, keys: Sequence[bytes], times: int) -> tuple[int, Claims | None]:
    """As `signed`, with HMAC-SHA256 (RFC 7518 section 3.2): all keys are tried, whichever it is."""
    signing, _, signature = text.rpartition(b".")
    try:
        shown = _decoded(signature)
    except ValueError:
        shown = b""
    nobody = [secrets.token_bytes(32)] * (times - len(keys))
    matching = [compare_digest(digest(key, signing, "sha256"), shown) for key in [*keys, *nobody]]
    if not any(matching[: len(keys)]):
        return -1, None
    try:
        claims = msgspec.json.decode(_decoded(signing.rpartition(b".")[2]), type=Claims)
    except (msgspec.MsgspecError, ValueError):
        claims = None
    return matching.index(True), claims


def objection(claims: Claims, audiences: frozenset[str], now: int) -> str:
    """What is wrong with a signed token's claims at a moment; empty for nothing."""
    issued, expires = claims.iat * SECOND, claims.exp * SECOND
    audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    if not audiences.intersection(audience):
        return "its JWT is for another audience"
    if not 0 <= expires - issued <= LONGEST:
        return "its JWT is valid for more than 24 hours, or ends before it begins"
    if now < issued - SKEW:
        return "its JWT is not valid yet: one of the two clocks is wrong"
    if now >= expires + SKEW:
        return "its JWT has expired"
    return ""


def read_public_key(pem: str) -> tuple[str, bytes]:
    """The type (`es256` or `rs256`) and the DER form of a public key, or of a certificate's. Raises EdgeError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    hint = "It begins with -----BEGIN PUBLIC KEY----- or -----BEGIN CERTIFICATE-----."
    if "PRIVATE KEY" in pem:
        raise EdgeError("that is a private key, which belongs on the board alone", hint="Give its public key.")
    raw = pem.encode()
    if len(raw) > MAX_PEM:
        raise EdgeError("that is too long to be a public key in PEM form", hint=hint)
    try:
        if "BEGIN CERTIFICATE" in pem:
            key: Any = x509.load_pem_x509_certificate(raw).public_key()
        else:
            key = serialization.load_pem_public_key(raw)
    except Exception as error:  # the library has many, and all mean the same here
        raise EdgeError("that is not a public key in PEM form", hint=hint) from error
    kind = _kind(key)
    if not kind:
        raise EdgeError(
            "that is neither a P-256 key (ES256) nor an RSA key of 2048 to 4096 bits (RS256)",
            hint="Make one: openssl ecparam -genkey -name prime256v1 -noout -out private.pem; "
            "openssl ec -in private.pem -pubout -out public.pem",
        )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return kind, key.public_bytes(serialization.Encoding.DER, form)


def kind_of(der: bytes) -> str:
    """The type of a public key in DER form; empty for what is none, or none that is taken."""
    try:
        return _kind(_loaded(der))
    except Exception:  # the library has many, and all mean the same here
        return ""


def _kind(key: object) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return "es256"
    if isinstance(key, rsa.RSAPublicKey) and RSA_BITS[0] <= key.key_size <= RSA_BITS[1]:
        return "rs256"
    return ""


def _decoded(part: bytes) -> bytes:
    """Base64url, with its padding or without. Raises ValueError."""
    if part.translate(None, _BASE64URL):
        raise binascii.Error("not base64url")
    bare = part.rstrip(b"=")
    return urlsafe_b64decode(bare + b"=" * (-len(bare) % 4))


def _padded(text: bytes) -> bytes:
    # Some clients (MicroPython's among them) leave the padding of base64 in place. The signature is over the text as
    # they sent it, so only that of the signature may go.
    signing, dot, signature = text.rpartition(b".")
    return signing + dot + signature.rstrip(b"=")


@functools.lru_cache(maxsize=256)
def _loaded(der: bytes) -> PublicKey:
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    key: Any = load_der_public_key(der)
    return key  # type: ignore[no-any-return]


@functools.cache
def _nobody(kind: str) -> PublicKey:
    """A public key whose private key nobody has."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if kind == "es256":
        return ec.generate_private_key(ec.SECP256R1()).public_key()
    # Making a real one takes a good part of a second; whether this number has two prime factors is of no importance.
    return rsa.RSAPublicNumbers(65_537, secrets.randbits(2048) | 1 | 1 << 2047).public_key()
