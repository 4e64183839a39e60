"""The gateway's side of updates on the wire, against the shared vectors."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from devices import releases
from edge_runtime import wire_ota
from edge_runtime.errors import WireError

VECTORS = json.loads((Path(__file__).parent / "vectors/ota.json").read_text("utf-8"))


@pytest.mark.parametrize("case", VECTORS["manifests"], ids=lambda case: case["name"])
def test_manifests(case: dict[str, Any]) -> None:
    files = {path: bytes.fromhex(data) for path, data in case["files"].items()}
    options = {name: case[name] for name in ("boards", "micropython", "health", "proof")}
    made = releases.manifest_of("greenhouse", "1.2", files, **options)
    assert made.encode().decode() == case["text"]
    assert releases.decode(case["text"].encode()) == made
    assert releases.digest_of(made.encode()) == case["release"]


@pytest.mark.parametrize("case", VECTORS["offers"], ids=lambda case: case["name"])
def test_offers(case: dict[str, Any]) -> None:
    release = bytes.fromhex(case["release"])
    digest = sha256(urlsafe_b64decode(case["key"] + "=")).digest()
    proof = wire_ota.prove(digest, case["number"], release, case["device"])
    assert proof.hex() == case["proof"]
    assert wire_ota.encode_offer(release, case["size"], case["number"], [proof]).hex() == case["hex"]
    assert wire_ota.NOTHING.hex() == VECTORS["nothing"]


@pytest.mark.parametrize("case", VECTORS["data"], ids=lambda case: case["name"])
def test_data(case: dict[str, Any]) -> None:
    made = wire_ota.encode_data(bytes.fromhex(case["digest"]), case["offset"], bytes.fromhex(case["data"]))
    assert made.hex() == case["hex"]


@pytest.mark.parametrize("case", VECTORS["asks"], ids=lambda case: case["name"])
def test_asks(case: dict[str, Any]) -> None:
    ask = wire_ota.decode_ask(bytes.fromhex(case["hex"]))
    assert (ask.digest.hex(), ask.offset, ask.length) == (case["digest"], case["offset"], case["length"])


@pytest.mark.parametrize("case", VECTORS["reports"], ids=lambda case: case["name"])
def test_reports(case: dict[str, Any]) -> None:
    found = msgspec.structs.asdict(wire_ota.decode_report(bytes.fromhex(case["hex"])))
    shown = {name: value.hex() if isinstance(value, bytes) else value for name, value in found.items()}
    assert shown == case["report"]


@pytest.mark.parametrize("text", VECTORS["invalid"]["reports"])
def test_reports_that_are_none(text: str) -> None:
    with pytest.raises(WireError):
        wire_ota.decode_report(bytes.fromhex(text))


@pytest.mark.parametrize("text", VECTORS["invalid"]["asks"])
def test_asks_that_are_none(text: str) -> None:
    with pytest.raises(WireError):
        wire_ota.decode_ask(bytes.fromhex(text))
