"""Device tokens: 256 random bits, shown once as text, kept only as a digest. And secrets that both sides keep.

A key that is random throughout needs no slow hash: there is no dictionary to try.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from hmac import compare_digest

KEY_BYTES = 32
_TEXT_LENGTH = 43
NOBODY = sha256(secrets.token_bytes(KEY_BYTES)).digest()
"""The digest of a key that nobody has: what an unknown device's key is compared with."""


def new_key() -> tuple[str, bytes]:
    """A new key as URL-safe base64 text without padding, and the digest to keep of it."""
    text, key = new_secret()
    return text, sha256(key).digest()


def new_secret() -> tuple[str, bytes]:
    """A new secret that both sides have to keep: as URL-safe base64 text without padding, and as bytes."""
    key = secrets.token_bytes(KEY_BYTES)
    return urlsafe_b64encode(key).rstrip(b"=").decode(), key


def token_digest(text: bytes) -> bytes | None:
    """The digest of the token that `text` is; None for what is no token.

    What is none is decoded and hashed all the same: it takes as long as a wrong one.
    """
    try:
        key = urlsafe_b64decode(text + b"=") if len(text) == _TEXT_LENGTH else b""
    except ValueError:
        key = b""
    digest = sha256(key).digest()
    return digest if len(key) == KEY_BYTES else None


def same(digest: bytes, kept: bytes) -> bool:
    """Whether two digests are equal. The time taken says nothing about them."""
    return compare_digest(digest, kept)
