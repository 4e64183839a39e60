"""The gateway's own certificate authority: it signs the gateway's certificate and those of devices, and nothing else.

ECDSA P-256 throughout: what boards verify fastest. Private keys lie in files that only their owner can read, made
under another name and renamed: one that is there is whole. The library is imported when it is needed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.clock import TRUSTED_AFTER, SystemClock
from edge_runtime.errors import EdgeError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, CertificateBuilder, ExtensionType, GeneralName, Name

DAY = 86_400_000_000
CA_DAYS = 20 * 365
"""Boards have the CA's certificate pinned, and stay in their places for long."""
SERVER_DAYS = 365
"""Of the gateway's own; it renews itself."""
MAX_NAMES = 32
RENEWED = "renewed"
DEVICE_DAYS = 10 * 365
"""At most, and no longer than the CA: what ends a device's certificate early is the registry, at once."""


class Issued(msgspec.Struct, frozen=True):
    """A certificate for a device and the private key that goes with it, which is kept nowhere else."""

    certificate: bytes
    """PEM."""
    key: bytes
    """PEM."""
    der: bytes
    expires: int


class Authority:
    """The CA in a folder. Times are microseconds since 1970-01-01 UTC."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "ca.pem"
        """What boards and clients have to have."""
        self.server_certificate = folder / "server.pem"
        self.server_key = folder / "server.key"
        self._key = folder / "ca.key"
        self._folder = folder
        self._renew_at = 0

    @property
    def exists(self) -> bool:
        """Whether it has been made."""
        return self._key.exists()

    def make(self, name: str, now: int) -> None:
        """Make the CA, once. Raises EdgeError if it is there, or the time is not known."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec

        if self.exists:
            raise EdgeError(f"there is a certificate authority in {self._folder} already", hint="It was not touched.")
        _check_time(now)
        try:
            self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise EdgeError(f"{self._folder} cannot be made: {error.strerror}") from None
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"edge CA of {name}")
        builder = _builder(key, subject, subject, now, now + CA_DAYS * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(sign_certificates=True), critical=True)
        write(self.certificate, _pem(_signed(builder, key, key)), 0o644)
        write(self._key, _key_pem(key), 0o600)

    def renew(self, names: Iterable[str], now: int, *, look: bool = False) -> bool:
        """Make the gateway's certificate where there is none, less than a third of its life is left, or it is not for
        one of these names; True if it was made. Names that it had, it keeps.

        Its validity begins with that of the CA: a board whose clock stands where it was when it was given the CA's
        certificate takes a renewed one all the same. `look` looks at it even if none of that can be due by itself.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        if not look and now < self._renew_at:
            return False
        _check_time(now)
        ca, ca_key = self._load()
        wanted = list(names)
        if self.server_certificate.exists() and self.server_key.exists():
            try:
                there = x509.load_pem_x509_certificate(self.server_certificate.read_bytes())
                had = there.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            except (OSError, ValueError, x509.ExtensionNotFound) as error:
                raise EdgeError(f"{self.server_certificate} cannot be read: {error}", hint="Remove it.") from None
            names_had = [*had.get_values_for_type(x509.DNSName), *map(str, had.get_values_for_type(x509.IPAddress))]
            self._renew_at = _micros(there.not_valid_after_utc) - SERVER_DAYS * DAY // 3
            if now < self._renew_at and set(wanted) <= set(names_had):
                return False
            wanted = list(dict.fromkeys([*wanted, *names_had]))[:MAX_NAMES]
        key = ec.generate_private_key(ec.SECP256R1())
        end = min(now + SERVER_DAYS * DAY, _micros(ca.not_valid_after_utc))
        builder = _builder(
            key, _name(wanted[0] if wanted else "edge"), ca.subject, _micros(ca.not_valid_before_utc), end
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(sign_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(_alternatives(wanted)), critical=False)
        # The key first: whoever reads the two in between finds that they do not fit, and reads them again.
        write(self.server_key, _key_pem(key), 0o600)
        write(self.server_certificate, _pem(_signed(builder, key, ca_key, ca)), 0o644)
        self._renew_at = end - SERVER_DAYS * DAY // 3
        return True

    def issue(self, device: str, now: int, expires: int = 0) -> Issued:
        """A certificate for a device, valid until `expires` (0: for ten years)."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding
        from cryptography.x509.oid import ExtendedKeyUsageOID

        _check_time(now)
        ca, ca_key = self._load()
        end = min(expires or now + DEVICE_DAYS * DAY, _micros(ca.not_valid_after_utc))
        if end <= now:
            raise EdgeError("the certificate would have expired already", hint="Give a moment that is to come.")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(key, _name(device), ca.subject, _micros(ca.not_valid_before_utc), end)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(sign_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        made = _signed(builder, key, ca_key, ca)
        return Issued(_pem(made), _key_pem(key), made.public_bytes(Encoding.DER), end)

    def _load(self) -> tuple[Certificate, EllipticCurvePrivateKey]:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            key = load_pem_private_key(self._key.read_bytes(), None)
        except FileNotFoundError:
            hint = "'edge init --lan' makes one with a new site."
            raise EdgeError(f"there is no certificate authority in {self._folder}", hint=hint) from None
        except (OSError, ValueError) as error:
            raise EdgeError(f"the certificate authority in {self._folder} cannot be read: {error}") from None
        assert isinstance(key, EllipticCurvePrivateKey)
        return certificate, key


def write(path: Path, data: bytes, mode: int) -> None:
    """Have a file be this: whole, durable, and never readable by more than `mode` says. Raises EdgeError."""
    new = path.with_name(path.name + ".new")
    try:
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise EdgeError(f"{path} cannot be written: {error.strerror}") from None


def renew_apart(folder: Path) -> bool:
    """Renew the gateway's certificate where it is due, for the names that this machine has now; True if it was.

    In a process of its own: the library would take a tenth of the daemon's memory, for a moment of each year. Blocks.
    """
    command = [sys.executable, "-m", "devices.authority", str(folder)]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EdgeError(f"the certificate could not be looked at: {error}") from error
    if ended.returncode:
        raise EdgeError((ended.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return ended.stdout.strip() == RENEWED


def main(folder: Path, now: int) -> int:
    """What `renew_apart` runs; returns the exit status."""
    try:
        renewed = Authority(folder).renew(own_names(), now, look=True)
    except EdgeError as error:
        print(error, file=sys.stderr)
        return 1
    print(RENEWED if renewed else "as it was")
    return 0


def own_names() -> list[str]:
    """What this machine is called and where it can be reached, from its own point of view; its name comes first."""
    host = socket.gethostname().partition(".")[0] or "edge"
    names = [host, f"{host}.local", "localhost", "127.0.0.1", "::1"]
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        # No packet leaves: connecting a datagram socket only chooses the address that would be used (RFC 5737, 3849).
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((target, 9))
            except OSError:
                continue
            names.append(str(probe.getsockname()[0]).partition("%")[0])
    return list(dict.fromkeys(names))


def is_outside(name: str) -> bool:
    """Whether one of `own_names` is an address that other machines can reach."""
    try:
        return not ip_address(name).is_loopback
    except ValueError:
        return False


def _check_time(now: int) -> None:
    if now <= TRUSTED_AFTER:
        hint = "Set the machine's clock first; a certificate says from when to when it is valid."
        raise EdgeError("this machine does not know the time yet", hint=hint)


def _builder(key: EllipticCurvePrivateKey, subject: Name, issuer: Name, start: int, end: int) -> CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(start))
        .not_valid_after(_moment(end))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _signed(
    builder: CertificateBuilder,
    key: EllipticCurvePrivateKey,
    by: EllipticCurvePrivateKey,
    issuer: Certificate | None = None,
) -> Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    if issuer is not None:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key())
        builder = builder.add_extension(identifier, critical=False)
    return builder.sign(by, SHA256())


def _usage(*, sign_certificates: bool) -> ExtensionType:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    # X.520 allows 64 characters; a longer device id is told by its fingerprint, which is what the registry goes by.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternatives(names: Iterable[str]) -> list[GeneralName]:
    from cryptography import x509

    found: list[GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _moment(micros: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=micros // 1_000_000)


def _micros(moment: datetime) -> int:
    return round(moment.timestamp()) * 1_000_000


def _pem(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    # The traditional form ("EC PRIVATE KEY"): MicroPython's and older TLS libraries read it.
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), SystemClock().now()))
