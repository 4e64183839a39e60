"""What comes out of the sandbox is not believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import EdgeError
from edge_runtime.flows.ports import Effect, Emit, Failure, HttpRequest, LogLine, Order, Success, Unanswered
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.outcomes import encode_event, judge
from edge_runtime.functions.stats import percentile
from edge_runtime.functions.versions import AppFiles, Versions
from edge_runtime.manifest import Manifest, OnEvent

from .conftest import event, failed

LIMITS = Limits(effects=2, lines=2)


def said(**outcome: object) -> bytes:
    return json.dumps({"type": "ok", **outcome}).encode()


def command(**changed: object) -> dict[str, object]:
    return {"type": "command", "device": "b1", "name": "fan", "args": None, "ttl": 1, **changed}


def deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


def asked(**changes: Any) -> bytes:
    request = {"method": "GET", "url": "http://a/", "headers": {}, "body": "", "timeout": 1_000_000}
    return json.dumps({"type": "unanswered", "request": {**request, **changes}}).encode()


def test_a_good_request_passes() -> None:
    assert judge(asked(body="aGk="), 7, LIMITS) == Unanswered(HttpRequest("GET", "http://a/", {}, b"hi", 1_000_000), 7)


def test_a_good_outcome_passes() -> None:
    payload = said(
        effects=[command(), {"type": "emit", "kind": "k", "data": {"a": [1]}}], logs=[{"level": "info", "text": "x"}]
    )
    expected: list[Effect] = [Order("b1", "fan", None, 1), Emit("k", {"a": [1]})]
    assert judge(payload, 7, LIMITS) == Success(expected, None, [LogLine("info", "x")], micros=7)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"\xff",
        b'{"type":"ok"',
        b'{"type":"other"}',
        b'{"type":"ok","effects":[{"type":"other"}]}',
        said(effects=[command(device="b 2")]),
        said(effects=[command(name="a b")]),
        said(effects=[command(ttl=0)]),
        said(effects=[command(ttl=10**18)]),
        said(effects=[command(ttl="60s")]),
        said(effects=[command(key="two words")]),
        said(effects=[command(key="k" * 65)]),
        said(effects=[command(key=7)]),
        said(effects=[command(args=deep(17))]),
        said(effects=[command(args=2**63)]),
        said(effects=[command(), command(), command()]),
        said(effects=[{"type": "emit", "kind": "/", "data": 1}]),
        said(value=deep(100_000 // 1000)),
        b'{"type":"ok","value":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        said(logs=[{"level": "loud", "text": "x"}]),
        said(logs=[{"level": "info", "text": "x"}] * 3),
        said(logs=[{"level": "info"}]),
        b'{"type":"failed","reason":"no idea","detail":""}',
        json.dumps({"type": "failed", "reason": "error", "detail": "x" * 5000}).encode(),
        said(state={"": ["1", 0]}),
        said(state={"a": ["1", -1]}),
        said(state={"a": ["1"]}),
        said(state={"a": ["x" * 70_000, 0]}),
        said(metrics=[["two words", 1.0]]),
        said(metrics=[["a", "1"]]),
        said(metrics=[["a", 1.0]] * 21),
        said(refused=["files"] * 9),
        said(refused=["x" * 300]),
        asked(method="CONNECT"),
        asked(url="http://a/\r\nx: y"),
        asked(url="http://a/" + "x" * 5000),
        asked(headers={"a b": "c"}),
        asked(headers={"a": "b\r\nc: d"}),
        asked(body="%"),
        asked(timeout=0),
        asked(timeout=10**9),
    ],
)
def test_a_bad_outcome_is_a_failure(payload: bytes) -> None:
    outcome = failed(judge(payload, 7, LIMITS))
    assert outcome.reason in ("output", "error")
    assert outcome.micros == 7


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_judged(payload: bytes) -> None:
    assert isinstance(judge(payload, 1, LIMITS), Success | Failure)


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.binary(), lambda inner: st.lists(inner)))
def test_any_data_of_a_board_can_be_handed_to_a_function(data: object) -> None:
    fields = msgspec.json.decode(encode_event(event(data)))
    assert fields[0] == "b1"
    assert len(fields) == 9


def test_a_version_that_was_changed_on_disk_is_not_run(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    app = AppFiles({"a.py": b"x = 1\n"}, Limits(), "guest")
    manifest = Manifest("a", [OnEvent("f", "k")])
    versions.write(app, manifest)
    assert versions.read("a", app.version) == (app, manifest)
    (tmp_path / "a" / app.version / "files/a.py").write_bytes(b"x = 2\n")
    with pytest.raises(EdgeError, match="not those that were deployed"):
        versions.read("a", app.version)
    (tmp_path / "a" / app.version / "version.json").write_bytes(b"{")
    with pytest.raises(EdgeError, match="cannot be read"):
        versions.read("a", app.version)


def test_a_version_that_cannot_be_stored_says_where(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("in the way")
    with pytest.raises(EdgeError, match="cannot be stored"):
        Versions(tmp_path).write(AppFiles({"a.py": b""}, Limits(), "g"), Manifest("a", [OnEvent("f", "k")]))


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentile([], 50) == 0
    assert percentile([5], 99) == 5
    assert percentile(list(range(1, 101)), 50) == 50
    assert percentile(list(range(1, 101)), 99) == 99
