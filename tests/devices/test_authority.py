"""The gateway's own CA, judged by another TLS library: OpenSSL, through Python's ssl."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from devices.authority import CA_DAYS, DAY, SERVER_DAYS, Authority, main, own_names, renew_apart, write
from edge_runtime.clock import SystemClock
from edge_runtime.errors import EdgeError

NOW = SystemClock().now()
"""The present: OpenSSL asks the machine's own clock."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "ca")
    made.make("north", NOW - DAY)
    assert made.renew(["edge", "localhost", "127.0.0.1"], NOW - DAY)
    return made


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bytes | None:
    """A handshake over a socket pair; what the server got to see of the client's certificate. Raises SSLError."""
    one, two = socket.socketpair()
    seen: list[bytes | None] = []

    def serve() -> None:
        try:
            with server.wrap_socket(one, server_side=True) as secured:
                seen.append(secured.getpeercert(binary_form=True))
                secured.sendall(b"!")
        except (ssl.SSLError, OSError):
            one.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(two, server_hostname=name) as secured:
            secured.recv(1)
    finally:
        two.close()
        thread.join(10)
    return seen[0]


def contexts(authority: Authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority.server_certificate, authority.server_key)
    server.load_verify_locations(authority.certificate)
    server.verify_mode = ssl.CERT_OPTIONAL
    client = ssl.create_default_context(cafile=str(authority.certificate))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    return server, client


@pytest.mark.parametrize("name", ["edge", "localhost", "127.0.0.1"])
def test_a_client_with_the_ca_trusts_the_gateway_by_each_of_its_names(authority: Authority, name: str) -> None:
    assert shake_hands(*contexts(authority), name) is None


def test_another_name_or_another_ca_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    server, client = contexts(authority)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(server, client, "elsewhere")
    other = Authority(tmp_path / "other")
    other.make("south", NOW - DAY)
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        shake_hands(server, ssl.create_default_context(cafile=str(other.certificate)), "edge")


def test_a_devices_certificate_is_shown_and_serves_no_other_purpose(authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue("gh-1", NOW)
    write(tmp_path / "d.pem", issued.certificate, 0o644)
    write(tmp_path / "d.key", issued.key, 0o600)
    server, client = contexts(authority)
    client.load_cert_chain(tmp_path / "d.pem", tmp_path / "d.key")
    assert shake_hands(server, client, "edge") == issued.der
    assert x509.load_pem_x509_certificate(issued.certificate).public_bytes(Encoding.DER) == issued.der
    server.load_cert_chain(tmp_path / "d.pem", tmp_path / "d.key")
    client.check_hostname = False
    with pytest.raises(ssl.SSLCertVerificationError, match=r"purpose|unsuitable"):
        shake_hands(server, client, "edge")


def test_private_keys_are_for_their_owner_alone(authority: Authority) -> None:
    folder = authority.certificate.parent
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "server.pem": 0o644, "server.key": 0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_gateways_certificate_is_renewed_in_the_last_third_of_its_life(authority: Authority) -> None:
    before = authority.server_certificate.read_bytes()
    due = NOW - DAY + SERVER_DAYS * DAY * 2 // 3
    assert not authority.renew(["edge"], due - 2_000_000)
    assert authority.server_certificate.read_bytes() == before
    assert authority.renew(["edge"], due + 2_000_000)
    renewed = x509.load_pem_x509_certificate(authority.server_certificate.read_bytes())
    ca = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    assert renewed.not_valid_before_utc == ca.not_valid_before_utc, "boards that do not know the time yet take it"
    assert renewed.not_valid_after_utc > datetime.fromtimestamp(due / 1e6 + 300 * 86_400, UTC)
    shake_hands(*contexts(authority), "localhost")


def test_a_new_name_of_the_machine_is_taken_up_and_old_ones_stay(authority: Authority) -> None:
    assert not authority.renew(["edge", "127.0.0.1"], NOW, look=True)
    assert authority.renew(["edge", "192.0.2.7"], NOW, look=True)
    for name in ("edge", "192.0.2.7", "localhost"):
        shake_hands(*contexts(authority), name)


def test_no_certificate_outlives_the_ca(authority: Authority) -> None:
    end = NOW - DAY + CA_DAYS * DAY
    issued = authority.issue("gh-1", end - DAY)
    assert abs(issued.expires - end) < 1_000_000
    with pytest.raises(EdgeError, match="expired already"):
        authority.issue("gh-1", NOW, NOW - 1)


def test_what_is_there_is_not_overwritten_and_what_is_missing_is_named(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="already"):
        authority.make("north", NOW)
    missing = Authority(tmp_path / "none")
    with pytest.raises(EdgeError, match="no certificate authority") as refused:
        missing.issue("gh-1", NOW)
    assert "edge init --lan" in refused.value.hint
    with pytest.raises(EdgeError, match="does not know the time"):
        missing.make("north", 5)
    authority.server_certificate.write_text("no certificate")
    with pytest.raises(EdgeError, match="cannot be read"):
        authority.renew(["edge"], NOW, look=True)


def test_the_machines_own_names() -> None:
    names = own_names()
    assert {"localhost", "127.0.0.1", "::1"} <= set(names)
    assert names[1].endswith(".local")


def test_the_certificate_is_renewed_in_a_process_of_its_own(authority: Authority) -> None:
    folder = authority.certificate.parent
    assert renew_apart(folder), "it was not for this machine's names"
    assert not renew_apart(folder)
    assert main(folder, NOW) == 0
    shake_hands(*contexts(authority), "localhost")
    authority.server_certificate.write_text("no certificate")
    with pytest.raises(EdgeError, match="cannot be read"):
        renew_apart(folder)
