"""Payload forms: what front doors take beside our own envelope, turned into one.

CBOR, JSON and raw bytes carry no identity; the caller gives it (see `stamps`). SenML is RFC 8428. Pure functions on
bytes; what is wrong is said in a `WireError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import msgspec

from edge_runtime import senml, wire
from edge_runtime.errors import WireError
from edge_runtime.events import NAME
from edge_runtime.wire import MAX_BATCH, Envelope, Reading


class Form(IntEnum):
    """The forms, by their CoAP content format numbers."""

    TEXT = 0
    BYTES = 42
    JSON = 50
    CBOR = 60
    SENML_JSON = 110
    SENML_CBOR = 112
    ENVELOPE = 65000
    """The event envelope of `docs/wire.md`; a number of the range for experiments (RFC 7252 section 12.3)."""


MEDIA_TYPES = {
    "text/plain": Form.TEXT,
    "application/octet-stream": Form.BYTES,
    "application/json": Form.JSON,
    "application/cbor": Form.CBOR,
    "application/senml+json": Form.SENML_JSON,
    "application/senml+cbor": Form.SENML_CBOR,
    "application/vnd.edge.event+cbor": Form.ENVELOPE,
}
"""The same for doors that speak of media types."""


def read(form: Form, kind: str | None, payload: bytes, now: int) -> list[Reading]:
    """The readings of a payload in any form but the envelope, numbered from 0; `kind` is None for a batch.

    `now`: the time of arrival, microseconds, from which SenML's relative times count. Raises WireError.
    """
    if form is Form.SENML_JSON or form is Form.SENML_CBOR:
        value = _json(payload) if form is Form.SENML_JSON else wire.decode(payload)
        records = senml.resolve(value, binary=form is Form.SENML_CBOR, now=now)
        readings = list(_one_kind(records, kind) if kind is not None else _own_kinds(records))
    elif form is Form.JSON or form is Form.CBOR:
        value = _json(payload) if form is Form.JSON else wire.decode(payload)
        readings = [Reading(0, kind, None, 0, value)] if kind is not None else _batch(value)
    elif kind is None:
        raise WireError("a batch has to say the kind of each event: send CBOR, JSON, SenML or our envelope")
    elif form is Form.TEXT:
        readings = [Reading(0, kind, None, 0, _text(payload))]
    else:
        readings = [Reading(0, kind, None, 0, payload)]
    for reading in readings:
        wire.check_plain(reading.data)
    return readings


def identified(boot: bytes, seq: int, readings: list[Reading]) -> Envelope:
    """The readings as an envelope of that identity."""
    if not seq:
        return Envelope(boot, readings)
    return Envelope(boot, [msgspec.structs.replace(reading, seq=seq + reading.seq) for reading in readings])


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise WireError(f"not UTF-8 text: {error.reason} at byte {error.start}") from None


def _json(payload: bytes) -> Any:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"not readable as JSON: {error}") from None
    except RecursionError:
        raise WireError(f"values are nested deeper than {wire.MAX_DEPTH} levels") from None


def _batch(value: Any) -> list[Reading]:
    """An array of maps with `kind`, `data` and perhaps `time`."""
    if type(value) is not list or not 1 <= len(value) <= MAX_BATCH:
        raise WireError(f"a batch is an array of 1 to {MAX_BATCH} events, each with 'kind' and 'data'")
    readings = []
    for index, item in enumerate(value):
        if type(item) is not dict or "data" not in item:
            raise WireError(f"event {index} of the batch is not a map with 'kind' and 'data'")
        kind, time = item.get("kind"), item.get("time")
        if type(kind) is not str or not NAME.fullmatch(kind):
            raise WireError(f"the kind of event {index} of the batch is not a valid name")
        if time is not None and (type(time) is not int or not -(2**62) <= time < 2**62):
            raise WireError(f"the time of event {index} of the batch is not an integer of microseconds")
        readings.append(Reading(index, kind, time, 0, item["data"]))
    return readings


def _one_kind(records: list[senml.Record], kind: str) -> Iterator[Reading]:
    """One event for all records that follow each other with the same time: a map from names to values."""
    groups: list[tuple[int, dict[str, Any]]] = []
    for record in records:
        name = record.local_name or "value"
        if not groups or groups[-1][0] != record.time or name in groups[-1][1]:
            groups.append((record.time, {}))
        data = groups[-1][1]
        data[name] = record.sum if record.value is None else record.value
        if record.unit:
            data.setdefault("units", {})[name] = record.unit
        if name == "units":
            raise WireError("the name 'units' is taken: it holds the units of the other readings")
    for index, (time, data) in enumerate(groups):
        yield Reading(index, kind, time, 0, data)


def _own_kinds(records: list[senml.Record]) -> Iterator[Reading]:
    """An event for each record: its kind is the end of its name."""
    for index, record in enumerate(records):
        kind = record.local_name
        if not NAME.fullmatch(kind):
            raise WireError(f"record {index}: the name {record.name!r} does not end with a kind of event")
        data = {"value": record.value, "unit": record.unit or None, "sum": record.sum}
        yield Reading(index, kind, record.time, 0, {key: value for key, value in data.items() if value is not None})
