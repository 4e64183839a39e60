"""JWTs that a board signs, inside the real MicroPython, checked by another library."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hil.board import firmware_folder
from hil.script import installed, run_script

SIGN = """
from binascii import hexlify, unhexlify
from edge_device import p256
key = unhexlify("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721")
for text in (b"sample", b"test"):
    print(hexlify(p256.sign(key, text)).decode().upper())
for wrong in (b"", bytes(32), b"\\xff" * 32):
    try:
        p256.sign(wrong, b"sample")
    except ValueError as error:
        print(error)
"""
RFC_6979 = [
    "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716"
    "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
    "F1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367"
    "019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083",
]
"""Signatures of "sample" and "test" with SHA-256 (appendix A.2.5)."""

TOKENS = """
from edge_device.config import ConfigError
from edge_device.jwt import Signer

class Hal:
    def time(self):
        return TIME

for name in ("sec1.pem", "pkcs8.pem", "sec1.der"):
    try:
        print(Signer("b1", {"key": name, "audience": "site", "seconds": 600}, "it").token(Hal()).decode())
    except ValueError as error:
        print(error)
for wrong in ([], {"key": "k"}, {"key": "k", "audience": "a", "seconds": 90000}, {"key": "k", "audience": "a", "x": 1}):
    try:
        Signer("b1", wrong, "it")
        print("taken")
    except ConfigError:
        print("refused")
"""


@pytest.fixture
def board(tmp_path: Path) -> Path:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    shutil.copytree(firmware_folder() / "edge_device", tmp_path / "lib" / "edge_device")
    return tmp_path


def test_the_signatures_of_rfc_6979_in_a_heap_of_64_kib(board: Path) -> None:
    # Only what signs: the package around it, from source, would not leave room for its compiler.
    (board / "lib" / "edge_device" / "__init__.py").write_text("")
    lines = run_script("unix", board, SIGN, heap="64k").splitlines()
    assert lines == RFC_6979 + ["that is not a private key for P-256"] * 3


@pytest.mark.parametrize("known", [True, False])
def test_tokens(board: Path, known: bool) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    for name, encoding, form in (
        ("sec1.pem", Encoding.PEM, PrivateFormat.TraditionalOpenSSL),
        ("pkcs8.pem", Encoding.PEM, PrivateFormat.PKCS8),
        ("sec1.der", Encoding.DER, PrivateFormat.TraditionalOpenSSL),
    ):
        (board / name).write_bytes(key.private_bytes(encoding, form, NoEncryption()))
    time = "1795000000000000" if known else "None"
    lines = run_script("unix", board, TOKENS.replace("TIME", time), heap="256k").splitlines()
    assert lines[3:] == ["refused"] * 4
    for line in lines[:3]:
        if known:
            claims = jwt.decode(
                line,
                key.public_key(),
                algorithms=["ES256"],
                audience="site",
                options={"verify_exp": False, "verify_iat": False},
            )
            assert claims == {"iat": 1794999940, "exp": 1795000600, "aud": "site"}
        else:
            assert "needs the time" in line
