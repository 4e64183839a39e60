"""The gateway's side of docs/wire.md, against the shared vectors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import wire
from edge_runtime.errors import WireError

VECTORS = Path(__file__).parent / "vectors"


def cases(name: str) -> Any:
    return [pytest.param(case, id=case["name"]) for case in json.loads((VECTORS / name).read_text("utf-8"))]


@pytest.mark.parametrize("case", cases("events.json"))
def test_events_are_read_as_the_vectors_say(case: dict[str, Any]) -> None:
    envelope = wire.decode_events(bytes.fromhex(case["hex"]), case["kind"])
    assert envelope.boot.hex() == case["boot"]
    assert [
        {"seq": r.seq, "kind": r.kind, "time": r.time, "age": r.age, "data": r.data} for r in envelope.readings
    ] == case["events"]


@pytest.mark.parametrize("case", cases("events_invalid.json"))
def test_invalid_events_are_refused_in_words(case: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        wire.decode_events(bytes.fromhex(case["hex"]), case["kind"])


@pytest.mark.parametrize("case", cases("commands.json"))
def test_commands_are_encoded_to_the_byte(case: dict[str, Any]) -> None:
    form = case["command"]
    cause = (bytes.fromhex(form["cause"][0]), form["cause"][1]) if form["cause"] else None
    message = wire.CommandMessage(bytes.fromhex(form["id"]), form["expires"], form["name"], form["args"], cause)
    assert wire.encode_command(message).hex() == case["hex"]


@pytest.mark.parametrize("case", cases("replies.json"))
def test_replies_are_read_as_the_vectors_say(case: dict[str, Any]) -> None:
    reply = wire.decode_reply(bytes.fromhex(case["hex"]))
    assert {"id": reply.id.hex(), "status": reply.status, "result": reply.result} == case["reply"]


@pytest.mark.parametrize("case", cases("replies_invalid.json"))
def test_invalid_replies_are_refused(case: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        wire.decode_reply(bytes.fromhex(case["hex"]))


def test_an_undated_event_is_dated_by_arrival_less_age() -> None:
    payload = cbor2.dumps({0: b"8 bytes.", 1: 3, 3: 1_000, 4: 1, 6: 61_000})
    (event,) = wire.decode_events(payload, "climate").events("gh-1", received=1_000_000_000)
    assert event.time == 1_000_000_000 - 60_000_000
    assert event.received == 1_000_000_000


@given(st.binary(max_size=200), st.sampled_from(["climate", None]))
def test_garbage_is_refused_and_never_crashes(payload: bytes, kind: str | None) -> None:
    with contextlib.suppress(WireError):
        wire.decode_events(payload, kind)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(plain, st.integers(0, 2**63 - 1), st.binary(min_size=8, max_size=8))
def test_every_plain_value_goes_through(data: Any, seq: int, boot: bytes) -> None:
    payload = cbor2.dumps({0: boot, 1: seq, 2: 0, 4: data})
    (reading,) = wire.decode_events(payload, "k").readings
    assert (reading.seq, reading.data) == (seq, data)


def outcome(decoder: Callable[[bytes], Any], payload: bytes) -> tuple[str, Any]:
    try:
        return "read", cbor2.dumps(decoder(payload))  # encoded: nan is not equal to itself
    except WireError as error:
        return "refused", str(error)


@given(st.binary(max_size=60) | plain.map(cbor2.dumps), st.integers(0, 12), st.binary(max_size=20))
def test_the_quick_way_reads_what_the_careful_one_does(payload: bytes, cut: int, more: bytes) -> None:
    """What is cut off could swallow the mark behind it, what is too much could stand in its place."""
    for form in (payload, payload[: len(payload) - cut], payload + more, payload + b"\x50" + more):
        assert outcome(wire.decode, form) == outcome(wire._decode_alone, form)


def test_who_sends_json_is_told_where_that_belongs() -> None:
    with pytest.raises(
        WireError, match="not readable as CBOR: it looks like JSON, which the HTTP and CoAP doors take: "
    ):
        wire.decode(b'{"temperature": 31}')
