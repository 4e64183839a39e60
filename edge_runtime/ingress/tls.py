"""The TLS of a front door: modern settings, certificates of clients, and new certificates without a restart."""

from __future__ import annotations

import asyncio.sslproto
import ssl
from pathlib import Path

from edge_runtime.errors import EdgeError

HANDSHAKE_TIMEOUT = 15.0
"""Seconds: a board with a slow processor and a bad link needs several."""
BUFFER = 32 << 10
"""Bytes that asyncio reads of one connection at a time. Its own 256 KiB are held for as long as the connection is."""
CHECK_EVERY = 10
"""Ticks between two looks at the files."""

Stamp = tuple[tuple[int, int], ...]


class Certificates:
    """The gateway's certificate and key, and who may sign certificates of devices."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """Raises EdgeError for files that cannot be used."""
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._countdown = CHECK_EVERY
        asyncio.sslproto.SSLProtocol.max_size = BUFFER  # uvloop has a small one of its own
        self._stamp = self._looked()
        self.context = self._load()

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # TLS 1.2 is for boards: with forward secrecy and authenticated encryption only. 1.3 knows nothing else.
        context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        try:
            context.load_cert_chain(self._certificate, self._key)
            if self._client_ca is not None:
                context.load_verify_locations(self._client_ca)
                # Optional: programs and boards with keys come without one.
                context.verify_mode = ssl.CERT_OPTIONAL
        except (OSError, ssl.SSLError) as error:
            raise EdgeError(
                f"TLS cannot use {self._certificate}, {self._key}"
                + (f" and {self._client_ca}" if self._client_ca else "")
                + f": {error.strerror or error}",
                hint="Name a PEM certificate with its chain, and its key without a password.",
            ) from error
        return context

    def tick(self) -> str:
        """Look, now and then, whether the files are others; a line for the log if they are, else empty.

        New connections get the new certificate; those that are open go on. Files that do not fit together, as while
        they are being written, change nothing until they do.
        """
        self._countdown -= 1
        if self._countdown > 0:
            return ""
        self._countdown = CHECK_EVERY
        return self.reload()

    def reload(self) -> str:
        """Look at once."""
        stamp = self._looked()
        if stamp == self._stamp:
            return ""
        self._stamp = stamp
        try:
            self._load()
        except EdgeError as error:
            return f"the new certificate is not used: {error}"
        self.context.load_cert_chain(self._certificate, self._key)
        if self._client_ca is not None:
            self.context.load_verify_locations(self._client_ca)
        return "the TLS certificate was loaded anew"

    def _looked(self) -> Stamp:
        stamps = []
        for path in (self._certificate, self._key, self._client_ca):
            try:
                found = path.stat() if path is not None else None
            except OSError:
                found = None
            stamps.append((found.st_mtime_ns, found.st_ino) if found is not None else (0, 0))
        return tuple(stamps)


def peer_certificate(transport: asyncio.BaseTransport) -> bytes | None:
    """The certificate, in DER form, that the client has shown and that our CA has signed; None if there is none."""
    secured = transport.get_extra_info("ssl_object")
    shown: bytes | None = secured.getpeercert(binary_form=True) if secured is not None else None
    return shown
