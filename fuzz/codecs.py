"""The codecs that strangers' bytes reach, by name: what is called with them, and inputs to begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fuzz import coap, forms, mqtt, serial, websocket

CODECS: dict[str, tuple[Callable[[bytes], None], Sequence[bytes]]] = {
    "mqtt-connect": (mqtt.connect, mqtt.SEEDS_CONNECT),
    "mqtt-3.1.1": (mqtt.version_4, mqtt.SEEDS_4),
    "mqtt-5": (mqtt.version_5, mqtt.SEEDS_5),
    "coap": (coap.datagram, coap.SEEDS),
    "serial-line": (serial.line, serial.SEEDS_LINE),
    "serial-frames": (serial.frames, serial.SEEDS_FRAMES),
    "envelope": (forms.envelope, forms.SEEDS_ENVELOPE),
    "updates": (forms.updates, forms.SEEDS_UPDATES),
    "senml-json": (forms.senml_json, forms.SEEDS_SENML_JSON),
    "senml-cbor": (forms.senml_cbor, forms.SEEDS_SENML_CBOR),
    "websocket-request": (websocket.request, websocket.SEEDS_REQUEST),
    "websocket-frames": (websocket.frames, websocket.SEEDS_FRAMES),
}
