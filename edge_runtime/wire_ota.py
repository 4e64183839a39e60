"""The forms of `docs/wire.md` for updates over the air: offers and data out, reports and asks in."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from typing import Any

import cbor2
import msgspec

from edge_runtime.errors import WireError
from edge_runtime.wire import decode

HASH = 32
"""Bytes of a SHA-256."""
MAX_PIECE = 16 << 10
"""Bytes that a board may ask for at a time."""
MAX_DETAIL = 200

IDLE, FETCHING, TRIAL, FAILED, ROLLED_BACK = range(5)
"""What a report says the board is at."""
STATES = ("idle", "fetching", "on trial", "failed", "rolled back")

NOTHING = cbor2.dumps({})
"""The offer that takes back what was offered."""


class Report(msgspec.Struct, frozen=True):
    """What a board runs, and how far it is with another version."""

    running: bytes
    """The id of the release; empty for what came with the board."""
    state: int
    subject: bytes = b""
    """The release that is being fetched, or could not be taken."""
    detail: str = ""
    platform: str = ""
    """As `sys.platform` of MicroPython."""
    number: int = 0
    """Of the offer that it is about."""
    done: int = 0
    total: int = 0
    """Bytes that it has of the release, and all of them."""


class Ask(msgspec.Struct, frozen=True):
    """A board wants a piece of a file."""

    digest: bytes
    offset: int
    length: int


def prove(key_digest: bytes, number: int, release: bytes, device: str) -> bytes:
    """What shows a board that an offer is meant for it: HMAC-SHA256 with the SHA-256 of its key."""
    text = b"edge ota\0" + struct.pack(">I", number) + release + device.encode()
    return hmac.digest(key_digest, text, "sha256")


def encode_offer(release: bytes, size: int, number: int, proofs: Sequence[bytes]) -> bytes:
    """A release for a board: its id, the size of its manifest, the number of the roll-out, one proof per key."""
    return cbor2.dumps({0: release, 1: size, 2: number, 3: list(proofs)})


def encode_data(digest: bytes, offset: int, data: bytes) -> bytes:
    """A piece of a file; empty where there is none."""
    return cbor2.dumps({0: digest, 1: offset, 2: data})


def decode_ask(payload: bytes) -> Ask:
    """Read what a board asks for; raises WireError."""
    form = _map(payload, "what a board asks for")
    ask = Ask(_hash(form, 0, "hash"), _natural(form, 1, "offset"), _natural(form, 2, "length"))
    if not 0 < ask.length <= MAX_PIECE:
        raise WireError(f"'length' (key 2) is not from 1 to {MAX_PIECE}")
    return ask


def decode_report(payload: bytes) -> Report:
    """Read what a board reports; raises WireError."""
    form = _map(payload, "a report about updates")
    state = _natural(form, 1, "state")
    if state > ROLLED_BACK:
        raise WireError("'state' (key 1) is not one of 0 to 4")
    detail, platform = form.get(3, ""), form.get(4, "")
    if type(detail) is not str or type(platform) is not str:
        raise WireError("'detail' (key 3) or 'platform' (key 4) is not text")
    return Report(
        _hash(form, 0, "running") if 0 in form else b"",
        state,
        _hash(form, 2, "subject") if 2 in form else b"",
        detail[:MAX_DETAIL],
        platform[:32],
        _natural(form, 5, "number") if 5 in form else 0,
        _natural(form, 6, "done") if 6 in form else 0,
        _natural(form, 7, "total") if 7 in form else 0,
    )


def _map(payload: bytes, what: str) -> dict[Any, Any]:
    form = decode(payload)
    if type(form) is not dict:
        raise WireError(f"{what} is a CBOR map")
    return form


def _hash(form: dict[Any, Any], key: int, name: str) -> bytes:
    value = form.get(key)
    if type(value) is not bytes or len(value) != HASH:
        raise WireError(f"'{name}' (key {key}) is missing or not {HASH} bytes")
    return value


def _natural(form: dict[Any, Any], key: int, name: str) -> int:
    value = form.get(key)
    if type(value) is not int or not 0 <= value < 2**32:
        raise WireError(f"'{name}' (key {key}) is missing or not an unsigned integer of 32 bits")
    return value
