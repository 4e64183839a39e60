"""Payload forms beside our envelope, and SenML by the sections of RFC 8428."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import senml
from edge_runtime.errors import WireError
from edge_runtime.ingress import formats, stamps
from edge_runtime.ingress.formats import Form

NOW = 1_795_000_000_000_000
SECOND = 1_000_000


def resolved(*records: dict[Any, Any], binary: bool = False) -> list[senml.Record]:
    return senml.resolve(list(records), binary=binary, now=NOW)


# Our own words for what the examples of RFC 8428 show


def test_section_5_1_1_one_reading() -> None:
    (record,) = resolved({"n": "urn:dev:mac:0024befffe804ff1", "u": "Cel", "v": 21.5})
    assert record == senml.Record("urn:dev:mac:0024befffe804ff1", NOW, 21.5, "Cel", None)
    assert record.local_name == "0024befffe804ff1"


def test_section_5_1_2_a_base_name_for_several_readings() -> None:
    found = resolved(
        {"bn": "urn:dev:mac:0024befffe804ff1/", "n": "voltage", "t": 0, "u": "V", "v": 3.1},
        {"n": "current", "t": 0, "u": "A", "v": 0.2},
    )
    assert [(r.name, r.local_name, r.value) for r in found] == [
        ("urn:dev:mac:0024befffe804ff1/voltage", "voltage", 3.1),
        ("urn:dev:mac:0024befffe804ff1/current", "current", 0.2),
    ]


def test_section_5_1_3_times_count_from_the_base_or_from_now() -> None:
    found = resolved(
        {"bn": "a:", "bt": 1.5e9, "bu": "A", "n": "x", "v": 1},
        {"n": "x", "t": -5, "v": 2},
        {"n": "x", "t": 0.25, "v": 3},
    )
    assert [r.time for r in found] == [
        1_500_000_000 * SECOND,
        1_499_999_995 * SECOND,
        1_500_000_000 * SECOND + SECOND // 4,
    ]
    assert {r.unit for r in found} == {"A"}
    relative = resolved(
        {"n": "x", "t": -10, "v": 1}, {"n": "x", "t": 2**28 - 1, "v": 1}, {"n": "x", "t": 2**28, "v": 1}
    )
    assert [r.time for r in relative] == [NOW - 10 * SECOND, NOW + (2**28 - 1) * SECOND, 2**28 * SECOND]


def test_section_4_1_base_values_and_sums_are_added() -> None:
    found = resolved({"bv": 20, "bs": 100, "n": "x", "v": 1.5}, {"n": "x", "s": 5}, {"n": "x", "v": 2, "s": 7})
    assert [(r.value, r.sum) for r in found] == [(21.5, None), (None, 105), (22, 107)]


def test_section_4_3_values_of_every_type() -> None:
    found = resolved({"n": "a", "vs": "on"}, {"n": "b", "vb": True}, {"n": "c", "vd": "aGk"})
    assert [r.value for r in found] == ["on", True, b"hi"]
    (data,) = resolved({0: "d", 8: b"\x00\xff"}, binary=True)
    assert data.value == b"\x00\xff"


def test_section_6_labels_of_cbor() -> None:
    found = resolved(
        {-2: "urn:dev:", -3: 1.5e9, -4: "Cel", -5: 10, 0: "t", 2: 1.5}, {0: "h", 1: "%RH", 2: 30}, binary=True
    )
    assert [(r.name, r.unit, r.value) for r in found] == [("urn:dev:t", "Cel", 11.5), ("urn:dev:h", "%RH", 40)]


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([], "array of 1"),
        ({"n": "x", "v": 1}, "array of 1"),
        ([1], "not a map"),
        ([{"n": "x"}], "neither a value nor a sum"),
        ([{"bn": "x"}], "without a value"),
        ([{"n": "x", "v": 1, "vs": "y"}], "more than one value"),
        ([{"n": "x", "v": "1"}], "finite number"),
        ([{"n": "x", "v": True}], "finite number"),
        ([{"n": "x", "vb": 1}], "wrong type"),
        ([{"n": "x", "vd": b"y"}], "wrong type"),
        ([{"v": 1}], "not a name"),
        ([{"n": "-x", "v": 1}], "not a name"),
        ([{"n": "x y", "v": 1}], "not a name"),
        ([{"bver": 11, "n": "x", "v": 1}], "section 4.4"),
        ([{"n": "x", "v": 1, "must_": 1}], "section 4.4"),
        ([{"n": "x", "v": 1, "t": 1e300}], "time"),
        ([{"n": "x" * 300, "v": 1}], "256"),
    ],
)
def test_packs_that_are_refused(records: Any, why: str) -> None:
    with pytest.raises(WireError, match=why):
        senml.resolve(records, binary=False, now=NOW)


def test_section_4_4_fields_that_are_not_known_are_ignored() -> None:
    assert resolved({"n": "x", "v": 1, "ut": 60, "other": {"deep": []}})[0].value == 1


def test_senml_on_a_kind_gathers_what_was_read_at_once() -> None:
    pack = [
        {"bn": "urn:dev:1:", "bt": 1.5e9, "n": "temperature", "u": "Cel", "v": 21},
        {"n": "humidity", "u": "%RH", "v": 40},
        {"n": "temperature", "u": "Cel", "t": 60, "v": 22},
    ]
    for form, payload in ((Form.SENML_JSON, json.dumps(pack).encode()), (Form.SENML_CBOR, cbor2.dumps(pack))):
        first, second = formats.read(form, "climate", payload, NOW)
        assert (first.seq, first.kind, first.time) == (0, "climate", 1_500_000_000 * SECOND)
        assert first.data == {"temperature": 21, "humidity": 40, "units": {"temperature": "Cel", "humidity": "%RH"}}
        assert (second.seq, second.data["temperature"]) == (1, 22)


def test_senml_without_a_kind_takes_kinds_from_names() -> None:
    pack = [{"bn": "urn:dev:1/", "n": "temperature", "u": "Cel", "v": 21}, {"n": "counter", "s": 7}]
    readings = formats.read(Form.SENML_JSON, None, json.dumps(pack).encode(), NOW)
    assert [(r.kind, r.data) for r in readings] == [
        ("temperature", {"value": 21, "unit": "Cel"}),
        ("counter", {"sum": 7}),
    ]


# The other forms


@pytest.mark.parametrize(
    ("form", "payload", "data"),
    [
        (Form.JSON, b'{"t": 1.5}', {"t": 1.5}),
        (Form.CBOR, cbor2.dumps({"t": 1.5}), {"t": 1.5}),
        (Form.BYTES, b"\x00\xff", b"\x00\xff"),
        (Form.TEXT, "grün".encode(), "grün"),
    ],
)
def test_one_event(form: Form, payload: bytes, data: Any) -> None:
    (reading,) = formats.read(form, "climate", payload, NOW)
    assert (reading.kind, reading.data, reading.time, reading.age) == ("climate", data, None, 0)


def test_a_batch_says_the_kind_of_each() -> None:
    batch = [{"kind": "a", "data": 1}, {"kind": "b", "data": {"x": None}, "time": 5}]
    for form, payload in ((Form.JSON, json.dumps(batch).encode()), (Form.CBOR, cbor2.dumps(batch))):
        readings = formats.read(form, None, payload, NOW)
        assert [(r.seq, r.kind, r.time, r.data) for r in readings] == [(0, "a", None, 1), (1, "b", 5, {"x": None})]


@pytest.mark.parametrize(
    ("form", "kind", "payload"),
    [
        (Form.JSON, "k", b"{"),
        (Form.JSON, "k", b"\xff"),
        (Form.JSON, "k", b"[" * 100_000),
        (Form.JSON, "k", b"[" * 30 + b"]" * 30),
        (Form.JSON, "k", b"123456789012345678901234567890"),
        (Form.JSON, "k", b"NaN"),
        (Form.CBOR, "k", b"\xc0\x00"),
        (Form.CBOR, "k", b"\x9f\xff"),
        (Form.CBOR, "k", b"\x00\x00"),
        (Form.TEXT, "k", b"\xff"),
        (Form.BYTES, None, b"x"),
        (Form.TEXT, None, b"x"),
        (Form.JSON, None, b"{}"),
        (Form.JSON, None, b"[]"),
        (Form.JSON, None, b'[{"kind": "a b", "data": 1}]'),
        (Form.JSON, None, b'[{"kind": "a"}]'),
        (Form.JSON, None, b'[{"kind": "a", "data": 1, "time": "now"}]'),
        (Form.SENML_JSON, "k", b'[{"n": "units", "v": 1}]'),
        (Form.SENML_JSON, None, b'[{"n": "a:", "v": 1}]'),
    ],
)
def test_payloads_that_are_refused(form: Form, kind: str | None, payload: bytes) -> None:
    try:
        readings = formats.read(form, kind, payload, NOW)
    except WireError:
        return
    # msgspec reads an integer that is too large for 64 bits as a float: a plain value, and kept.
    assert payload.isdigit()
    assert type(readings[0].data) is float


@given(st.sampled_from([form for form in Form if form is not Form.ENVELOPE]), st.booleans(), st.binary(max_size=200))
def test_no_payload_does_more_than_be_refused(form: Form, batch: bool, payload: bytes) -> None:
    try:
        readings = formats.read(form, None if batch else "k", payload, NOW)
    except WireError:
        return
    assert readings


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(-9, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(plain, st.booleans())
def test_no_pack_does_more_than_be_refused(pack: Any, binary: bool) -> None:
    try:
        found = senml.resolve([pack] if isinstance(pack, dict) else pack, binary=binary, now=NOW)
    except WireError:
        return
    assert all(-(2**63) < record.time < 2**63 for record in found)


# Identities


def test_events_without_an_identity_get_one_that_never_repeats() -> None:
    given_out = stamps.Stamps(bytes(range(8)))
    assert given_out.take("d", 2) == (bytes(range(8)), 0)
    assert given_out.take("d", 1) == (bytes(range(8)), 2)
    assert given_out.take("e", 1) == (bytes(range(8)), 0)
    envelope = formats.identified(*given_out.take("d", 2), formats.read(Form.JSON, None, _TWO, NOW))
    assert [reading.seq for reading in envelope.readings] == [3, 4]


_TWO = b'[{"kind": "a", "data": 1}, {"kind": "a", "data": 2}]'


@pytest.mark.parametrize(
    ("boot", "seq"),
    [("00", "1"), (None, "1"), ("0" * 16, None), ("0" * 16, "-1"), ("0" * 16, "9" * 19), ("g" * 16, "1")],
)
def test_an_identity_that_is_none(boot: str | None, seq: str | None) -> None:
    with pytest.raises(WireError):
        stamps.given(boot, seq)


def test_a_given_identity() -> None:
    assert stamps.given("F00D000102030405", "7") == (bytes.fromhex("f00d000102030405"), 7)
    assert stamps.given(None, None) is None
