"""JWTs that a board signs, inside the real MicroPython, checked by another library."""

from __future__ import annotations

import hmac
import os
import secrets
import shutil
from base64 import urlsafe_b64encode
from pathlib import Path
from types import SimpleNamespace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hil.board import firmware_folder
from hil.script import installed, run_script
from tests.firmware.spool_board import EPOCH, edge_device

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
        print(Signer({"key": name, "audience": "site", "seconds": 600}, "it").token(Hal()).decode())
    except ValueError as error:
        print(error)
for wrong in ([], {"key": "k"}, {"key": "k", "audience": "a", "seconds": 90000}, {"key": "k", "audience": "a", "x": 1}):
    try:
        Signer(wrong, "it")
        print("taken")
    except ConfigError:
        print("refused")
"""


MAC = """
from binascii import hexlify, unhexlify
from edge_device.mac import hmac
for key, text in CASES:
    print(hexlify(hmac(unhexlify(key), unhexlify(text))).decode())
"""
SHARED = """
import gc, sys
from edge_device.config import ConfigError
from edge_device.jwt import Signer

class Hal:
    def time(self):
        return 1795000000000000

form = {"alg": "HS256", "secret": SECRET, "audience": "site", "seconds": 600}
signer = Signer(form, "it")
print(signer.token(Hal()).decode())
print("edge_device.p256" in sys.modules)
for wrong in (
    dict(form, secret=SECRET[:-1]),
    dict(form, secret="!" * 43),
    dict(form, secret=""),
    dict(form, alg="ES256"),
    dict(form, alg="none"),
    dict(form, key="/board.key"),
    {"alg": "HS256", "key": "/board.key", "audience": "site"},
    {"alg": "HS256", "secret": SECRET},
    {"alg": "HS512", "key": "/board.key", "audience": "site"},
):
    try:
        Signer(wrong, "it")
        print("taken")
    except ConfigError as error:
        print(SECRET[:20] in str(error))
gc.collect()
before = gc.mem_alloc()
gc.disable()
signer.token(Hal())
print(gc.mem_alloc() - before)
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


def test_the_macs_of_rfc_4231(board: Path) -> None:
    """Cases 1 to 4; 6 and 7 have longer keys than any here. And one of every length there is."""
    cases = [
        ("0b" * 20, b"Hi There".hex(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe".hex(),
            b"what do ya want for nothing?".hex(),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        ("aa" * 20, "dd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (
            bytes(range(1, 26)).hex(),
            "cd" * 50,
            "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
        ),
    ]
    for size in range(65):
        key, text = secrets.token_bytes(size), secrets.token_bytes(size * 3)
        cases.append((key.hex(), text.hex(), hmac.digest(key, text, "sha256").hex()))
    script = MAC.replace("CASES", repr([case[:2] for case in cases]))
    (board / "lib" / "edge_device" / "__init__.py").write_text("")
    assert run_script("unix", board, script, heap="128k").splitlines() == [case[2] for case in cases]


def test_a_shared_secret_needs_no_curve_and_is_in_no_message(board: Path) -> None:
    secret = secrets.token_bytes(32)
    text = urlsafe_b64encode(secret).rstrip(b"=").decode()
    (board / "lib" / "edge_device" / "__init__.py").write_text("")
    token, curve, *refused, used = run_script("unix", board, SHARED.replace("SECRET", repr(text)), heap="64k").split()
    options = {"verify_exp": False, "verify_iat": False}
    claims = jwt.decode(token, secret, algorithms=["HS256"], audience="site", options=options)  # type: ignore[arg-type]
    assert claims == {"iat": 1794999940, "exp": 1795000600, "aud": "site"}
    assert curve == "False"
    assert refused == ["False"] * 9
    assert int(used) < 6000


@pytest.mark.parametrize("algorithm", ["HS256", "ES256"])
def test_a_board_that_needs_the_time_to_connect_asks_for_it(algorithm: str) -> None:
    """Else neither would come first: the question waits for the network, and the network for a JWT."""
    with edge_device("links", "clock") as (links, clock):
        form = {"alg": "HS256", "secret": "A" * 43, "audience": "site"}
        if algorithm == "ES256":
            form = {"key": "/board.key", "audience": "site"}
        settings = links.load({"device": "b1", "host": "127.0.0.1", "port": 1, "jwt": form}, "it")
        assert (settings.form["key"], settings.secret) == ("-", bytes(32) if algorithm == "HS256" else None)
        failures: list[str] = []
        hal = SimpleNamespace(uptime=lambda: 0, time=lambda: None, random=bytes)
        core = SimpleNamespace(
            hal=hal,
            online=False,
            config=SimpleNamespace(links=settings),
            link=settings.link,
            session=SimpleNamespace(key=b""),
            link_down=lambda now, why: failures.append(why),
            step=lambda now: 60_000,
        )
        asked: list[int] = []
        clock.attach(core, {"host": "127.0.0.1"})
        asking = clock.Asking(core, core.hal, {"host": "127.0.0.1", "port": 1, "every": 60})
        asking._ask = asked.append
        assert asking.tick(0) == 1000
        assert settings.step(core, 0)
        assert ("needs the time" in failures[0], asked) == (True, [])
        asking.tick(1000)
        assert asked == [1000]
        core.hal.heard(0, 0, EPOCH)
        if algorithm == "HS256":
            assert not settings.step(core, 2000)
            assert core.session.key.count(b".") == 2
        else:
            assert settings.step(core, 2000), "there is no such file"
        assert not settings.waits
