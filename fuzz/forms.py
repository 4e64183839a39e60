"""What a board's payload may be: our envelope, SenML, JSON and CBOR. Plain values come out, or one sort of error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import cbor2

from devices import releases
from edge_runtime import wire, wire_ota
from edge_runtime.errors import EdgeError, WireError
from edge_runtime.ingress.formats import Form, read

NOW = 1_780_000_000_000_000
SEEDS_ENVELOPE = [
    cbor2.dumps(value)
    for value in (
        {0: bytes(8), 1: 7, 2: NOW, 4: {"t": 21.5}},
        {0: bytes(8), 1: 7, 5: [["climate", 0, {"t": 1}]]},
        {0: bytes(16), 1: 0, 2: True},
        {1: 3, 0: 0},
    )
]
SEEDS_UPDATES = [
    cbor2.dumps({0: bytes(32), 1: 1, 2: bytes(32), 3: "why", 4: "rp2", 5: 7, 6: 512, 7: 9000}),
    cbor2.dumps({0: bytes(32), 1: 512, 2: 64}),
    releases.manifest_of("a", "1", {"main.py": b"", "lib/b.py": b"x"}, boards=["rp2"], micropython="1.22").encode(),
]
SEEDS_SENML_JSON = [
    b'[{"bn":"urn:dev:ow:10e2073a01080063:","n":"t","u":"Cel","v":23.1}]',
    b'[{"bt":1.7e9,"bver":5,"n":"a","vb":true},{"n":"b","vs":"x","t":-5},{"n":"c","s":1,"ut":3}]',
    b'[{"n":"d","vd":"aGk"}]',
]
SEEDS_SENML_CBOR = [
    cbor2.dumps([{-2: "urn:dev:", 0: "t", 1: "Cel", 2: 23.1}]),
    cbor2.dumps([{-3: 1.7e9, 0: "a", 4: True}, {0: "b", 3: "x", 6: -5}, {0: "d", 8: b"hi"}]),
]


def envelope(data: bytes) -> None:
    """Events, one or several, replies, acknowledged configurations and states: all that a board says in CBOR."""
    for kind in ("climate", None):
        _try(partial(_events, data, kind))
    _try(lambda: wire.decode_reply(data))
    _try(lambda: wire.decode_config_ack(data))
    _try(lambda: wire.check_plain(wire.decode_state(data)))


def updates(data: bytes) -> None:
    """What a board reports of its version, what it asks for; and the manifest of a release from elsewhere."""
    _try(lambda: wire_ota.decode_report(data))
    _try(lambda: wire_ota.decode_ask(data))
    with suppress(EdgeError):
        assert releases.decode(data).encode() == data


def senml_json(data: bytes) -> None:
    """SenML, and plain JSON, as text."""
    _readings(data, Form.SENML_JSON, Form.JSON)


def senml_cbor(data: bytes) -> None:
    """The same in CBOR."""
    _readings(data, Form.SENML_CBOR, Form.CBOR)


def _events(data: bytes, kind: str | None) -> None:
    for event in wire.decode_events(data, kind).events("gh", NOW):
        wire.check_plain(event.data)
        assert abs(event.time) < 2**63


def _readings(data: bytes, *forms: Form) -> None:
    for form in forms:
        for kind in ("climate", None):
            _try(partial(read, form, kind, data, NOW))


def _try(reading: Callable[[], object]) -> None:
    with suppress(WireError):
        reading()
