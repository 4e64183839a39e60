"""The forms of `docs/wire.md` in CBOR (RFC 8949): event envelopes in, commands out, replies in.

Pure functions on bytes. What comes in is held to the documented limits; a `WireError` says what was wrong.
"""

from __future__ import annotations

from io import BytesIO
from secrets import token_bytes
from typing import Any

import cbor2
import msgspec

from edge_runtime.errors import WireError
from edge_runtime.events import NAME, Event

MAX_BATCH = 1000
MAX_DEPTH = 16
MAX_UPTIME = 2**43
"""Milliseconds, 278 years: whatever is computed with an uptime stays within 64 bits."""
_KNOWN_TAGS = (
    0,
    1,
    2,
    3,
    4,
    5,
    25,
    28,
    29,
    30,
    35,
    36,
    37,
    52,
    54,
    100,
    256,
    258,
    260,
    261,
    1004,
    43000,
    55799,
)

DONE, FAILED, UNKNOWN_COMMAND, EXPIRED = range(4)
"""The status of a command reply."""


class Reading(msgspec.Struct, frozen=True):
    """One event of an envelope, before the gateway has dated it."""

    seq: int
    kind: str
    time: int | None
    """Microseconds since 1970-01-01 UTC, or None where the board does not know the time."""
    age: int
    """Where `time` is None: microseconds between the reading and the sending of the packet."""
    data: Any


class Envelope(msgspec.Struct, frozen=True):
    """A decoded event packet."""

    boot: bytes
    readings: list[Reading]

    def events(self, device: str, received: int) -> list[Event]:
        """The events as the gateway stores them, dated by the board or, failing that, by arrival less age."""
        return [
            Event(
                device,
                self.boot,
                r.seq,
                r.kind,
                received - r.age if r.time is None else r.time,
                received,
                r.data,
            )
            for r in self.readings
        ]


class CommandMessage(msgspec.Struct, frozen=True):
    """A command as it stands on the wire."""

    id: bytes
    expires: int
    name: str
    args: Any
    cause: tuple[bytes, int] | None = None


class ConfigAck(msgspec.Struct, frozen=True):
    """What a board has done with a version of its configuration."""

    version: int
    refused: bool
    detail: str


class ReplyMessage(msgspec.Struct, frozen=True):
    """A board's reply to a command."""

    id: bytes
    status: int
    result: Any = None


def _refuse_tag(*_: object) -> Any:
    raise ValueError("CBOR tags are not used here")


_TAGS_REFUSED = dict.fromkeys(_KNOWN_TAGS, _refuse_tag)


_END = token_bytes(16)
_PAIR = b"\x82"
_BEHIND = b"\x50" + _END


def decode(payload: bytes) -> Any:
    """One CBOR item of plain values: maps, arrays, text, bytes, 64-bit integers, floats, booleans, null."""
    # `loads` takes a third of the time, but does not say where the item ended. So it is asked for a pair, of which the
    # second is a secret that nobody outside can write: who finds it there has read one whole item and nothing else.
    try:
        pair = cbor2.loads(
            _PAIR + payload + _BEHIND,
            tag_hook=_refuse_tag,
            semantic_decoders=_TAGS_REFUSED,
            max_depth=MAX_DEPTH + 4,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        )
    except cbor2.CBORDecodeError:
        return _decode_alone(payload)
    return pair[0] if pair[1] == _END else _decode_alone(payload)


def _decode_alone(payload: bytes) -> Any:
    source = BytesIO(payload)
    try:
        value = cbor2.CBORDecoder(
            source,
            tag_hook=_refuse_tag,
            semantic_decoders=_TAGS_REFUSED,
            max_depth=MAX_DEPTH + 3,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        ).decode()
    except cbor2.CBORDecodeError as error:
        hint = "it looks like JSON, which the HTTP and CoAP doors take: " if payload[:1] in (b"{", b"[") else ""
        raise WireError(f"not readable as CBOR: {hint}{error}") from error
    if source.tell() != len(payload):
        raise WireError(f"{len(payload) - source.tell()} bytes too many after the CBOR item")
    return value


_SCALARS = frozenset((float, str, bool, bytes, type(None)))
_TEXT = frozenset((str,))


def check_plain(value: Any, depth: int = 0) -> None:
    """Raise WireError for a value that is not plain, as `decode` gives it: too deep, or of a type of its own."""
    kind = type(value)
    if kind in _SCALARS:
        return
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise WireError("an integer does not fit 64 bits")
        return
    if depth >= MAX_DEPTH:
        raise WireError(f"values are nested deeper than {MAX_DEPTH} levels")
    if kind is dict:
        if _TEXT.issuperset(map(type, value)) and _SCALARS.issuperset(map(type, value.values())):
            return
        for key, item in value.items():
            if type(key) is int:
                if not -(2**63) <= key < 2**63:
                    raise WireError("a map key does not fit 64 bits")
            elif type(key) is not str:
                raise WireError("a map key is neither text nor an integer")
            if type(item) not in _SCALARS:
                check_plain(item, depth + 1)
    elif kind is list:
        for item in value:
            if type(item) not in _SCALARS:
                check_plain(item, depth + 1)
    else:
        raise WireError(f"a value of type {kind.__name__} is not a plain value")


def _natural(form: dict[Any, Any], key: int, name: str, limit: int = 2**63) -> int:
    value = form.get(key)
    if type(value) is not int or not 0 <= value < limit:
        raise WireError(f"'{name}' (key {key}) is missing or not an unsigned integer below 2^{limit.bit_length() - 1}")
    return value


def decode_events(payload: bytes, kind: str | None) -> Envelope:
    """Read an event packet; `kind` is the last level of the topic, None for the batch topic.

    Raises WireError, which says what was wrong, for anything that `docs/wire.md` does not allow.
    """
    form = decode(payload)
    if type(form) is not dict:
        raise WireError("an event packet is a CBOR map")
    boot = form.get(0)
    if type(boot) is not bytes or len(boot) != 8:
        raise WireError("'boot' (key 0) is missing or not 8 bytes")
    seq = _natural(form, 1, "seq")
    time: int | None = None
    age = 0
    if 2 in form:
        time = form[2]
        if type(time) is not int or not -(2**62) <= time < 2**62:
            raise WireError("'time' (key 2) is not an integer of microseconds")
    else:
        uptime = _natural(form, 3, "uptime", MAX_UPTIME)
        age = max(0, (_natural(form, 6, "sent", MAX_UPTIME) - uptime) * 1000) if 6 in form else 0
    if (4 in form) == (5 in form):
        raise WireError("exactly one of 'data' (key 4) and 'events' (key 5) must be present")
    if 4 in form:
        if kind is None:
            raise WireError("a single event belongs on a topic that ends with its kind")
        check_plain(form[4])
        return Envelope(boot, [Reading(seq, kind, time, age, form[4])])
    if kind is not None:
        raise WireError("a batch belongs on the topic without a kind")
    return Envelope(boot, _batch(form[5], seq, time, age))


def _batch(items: Any, seq: int, time: int | None, age: int) -> list[Reading]:
    if type(items) is not list or not 1 <= len(items) <= MAX_BATCH:
        raise WireError(f"'events' (key 5) is not an array of 1 to {MAX_BATCH}")
    readings = []
    for index, item in enumerate(items):
        if type(item) is not list or len(item) != 3:
            raise WireError(f"event {index} of the batch is not [offset, kind, data]")
        offset, kind, data = item
        if type(offset) is not int or not 0 <= offset < 2**40:
            raise WireError(f"the offset of event {index} of the batch is not an unsigned integer of milliseconds")
        if type(kind) is not str or not NAME.fullmatch(kind):
            raise WireError(f"the kind of event {index} of the batch is not a valid name")
        check_plain(data)
        micros = offset * 1000
        readings.append(
            Reading(seq + index, kind, None, max(0, age - micros), data)
            if time is None
            else Reading(seq + index, kind, time + micros, 0, data)
        )
    return readings


def encode_command(message: CommandMessage) -> bytes:
    """A command for the wire."""
    form: dict[int, Any] = {0: message.id, 1: message.expires, 2: message.name, 3: message.args}
    if message.cause is not None:
        form[4] = list(message.cause)
    return cbor2.dumps(form)


def decode_reply(payload: bytes) -> ReplyMessage:
    """Read a command reply; raises WireError."""
    form = decode(payload)
    if type(form) is not dict:
        raise WireError("a command reply is a CBOR map")
    command = form.get(0)
    if type(command) is not bytes or len(command) != 16:
        raise WireError("'id' (key 0) is missing or not 16 bytes")
    status = _natural(form, 1, "status")
    if status > EXPIRED:
        raise WireError("'status' (key 1) is not one of 0 to 3")
    check_plain(form.get(2))
    return ReplyMessage(command, status, form.get(2))


def encode_config(version: int, content: Any) -> bytes:
    """A version of a device's configuration for the wire."""
    return cbor2.dumps({0: version, 1: content})


def decode_config_ack(payload: bytes) -> ConfigAck:
    """Read what a board says of a version of its configuration; raises WireError."""
    form = decode(payload)
    if type(form) is not dict:
        raise WireError("the acknowledgement of a configuration is a CBOR map")
    status = _natural(form, 1, "status")
    detail = form.get(2, "")
    if status > FAILED or type(detail) is not str:
        raise WireError("'status' (key 1) is not 0 or 1, or 'detail' (key 2) is not text")
    return ConfigAck(_natural(form, 0, "version"), status == FAILED, detail)


def decode_state(payload: bytes) -> Any:
    """Read the state that a board reports; raises WireError."""
    form = decode(payload)
    if type(form) is not dict or 0 not in form:
        raise WireError("a state is a CBOR map with 'state' (key 0)")
    check_plain(form[0])
    return form[0]
