"""HMAC-SHA256 (RFC 2104), of which ports have the hash alone; and keys as text."""

from binascii import a2b_base64
from hashlib import sha256


def hmac(key, text):
    """The 32 bytes for `text`, with a key of at most 64 bytes."""
    pad = bytearray(64)
    for i in range(64):
        pad[i] = 0x36 ^ (key[i] if i < len(key) else 0)
    inner = sha256(pad)
    inner.update(text)
    for i in range(64):
        pad[i] ^= 0x6A  # 0x36 becomes 0x5C
    outer = sha256(pad)
    outer.update(inner.digest())
    return outer.digest()


def unbase64url(text):
    """The bytes of base64url without padding; ValueError for what is none."""
    return a2b_base64(text.replace("-", "+").replace("_", "/") + "==="[: -len(text) % 4])
