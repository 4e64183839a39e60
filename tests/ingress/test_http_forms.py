"""What devices say in HTTP requests, as pure functions: paths, identities, CloudEvents, the bodies of IoT Core."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import WireError
from edge_runtime.ingress import http_forms
from edge_runtime.ingress.formats import Form
from edge_runtime.ingress.http_forms import PublishEvent, Target

NAME = "projects/p/locations/l/registries/r/devices/d"
EVENT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "climate"}


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/devices/d/events/climate", Target("POST", "events", "d", "climate")),
        ("/devices/d/events", Target("POST", "events", "d")),
        ("/devices/d/state", Target("POST", "state", "d")),
        ("/devices/d/config", Target("GET", "config", "d")),
        ("/devices/d/config/ack", Target("POST", "config/ack", "d")),
        ("/devices/d/commands", Target("GET", "commands", "d")),
        ("/devices/d/replies", Target("POST", "replies", "d")),
        (f"/v1/{NAME}:publishEvent", Target("POST", "publishEvent", path=NAME)),
        (f"/v1beta1/{NAME}:setState", Target("POST", "setState", path=NAME)),
        (f"/v1/{NAME}/config", Target("GET", "config", path=NAME)),
        (f"/v1/{NAME}", None),
        (f"/v1/{NAME}:sendCommandToDevice", None),
        ("/devices/d", None),
        ("/devices/d/", None),
        ("/devices/d/events/", None),
        ("/devices/d/events/a/b", None),
        ("/devices/-d/events/a", None),
        ("/devices/../events/a", None),
        ("/apps/d/events", None),
    ],
)
def test_paths(path: str, target: Target | None) -> None:
    assert http_forms.target(path) == target


def test_an_identity_is_given_whole_or_not_at_all() -> None:
    assert http_forms.identity({}) is None
    wanted = bytes.fromhex("00112233aabbccdd"), 7
    assert http_forms.identity({"boot": "00112233AABBCCDD", "seq": "7"}) == wanted
    assert http_forms.identity({"b": "00112233aabbccdd", "s": "7"}) == wanted
    for wrong in ({"boot": "00112233aabbccdd"}, {"seq": "1"}, {"boot": "12", "seq": "1"}, {"b": "0" * 16, "s": "-1"}):
        with pytest.raises(WireError):
            http_forms.identity(wrong)


def test_media_types() -> None:
    given = ["", "application/json", "Application/JSON; charset=utf-8", "application/cbor", "image/png", ";"]
    assert [http_forms.form(media) for media in given] == [
        Form.BYTES,
        Form.JSON,
        Form.JSON,
        Form.CBOR,
        None,
        Form.BYTES,
    ]


def test_structured_cloud_events() -> None:
    event = {**EVENT, "data": {"t": 1}, "time": "2026-11-22T10:00:00.5+01:00"}
    ((name, reading),) = http_forms.cloud_events(json.dumps(event).encode(), None, batch=False)
    assert (name, reading.kind, reading.data, reading.time) == ("/s\n1", "climate", {"t": 1}, 1_795_338_000_500_000)
    raw = {**EVENT, "data_base64": base64.b64encode(b"\xff").decode()}
    found = http_forms.cloud_events(json.dumps([raw, event]).encode(), "kind", batch=True)
    assert [(reading.kind, reading.data) for _, reading in found] == [("kind", b"\xff"), ("kind", {"t": 1})]


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "0.3"},
        {"id": ""},
        {"source": ""},
        {"type": "org/example"},
        {"time": "2026-11-22T10:00:00"},
        {"data_base64": "§"},
        {"data": 2**70},
        {"id": 1},
    ],
)
def test_cloud_events_that_are_none(change: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        http_forms.cloud_events(json.dumps({**EVENT, **change}).encode(), None, batch=False)


def test_binary_cloud_events() -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "climate"}
    name, reading = http_forms.binary_cloud_event({**headers, "content-type": "application/json"}, b"[1]", None)
    assert (name, reading.kind, reading.data, reading.time) == ("/s\n1", "climate", [1], None)
    for wrong in ({"ce-id": ""}, {"content-type": "image/png"}, {"ce-time": "now"}):
        with pytest.raises(WireError):
            http_forms.binary_cloud_event({**headers, **wrong}, b"1", None)


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("strip", [b"", b"="])
@given(st.binary(max_size=40))
def test_base64_of_any_kind(encode: Any, strip: bytes, data: bytes) -> None:
    assert http_forms.unbase64(encode(data).rstrip(strip or None).decode()) == data


def test_bodies_of_iot_core() -> None:
    assert http_forms.publish_event(b'{"binary_data": "aGk=", "sub_folder": "a/b"}') == PublishEvent(b"hi", "a/b")
    assert http_forms.publish_event(b'{"binaryData": "aGk", "subFolder": "a"}') == PublishEvent(b"hi", "a")
    assert http_forms.publish_event(b"{}") == PublishEvent(b"", "")
    assert http_forms.set_state(b'{"state": {"binary_data": "aGk="}}') == b"hi"
    for wrong in (b"", b"[]", b"{", b'{"state": "aGk="}', b'{"state": {"binary_data": 1}}'):
        with pytest.raises(WireError):
            http_forms.set_state(wrong)
    with pytest.raises(WireError):
        http_forms.publish_event(b'{"binary_data": "", "gateway_info": {"gateway_id": "g"}}')


@given(st.binary(max_size=200), st.text(max_size=200))
def test_whatever_comes_is_read_or_refused(payload: bytes, text: str) -> None:
    http_forms.target(text)
    http_forms.form(text)
    for read in (http_forms.publish_event, http_forms.set_state):
        with contextlib.suppress(WireError):
            read(payload)
    for batch in (False, True):
        with contextlib.suppress(WireError):
            http_forms.cloud_events(payload, None, batch=batch)
