"""Grants: how they are spelt, and what they let through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.grants import GrantError, Grants, origin_of, sentence


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("files", "files"),
        ("command:pump-1", "command:pump-1"),
        (" command:pump-* ", "command:pump-*"),
        ("command:*", "command:*"),
        ("secret:weather-key", "secret:weather-key"),
        ("http:api.example.com", "http:https://api.example.com"),
        ("http:API.Example.com:443", "http:https://api.example.com"),
        ("http:https://api.example.com/", "http:https://api.example.com"),
        ("http:http://192.168.1.5:8080", "http:http://192.168.1.5:8080"),
        ("http:http://[::1]:80", "http:http://[::1]"),
        ("http:bücher.example", "http:https://xn--bcher-kva.example"),
    ],
)
def test_a_grant_has_one_spelling(written: str, canonical: str) -> None:
    assert Grants.of([written]).all == (canonical,)
    assert Grants.of([canonical]).all == (canonical,)
    assert sentence(canonical)


@pytest.mark.parametrize(
    "written",
    [
        *("", "everything", "files:x", "command:", "command:a b", "command:*a", "command:**", "secret:*", "secret:a/b"),
        *("http:", "http:*", "http:*.example.com", "http:ftp://a", "http:https://user:pw@a", "http:https://a/path"),
        *("http:https://a?b=c", "http:https://a:99999", "http:https://"),
    ],
)
def test_what_is_no_grant_is_told_so(written: str) -> None:
    with pytest.raises(GrantError) as refused:
        Grants.of([written])
    assert refused.value.hint


def test_commands_go_to_those_that_were_named() -> None:
    grants = Grants.of(["command:pump-*", "command:valve"])
    assert [grants.command(device) for device in ("pump-1", "pump-", "valve", "valve-2", "pum", "")] == [
        *(True, True, True),
        *(False, False, False),
    ]
    assert not Grants().command("pump-1")
    assert Grants.of(["command:*"]).command("anything")


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://api.example.com/v1?x=1#y", True),
        ("https://API.EXAMPLE.COM.:443/", True),
        ("http://api.example.com/", False),
        ("https://api.example.com:8443/", False),
        ("https://api.example.com.evil.com/", False),
        ("https://evil.com/https://api.example.com", False),
        ("https://api.example.com@evil.com/", False),
        ("https://user@api.example.com/", False),
        ("//api.example.com/", False),
        ("https:///", False),
        ("https://api.example.com:x/", False),
        ("javascript:alert(1)", False),
    ],
)
def test_requests_go_to_the_very_origin(url: str, allowed: bool) -> None:
    assert Grants.of(["http:api.example.com"]).http(url) is allowed


@given(st.text(max_size=60))
def test_any_text_is_an_origin_or_none(url: str) -> None:
    origin = origin_of(url)
    assert origin is None or origin_of(origin) == origin


def test_what_is_beyond_what_there_was() -> None:
    before, after = Grants.of(["files", "command:a"]), Grants.of(["command:a", "secret:k", "files"])
    assert after.beyond(before.all) == ["secret:k"]
    assert (after.secret("k"), after.secret("l"), after.secrets, after.files, Grants().files) == (
        *(True, False),
        *(["k"], True, False),
    )
    with pytest.raises(GrantError, match="51 grants are too many"):
        Grants.of([f"secret:s{number}" for number in range(51)])
