"""What devices say in HTTP requests: paths, identities, CloudEvents, the bodies of IoT Core. Pure functions."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from edge_runtime import wire
from edge_runtime.errors import WireError
from edge_runtime.events import DEVICE, NAME
from edge_runtime.ingress import formats, stamps
from edge_runtime.ingress.formats import Form
from edge_runtime.wire import MAX_BATCH, Reading

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
MAX_ID = 512
"""Characters of the identity that a sender gives in words."""

_BRIDGE = re.compile(r"/v1(?:beta1)?/(projects/[^:?]+?/devices/[^/:?]+)(?::(publishEvent|setState)|/(config))")
_VERBS = {
    ("events",): "POST",
    ("state",): "POST",
    ("replies",): "POST",
    ("config", "ack"): "POST",
    ("config",): "GET",
    ("commands",): "GET",
}


class Target(msgspec.Struct, frozen=True):
    """What a request is about."""

    method: str
    verb: str
    device: str = ""
    kind: str | None = None
    path: str = ""
    """For the verbs of IoT Core: the device's full name."""


def target(path: str) -> Target | None:
    """What a path names; None for nothing here."""
    found = _BRIDGE.fullmatch(path)
    if found is not None:
        verb = found[2] or found[3]
        return Target("GET" if verb == "config" else "POST", verb, path=found[1])
    parts = path.split("/")
    if len(parts) < 4 or parts[:2] != ["", "devices"] or not DEVICE.fullmatch(parts[2]):
        return None
    rest = tuple(parts[3:])
    if rest in _VERBS:
        return Target(_VERBS[rest], "/".join(rest), parts[2])
    if len(rest) == 2 and rest[0] == "events" and NAME.fullmatch(rest[1]):
        return Target("POST", "events", parts[2], rest[1])
    return None


def identity(query: Mapping[str, str]) -> tuple[bytes, int] | None:
    """The identity that a sender gives its event, or the first of a batch: `boot` and `seq`, or `b` and `s`."""
    return stamps.given(query.get("boot", query.get("b")), query.get("seq", query.get("s")))


def form(content_type: str) -> Form | None:
    """The form of a body; bytes where nothing is said, None for one that is not read here."""
    name = content_type.partition(";")[0].strip().lower()
    return formats.MEDIA_TYPES.get(name) if name else Form.BYTES


class CloudEvent(msgspec.Struct):
    """A CloudEvent 1.0, as far as it matters here."""

    specversion: str
    id: str
    source: str
    type: str
    time: str | None = None
    datacontenttype: str = "application/json"
    data: Any = msgspec.UNSET
    data_base64: str | None = None

    @property
    def name(self) -> str:
        """What tells it from all others of its sender."""
        return f"{self.source}\n{self.id}"


def cloud_events(payload: bytes, kind: str | None, *, batch: bool) -> list[tuple[str, Reading]]:
    """Structured CloudEvents, each with its name. Raises WireError."""
    try:
        if batch:
            events = msgspec.json.decode(payload, type=list[CloudEvent])
        else:
            events = [msgspec.json.decode(payload, type=CloudEvent)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not readable as CloudEvents: {error}") from None
    if not 1 <= len(events) <= MAX_BATCH:
        raise WireError(f"a batch is an array of 1 to {MAX_BATCH} events")
    return [(event.name[:MAX_ID], _reading(event, kind)) for event in events]


def binary_cloud_event(headers: Mapping[str, str], payload: bytes, kind: str | None) -> tuple[str, Reading]:
    """A CloudEvent in headers and body (binary mode). Raises WireError."""
    found = {name: headers.get(f"ce-{name}", "") for name in ("specversion", "id", "source", "type")}
    event = CloudEvent(**found, time=headers.get("ce-time"))
    of_body = form(headers.get("content-type", ""))
    if of_body is None or of_body is Form.ENVELOPE:
        raise WireError("the content type of the CloudEvent's data is none that is read here")
    kind = _kind(event, kind)
    readings = formats.read(of_body, kind, payload, 0)
    if len(readings) != 1:
        raise WireError("a CloudEvent is one event: send SenML of several times without 'ce-' headers")
    time = _time(event.time)
    return event.name[:MAX_ID], readings[0] if time is None else msgspec.structs.replace(readings[0], time=time)


def _reading(event: CloudEvent, kind: str | None) -> Reading:
    kind = _kind(event, kind)
    data = unbase64(event.data_base64) if event.data_base64 is not None else event.data
    data = None if data is msgspec.UNSET else data
    wire.check_plain(data)
    return Reading(0, kind, _time(event.time), 0, data)


def _kind(event: CloudEvent, kind: str | None) -> str:
    if event.specversion != "1.0" or not event.id or not event.source:
        raise WireError("a CloudEvent has specversion 1.0, an id, a source and a type")
    kind = kind or event.type
    if not NAME.fullmatch(kind):
        raise WireError("the type of the CloudEvent cannot be a kind of event: put the kind into the path")
    return kind


def _time(text: str | None) -> int | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
        return round(moment.timestamp() * 1e6)
    except (ValueError, OverflowError):
        raise WireError("the time of the CloudEvent is not of RFC 3339") from None


def unbase64(text: str) -> bytes:
    """The bytes of base64, standard or URL-safe, padded or not. Raises WireError."""
    try:
        plain = text.rstrip("=").translate(str.maketrans("-_", "+/"))
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise WireError("not base64, neither standard nor URL-safe") from None


class PublishEvent(msgspec.Struct):
    """The body of IoT Core's `:publishEvent`; the names come in both of Google's spellings."""

    payload: bytes
    folder: str = ""


def publish_event(payload: bytes) -> PublishEvent:
    """Read it. Raises WireError."""
    body = _google(payload)
    return PublishEvent(_binary(body), _text(body, "sub_folder", "subFolder"))


def set_state(payload: bytes) -> bytes:
    """Read the body of `:setState`. Raises WireError."""
    state = _google(payload).get("state")
    if type(state) is not dict:
        raise WireError('the body is {"state": {"binary_data": "..."}}')
    return _binary(state)


def _google(payload: bytes) -> dict[str, Any]:
    try:
        body: dict[str, Any] = msgspec.json.decode(payload or b"{}", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WireError("the body is not a JSON object") from None
    if "gateway_info" in body or "gatewayInfo" in body:
        raise WireError("devices behind a device are attached over MQTT; over HTTP each speaks for itself")
    return body


def _binary(body: dict[str, Any]) -> bytes:
    return unbase64(_text(body, "binary_data", "binaryData"))


def _text(body: dict[str, Any], *names: str) -> str:
    for name in names:
        if name in body:
            if type(body[name]) is not str:
                raise WireError(f"'{name}' is not a text")
            text: str = body[name]
            return text
    return ""


_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


def google_error(status: int, why: str) -> dict[str, Any]:
    """An error in Google's form."""
    return {"error": {"code": status, "message": why, "status": _STATUS.get(status, "INTERNAL")}}
