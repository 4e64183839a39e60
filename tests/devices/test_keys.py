"""JWTs, certificates, OSCORE contexts, tags, rotation: who is let in, who is not, and why."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from devices import jwt
from devices.keys import MAX_KEYS
from devices.registry import Registry
from edge_runtime.clock import TRUSTED_AFTER, ManualClock
from edge_runtime.errors import EdgeError, NotFound
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Device, StateChange

NOW = TRUSTED_AFTER // 10**6 + 1_000_000
EC = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65_537, 2048)


def pem(private: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    text: bytes = private.public_key().public_bytes(serialization.Encoding.PEM, form)
    return text.decode()


def token(private: Any = EC, algorithm: str = "ES256", **claims: Any) -> str:
    return pyjwt.encode({"iat": NOW, "exp": NOW + 3600, "aud": "gateway", **claims}, private, algorithm)


async def opened(now: int = NOW) -> tuple[Registry, ManualClock]:
    clock = ManualClock(now * 10**6)
    registry = await Registry.open(MemoryJournal(), clock)
    await registry.add("one", token=False)
    await registry.add_public_key("one", pem(EC))
    await registry.add_public_key("one", pem(RSA))
    return registry, clock


async def test_a_jwt_of_either_key_opens_until_it_has_expired() -> None:
    registry, _ = await opened()
    login = registry.login("one", token())
    assert (login.refused, login.key, login.until) == ("", "1", (NOW + 3600 + 600) * 10**6)
    assert registry.login("one", token(RSA, "RS256", aud=["x", "gateway"])).key == "2"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (token(OTHER), "no key of the device"),
        (token(aud="elsewhere"), "another audience"),
        (token(exp=NOW + 24 * 3600 + 1), "more than 24 hours"),
        (token(exp=NOW - 1), "more than 24 hours, or ends before"),
        (token(iat=NOW - 7200, exp=NOW - 600), "has expired"),
        (token(iat=NOW + 601, exp=NOW + 700), "not valid yet"),
        (token(iat="now"), "lacks"),
        (token(exp=1e999), "lacks"),
        (token("x" * 64, "HS256"), "no key of the device"),
        (pyjwt.encode({"iat": NOW, "exp": NOW + 1, "aud": "gateway"}, "", "none"), "not signed with"),
        ("..", "not signed with"),
        ("a.b.c", "not signed with"),
        (token()[:-8] + "AAAAAAAA", "no key of the device"),
    ],
)
async def test_a_jwt_that_is_wrong_is_refused_with_its_reason(text: str, why: str) -> None:
    registry, _ = await opened()
    login = registry.login("one", text)
    assert why in login.refused
    assert not login.key


async def test_ten_minutes_of_skew_are_forgiven() -> None:
    registry, clock = await opened()
    early, late = token(iat=NOW + 599, exp=NOW + 700), token(iat=NOW - 7200, exp=NOW - 599)
    assert registry.verify("one", early)
    assert registry.verify("one", late)
    clock.step(10**6)
    assert not registry.verify("one", late)


async def test_padded_base64_as_micropython_writes_it() -> None:
    registry, _ = await opened()
    head, claims, _ = token().split(".")
    padded = [part + "=" * (-len(part) % 4) for part in (head, claims)]
    signing = ".".join(padded)
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    r, s = decode_dss_signature(EC.sign(signing.encode(), ec.ECDSA(SHA256())))
    signature = urlsafe_b64encode(r.to_bytes(32) + s.to_bytes(32)).decode()
    assert registry.verify("one", f"{signing}.{signature}")


async def test_jwts_wait_until_the_clock_is_trusted_and_tokens_do_not() -> None:
    registry, clock = await opened(5)
    _, text = await registry.add_token("one")
    assert "does not know the time" in registry.login("one", token()).refused
    assert registry.verify("one", text)
    clock.step(NOW * 10**6 - clock.now())
    assert registry.verify("one", token())


async def test_a_refusal_takes_equal_work_whoever_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, _ = await opened()
    await registry.add("bare")
    verified: list[str] = []
    decode = pyjwt.api_jws.decode

    def counting(text: Any, key: Any, algorithms: list[str]) -> Any:
        verified.append(algorithms[0])
        return decode(text, key, algorithms=algorithms)

    monkeypatch.setattr(pyjwt.api_jws, "decode", counting)
    for device in ("one", "bare", "nobody"):
        for text, algorithm in ((token(OTHER), "ES256"), (token(RSA, "RS256")[:-8] + "AAAAAAAA", "RS256")):
            verified.clear()
            assert not registry.verify(device, text)
            assert verified == [algorithm] * MAX_KEYS


async def test_a_key_takes_over_without_a_gap_and_three_are_the_most() -> None:
    registry, _ = await opened()
    dropped: list[str] = []
    registry.watch(dropped.append)
    key, new = await registry.add_token("one")
    assert registry.verify("one", new)
    with pytest.raises(EdgeError, match="3 keys"):
        await registry.add_token("one")
    assert dropped == [], "who is connected stays so"
    await registry.remove_key("one", "1")
    assert dropped == ["one"]
    assert not registry.verify("one", token())
    assert registry.verify("one", new)
    assert (await registry.add_public_key("one", pem(OTHER))).id == "4" != key.id, "no id comes twice"
    with pytest.raises(NotFound, match="no key '9'"):
        await registry.remove_key("one", "9")


async def test_rotate_is_for_one_token() -> None:
    registry, _ = await opened()
    with pytest.raises(EdgeError, match="no token"):
        await registry.rotate("one")
    _, old = await registry.add_token("one")
    _, new = await registry.rotate("one")
    assert not registry.verify("one", old)
    assert registry.verify("one", new)
    assert registry.verify("one", token()), "other keys stay"
    await registry.remove_key("one", "1")
    await registry.add_token("one")
    with pytest.raises(EdgeError, match="2 tokens") as refused:
        await registry.rotate("one")
    assert "key add" in refused.value.hint


async def test_a_key_expires_once_the_time_is_known() -> None:
    registry, clock = await opened()
    _, text = await registry.add_token("one", expires=clock.now() + 10)
    login = registry.login("one", text)
    assert login.until == clock.now() + 10
    clock.step(10)
    assert "expired" in registry.login("one", text).refused
    clock.step(5 - clock.now())
    assert registry.verify("one", text), "a clock that was not set says nothing"
    await registry.remove_key("one", "1")
    with pytest.raises(EdgeError, match="expired already"):
        await registry.add_token("one", expires=1)


async def test_a_certificate_is_known_by_its_fingerprint_and_belongs_to_one() -> None:
    registry, _ = await opened()
    await registry.add("two", token=False)
    key = await registry.add_certificate("two", b"DER")
    login = registry.login_by_certificate(b"DER")
    assert (login.device, login.refused, login.key) == ("two", "", key.id)
    assert registry.login_by_certificate(b"other").refused
    with pytest.raises(EdgeError, match="that of 'two'"):
        await registry.add_certificate("one", b"DER")
    await registry.block("two")
    assert "blocked" in registry.login_by_certificate(b"DER").refused
    await registry.unblock("two")
    await registry.remove_key("two", key.id)
    assert registry.login_by_certificate(b"DER").refused


async def test_an_oscore_context_is_found_by_the_id_that_messages_carry() -> None:
    registry, _ = await opened()
    key, context = await registry.add_oscore("one")
    await registry.add("two", token=False)
    _, other = await registry.add_oscore("two")
    assert context.recipient_id != other.recipient_id
    assert len(context.recipient_id) <= 7
    login, found = registry.oscore(context.recipient_id)
    assert (login.device, found) == ("one", context)
    assert registry.oscore(other.recipient_id)[1] == other
    await registry.block("one")
    login, found = registry.oscore(context.recipient_id)
    assert found is None
    assert "blocked" in login.refused
    await registry.unblock("one")
    await registry.remove_key("one", key.id)
    assert registry.oscore(context.recipient_id)[1] is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello", "not a public key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a public key"),
        ("-----BEGIN EC PRIVATE KEY-----", "private key"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "neither"),
        (pem(rsa.generate_private_key(65_537, 1024)), "neither"),
        ("x" * 20_000, "too long"),
    ],
)
async def test_what_is_no_public_key_is_refused_with_a_hint(text: str, why: str) -> None:
    registry, _ = await opened()
    with pytest.raises(EdgeError, match=why) as refused:
        await registry.add_public_key("one", text)
    assert refused.value.hint


async def test_tags_are_bounded_and_an_empty_value_removes_one() -> None:
    registry, _ = await opened()
    assert await registry.tag("one", {"site": "north", "bay": "3"}) == {"site": "north", "bay": "3"}
    assert await registry.tag("one", {"bay": ""}) == {"site": "north"}
    for wrong in ({"a b": "x"}, {"x": "y" * 129}, {"x": "\n"}, {f"t{n}": "x" for n in range(16)}):
        with pytest.raises(EdgeError):
            await registry.tag("one", wrong)
    with pytest.raises(EdgeError, match="not a profile"):
        await registry.add("two", profile="iotcor")


async def test_a_removed_device_is_gone_over_a_restart_and_its_name_is_free() -> None:
    journal = MemoryJournal()
    registry = await Registry.open(journal, ManualClock())
    old = await registry.add("one")
    await registry.remove("one")
    again = await Registry.open(MemoryJournal(journal.records()), ManualClock())
    for each in (registry, again):
        assert not each.verify("one", old)
        assert each.list() == []
        new = await each.add("one")
        assert each.verify("one", new)
        assert not each.verify("one", old)


async def test_when_a_device_was_last_heard_outlives_a_restart_in_one_record_for_all() -> None:
    journal = MemoryJournal()
    registry = await Registry.open(journal, ManualClock())
    for name in ("one", "two", "three"):
        await registry.add(name)
    registry.last_seen.update(one=5, two=6, stranger=7)
    before = len(journal.records())
    await registry.save_seen()
    await registry.save_seen()
    assert len(journal.records()) == before + 1
    await registry.remove("two")
    registry.last_seen["one"] = 8
    await registry.save_seen()
    (change,) = journal.records()[-1:]
    assert isinstance(change, StateChange)
    assert change.entries == {"one": ("8", 0), "two": None}
    again = await Registry.open(MemoryJournal(journal.records()), ManualClock())
    assert again.last_seen == {"one": 8}


async def test_a_record_from_before_there_were_several_keys() -> None:
    from devices.credentials import new_key

    text, digest = new_key()
    registry = await Registry.open(MemoryJournal([Device("old", digest, 1)]), ManualClock())
    assert registry.login("old", text).key == "1"
    key, _ = await registry.add_token("old")
    assert key.id == "2"
    assert registry.verify("old", text)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 3))
def test_no_password_makes_it_stumble(noise: bytes, dots: int) -> None:
    text = noise + b".e30" * dots
    if jwt.is_jwt(text):
        kind = jwt.algorithm(text)
        assert not kind or jwt.signed(text, kind, [], 1)[0] == -1
