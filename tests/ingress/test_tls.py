"""The certificates of a door: files that cannot be used, and files that are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.authority import Authority
from edge_runtime.clock import TRUSTED_AFTER
from edge_runtime.errors import EdgeError
from edge_runtime.ingress.tls import CHECK_EVERY, Certificates

NOW = TRUSTED_AFTER + 86_400_000_000


def authority(folder: Path) -> Authority:
    made = Authority(folder)
    made.make("test", NOW)
    made.renew(["localhost"], NOW, look=True)
    return made


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    one, other = authority(tmp_path / "one"), authority(tmp_path / "other")
    with pytest.raises(EdgeError, match=r"missing\.pem"):
        Certificates(tmp_path / "missing.pem", one.server_key)
    with pytest.raises(EdgeError, match=r"server\.key"):
        Certificates(one.server_certificate, other.server_key)
    with pytest.raises(EdgeError, match=r"ca\.pem"):
        Certificates(one.server_key, one.server_key, one.certificate)


def test_a_pair_that_is_half_written_changes_nothing_until_it_is_whole(tmp_path: Path) -> None:
    one, other = authority(tmp_path / "one"), authority(tmp_path / "other")
    found = Certificates(one.server_certificate, one.server_key, one.certificate)
    context = found.context
    assert [found.tick() for _ in range(CHECK_EVERY)] == [""] * CHECK_EVERY
    one.server_certificate.write_bytes(other.server_certificate.read_bytes())
    said = [found.tick() for _ in range(CHECK_EVERY)]
    assert said[:-1] == [""] * (CHECK_EVERY - 1)
    assert said[-1].startswith("the new certificate is not used")
    one.server_key.write_bytes(other.server_key.read_bytes())
    assert found.reload() == "the TLS certificate was loaded anew"
    assert found.context is context, "the listening sockets have this one"
    one.server_key.unlink()
    assert found.reload().startswith("the new certificate is not used")
