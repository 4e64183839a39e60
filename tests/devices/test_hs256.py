"""JWTs signed with a shared secret: who is let in, what is no signature, and that the secret goes nowhere."""

from __future__ import annotations

import hmac
import json
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives import serialization

from devices import jwt, keys
from devices.exchange import DeviceLine, KeyLine, exported, take_in
from devices.keys import MAX_KEYS
from devices.registry import Registry
from edge_runtime.clock import ManualClock
from edge_runtime.errors import EdgeError
from edge_runtime.journal.memory import MemoryJournal
from tests.devices.test_keys import EC, NOW, RSA, pem

NO_KEY = "no key of the device"


def b64(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")


def bytes_of(text: str) -> bytes:
    return urlsafe_b64decode(text + "=")


def token(secret: bytes, alg: str = "HS256", header: dict[str, Any] | None = None, **claims: Any) -> bytes:
    """Made by hand, as the RFC has it: with whatever header."""
    head = {"alg": alg, "typ": "JWT", **(header or {})}
    body = {"iat": NOW, "exp": NOW + 3600, "aud": "gateway", **claims}
    signing = b64(json.dumps(head).encode()) + b"." + b64(json.dumps(body).encode())
    return signing + b"." + b64(hmac.digest(secret, signing, "sha256"))


async def opened(now: int = NOW) -> tuple[Registry, ManualClock, bytes]:
    clock = ManualClock(now * 10**6)
    registry = await Registry.open(MemoryJournal(), clock)
    return registry, clock, bytes_of(await registry.add("one", hs256=True))


async def test_a_device_with_a_secret_is_let_in_until_its_jwt_has_expired() -> None:
    registry, clock, secret = await opened()
    assert len(secret) == 32
    login = registry.login("one", token(secret))
    assert (login.refused, login.key, login.until) == ("", "1", (NOW + 3600 + 600) * 10**6)
    made = pyjwt.encode({"iat": NOW, "exp": NOW + 60, "aud": ["x", "gateway"]}, secret, "HS256")
    assert registry.verify("one", made), "by another library"
    clock.step(4300 * 10**6)
    assert "has expired" in registry.login("one", token(secret)).refused


def test_the_example_of_rfc_7515() -> None:
    """Appendix A.1: its key, its header with a line break, its claims without `iat` and `aud`."""
    key = bytes_of("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow=")
    text = (
        b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt"
        b"cGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    )
    assert jwt.algorithm(text) == "hs256"
    assert jwt.signed(text, "hs256", [bytes(32), key], 3) == (1, None), "of its claims, ours are missing"
    assert jwt.signed(text, "hs256", [bytes(32)], 3) == (-1, None)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"aud": "elsewhere"}, "another audience"),
        ({"exp": NOW + 24 * 3600 + 1}, "more than 24 hours"),
        ({"exp": NOW - 1}, "ends before"),
        ({"iat": NOW - 7200, "exp": NOW - 600}, "has expired"),
        ({"iat": NOW + 601, "exp": NOW + 700}, "not valid yet"),
        ({"iat": "now"}, "lacks"),
        ({"exp": None}, "lacks"),
    ],
)
async def test_the_claims_have_the_rules_of_the_other_algorithms(claims: dict[str, Any], why: str) -> None:
    registry, _, secret = await opened()
    assert why in registry.login("one", token(secret, **claims)).refused
    await registry.add_public_key("one", pem(EC))
    text = pyjwt.encode({"iat": NOW, "exp": NOW + 3600, "aud": "gateway", **claims}, EC, "ES256")
    assert registry.login("one", text).refused == registry.login("one", token(secret, **claims)).refused


async def test_a_public_key_is_no_secret_and_a_secret_no_public_key() -> None:
    """RFC 8725 section 2.1: the key decides on the algorithm, never the token."""
    registry, _, secret = await opened()
    await registry.add("two", pem=pem(EC))
    await registry.add("three", pem=pem(RSA))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    for device, private in (("two", EC), ("three", RSA)):
        der = private.public_key().public_bytes(serialization.Encoding.DER, form)
        for shared in (der, pem(private).encode(), pem(private).strip().encode(), sha256(der).digest()):
            assert NO_KEY in registry.login(device, token(shared)).refused
            assert NO_KEY in registry.login("one", token(shared)).refused
    for alg in ("ES256", "RS256"):
        assert NO_KEY in registry.login("one", token(secret, alg)).refused
        assert NO_KEY in registry.login("two", token(secret, alg)).refused
    for private, alg in ((EC, "ES256"), (RSA, "RS256")):
        good = pyjwt.encode({"iat": NOW, "exp": NOW + 3600, "aud": "gateway"}, private, alg)
        assert NO_KEY in registry.login("one", good).refused
        rest = good.split(".", 1)[1]
        swapped = b64(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()).decode() + "." + rest
        assert NO_KEY in registry.login("two", swapped).refused


async def test_nobody_elses_secret_and_no_token_of_the_device_itself() -> None:
    registry, _, secret = await opened()
    other = bytes_of(await registry.add("two", hs256=True))
    assert NO_KEY in registry.login("one", token(other)).refused
    assert NO_KEY in registry.login("nobody", token(secret)).refused
    _, text = await registry.add_token("one")
    for shared in (bytes_of(text), text.encode(), sha256(bytes_of(text)).digest()):
        assert NO_KEY in registry.login("one", token(shared)).refused
    assert registry.login("one", urlsafe_b64encode(secret).rstrip(b"=")).refused, "the secret itself is no password"
    assert registry.verify("one", text)


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS512"}, {"alg": "hs256"}, {"alg": ["HS256"]},
                                    {"alg": None}, {"crit": ["b64"], "b64": False}, {"crit": []}])  # fmt: skip
async def test_other_algorithms_and_what_has_to_be_understood_are_not_taken(header: dict[str, Any]) -> None:
    registry, _, secret = await opened()
    assert "not signed with" in registry.login("one", token(secret, header=header)).refused


async def test_a_signature_is_all_of_it_and_of_all_of_it() -> None:
    registry, _, secret = await opened()
    good = token(secret)
    head, claims, signature = good.split(b".")
    assert registry.verify("one", good + b"="), "MicroPython leaves the padding in place"
    forged = b64(json.dumps({"iat": NOW, "exp": NOW + 3600, "aud": "gateway", "x": 1}).encode())
    for wrong in (
        b".".join((head, claims, b"")),
        b".".join((head, claims, signature[:-2])),
        b".".join((head, claims, signature + b"AAAA")),
        b".".join((head, claims, signature.replace(signature[:1], b"$", 1))),
        b".".join((head, claims, b"%" + signature)),
        b".".join((head, claims, b"A")),
        b".".join((head, forged, signature)),
        b".".join((head + b"=", claims, signature)),
    ):
        assert NO_KEY in registry.login("one", wrong).refused, wrong


async def test_padded_parts_as_micropython_writes_them() -> None:
    registry, _, secret = await opened()
    head, claims, _ = token(secret).split(b".")
    signing = b".".join(part + b"=" * (-len(part) % 4) for part in (head, claims))
    signature = urlsafe_b64encode(hmac.digest(secret, signing, "sha256"))
    assert registry.verify("one", signing + b"." + signature)


async def test_a_refusal_takes_equal_work_and_all_keys_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, _, secret = await opened()
    await registry.add("bare")
    compared: list[bytes] = []

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(jwt, "compare_digest", counting)
    for device, text in (("one", token(bytes(32))), ("bare", token(secret)), ("nobody", token(secret))):
        compared.clear()
        assert not registry.verify(device, text)
        assert len(compared) == MAX_KEYS
    compared.clear()
    assert registry.verify("one", token(secret))
    assert len(compared) == MAX_KEYS


async def test_three_keys_expiry_rotation_and_removal() -> None:
    registry, clock, secret = await opened()
    dropped: list[str] = []
    registry.watch(dropped.append)
    key, text = await registry.add_hs256("one", expires=clock.now() + 10)
    login = registry.login("one", token(bytes_of(text)))
    assert (login.key, login.until) == (key.id, clock.now() + 10)
    assert registry.verify("one", token(secret)), "one takes over from the other without a gap"
    with pytest.raises(EdgeError, match="2 tokens or secrets"):
        await registry.rotate("one")
    await registry.add_hs256("one")
    with pytest.raises(EdgeError, match="3 keys"):
        await registry.add_hs256("one")
    clock.step(10)
    assert "expired" in registry.login("one", token(bytes_of(text))).refused
    await registry.remove_key("one", "2")
    await registry.remove_key("one", "3")
    assert dropped == ["one", "one"]
    changed, text = await registry.rotate("one")
    assert (changed.type, changed.id) == ("hs256", "2")
    assert dropped == ["one"] * 3
    assert NO_KEY in registry.login("one", token(secret)).refused
    assert registry.verify("one", token(bytes_of(text)))
    await registry.block("one")
    assert "blocked" in registry.login("one", token(bytes_of(text))).refused


async def test_jwts_wait_until_the_gateway_knows_the_time() -> None:
    registry, clock, secret = await opened(5)
    assert "does not know the time" in registry.login("one", token(secret)).refused
    clock.step(NOW * 10**6 - clock.now())
    assert registry.verify("one", token(secret))


async def test_the_contract_of_iot_core_has_none() -> None:
    registry, _, secret = await opened()
    with pytest.raises(EdgeError, match="RS256 or ES256") as refused:
        await registry.add("old", profile="iotcore", hs256=True)
    assert "--public-key" in refused.value.hint
    await registry.add("old", profile="iotcore")
    with pytest.raises(EdgeError, match="RS256 or ES256"):
        await registry.add_hs256("old")
    with pytest.raises(EdgeError, match="one key at first"):
        await registry.add("both", pem=pem(EC), hs256=True)
    # A device that comes to speak it by an import keeps its secret, which opens nothing then.
    await take_in(registry, [DeviceLine("one", 1, profile="iotcore")])
    assert [key.type for key in registry.info("one").keys] == ["hs256"]
    assert NO_KEY in registry.login("one", token(secret)).refused


async def test_the_secret_outlives_a_restart_and_leaves_by_no_export_nor_is_it_shown() -> None:
    journal = MemoryJournal()
    registry = await Registry.open(journal, ManualClock(NOW * 10**6))
    secret = bytes_of(await registry.add("one", hs256=True))
    again = await Registry.open(MemoryJournal(journal.records()), ManualClock(NOW * 10**6))
    assert again.verify("one", token(secret))
    (line,) = exported(again)
    assert line.keys == []
    await take_in(again, [line])
    assert again.verify("one", token(secret)), "and an import leaves it where it is"
    (key,) = again.info("one").keys
    assert keys.shown(key) == ""
    with pytest.raises(EdgeError, match="cannot be imported"):
        await take_in(again, [DeviceLine("x", 1, [KeyLine("1", "hs256", bytes(32), 1)])])


async def test_no_public_key_library_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway whose boards share secrets with it does not carry what others need."""
    registry, _, secret = await opened()
    monkeypatch.setitem(sys.modules, "jwt", None)
    assert registry.verify("one", token(secret))
    assert not registry.verify("one", token(bytes(32)))
