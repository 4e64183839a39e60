"""Who has made a release: Ed25519 (RFC 8032) or ES256 (ECDSA on P-256 with SHA-256, RFC 7518) over its manifest.

`cryptography` is imported when the first signature is made or checked: it is 6 MB that most gateways never need.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import EdgeError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey

CONTEXT = b"edge release\0"
"""What is signed begins with this, so that no signature for anything else is one for a release."""


def name_of(public: bytes) -> str:
    """A public key (DER) by its name: the first 16 hex digits of its SHA-256."""
    return sha256(public).hexdigest()[:16]


def read_private(pem: bytes, where: str) -> PrivateKey:
    """A private key from a PEM file without a passphrase; raises EdgeError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    hint = "openssl genpkey -algorithm ed25519 -out release.pem makes one."
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise EdgeError(f"{where} holds no private key without a passphrase, in PEM form: {error}", hint=hint) from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise EdgeError(f"{where} holds neither an Ed25519 nor a P-256 key", hint=hint)


def read_public(pem: bytes, where: str) -> bytes:
    """A public key (DER) from its PEM form; raises EdgeError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EdgeError(f"{where} holds no public key in PEM form: {error}") from None
    good = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    if not good and not isinstance(key, ed25519.Ed25519PublicKey):
        raise EdgeError(f"{where} holds neither an Ed25519 nor a P-256 key")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_pem(public: bytes) -> str:
    """A public key in PEM form."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

    return load_der_public_key(public).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def own_key(path: Path) -> PrivateKey:
    """The gateway's own key, made the first time; its file is for its owner alone. Raises EdgeError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    try:
        if path.exists():
            return read_private(path.read_bytes(), str(path))
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        fresh = path.with_name(path.name + ".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise EdgeError(f"the gateway's key for releases, {path}, cannot be used: {error.strerror}") from None
    return key


def sign(key: PrivateKey, manifest: bytes) -> tuple[bytes, bytes]:
    """The signature of a manifest, and the public key (DER) that shows it."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    text = CONTEXT + manifest
    signature = key.sign(text) if isinstance(key, ed25519.Ed25519PrivateKey) else key.sign(text, ec.ECDSA(SHA256()))
    return signature, key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def check(public: bytes, signature: bytes, manifest: bytes) -> None:
    """Raise EdgeError unless the owner of a public key (DER) has signed a manifest."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    text = CONTEXT + manifest
    try:
        key = load_der_public_key(public)
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, text)
            return
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            key.verify(signature, text, ec.ECDSA(SHA256()))
            return
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        pass
    raise EdgeError("the signature of the release is not that of its manifest", hint="Fetch it anew from who made it.")
