"""Events into the sandbox, outcomes out of it. What comes out is not believed: it is checked again, here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edge_runtime.events import DEVICE, NAME, Event
from edge_runtime.flows.ports import (
    Cancel,
    Defer,
    Failure,
    Given,
    HttpRequest,
    LogLine,
    Order,
    Outcome,
    Success,
    Unanswered,
)
from edge_runtime.functions.limits import Limits
from edge_runtime.journal.records import Entry, State

MAX_DEPTH = 16
"""How deep an effect's values may be nested, as on the wire."""

MAX_DETAIL = 4000
MAX_STATE_NAME = 128
MAX_TTL = 7 * 86_400_000_000
MAX_AFTER = 366 * 86_400_000_000
REASONS = frozenset({"error", "timeout", "memory", "output", "crash"})
LEVELS = frozenset({"debug", "info", "warning", "error"})

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
MAX_URL = 4096
MAX_BODY = 256 * 1024
MAX_TIMEOUT = 30_000_000
MAX_HEADERS = 32
MAX_METRICS = 20
MAX_REFUSED = 8
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_GRANT = re.compile(r"[!-~]{1,256}")
_FIELD = re.compile(r"[\x20-\x7e\t]{0,4096}")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Success | Failure | Unanswered).decode


class _Refused(Exception):
    """The outcome breaks a rule; `reason` is that of the failure that takes its place."""

    def __init__(self, detail: str, reason: str = "output") -> None:
        super().__init__(detail)
        self.reason = reason


def encode_event(event: Event) -> bytes:
    """The event as the guest takes it: the fields of `edge.Event` in order, as JSON.

    Byte strings become base64 text, NaN and infinities null. Raises `TypeError` or `ValueError` for data that JSON
    cannot hold.
    """
    return _encode(
        (
            event.device,
            event.kind,
            event.time,
            event.data,
            event.id,
            event.seq,
            event.boot.hex(),
            event.received,
            event.late,
        )
    )


def encode_given(given: Given, states: Mapping[str, State], events: Sequence[Event]) -> str:
    """What the guest is given besides these events, as JSON; empty for nothing. `states` are as they stand now."""
    keys = {given.key(event) for event in events} if states else ()
    found: dict[str, Any] = {"states": {key: state for key in keys if (state := states.get(key))}}
    if given.answers:
        found["answers"] = {event.id: given.answers[event.id] for event in events if event.id in given.answers}
    if given.secrets:
        found["secrets"] = given.secrets
    return _encode(found).decode() if any(found.values()) else ""


def judge(payload: bytes, micros: int, limits: Limits) -> Outcome:
    """The outcome that the sandbox reported for an event, or the failure that it deserves."""
    try:
        outcome: Outcome = _decode(payload)
        if isinstance(outcome, Unanswered):
            _check_request(outcome.request)
        else:
            if isinstance(outcome, Success):
                _check_success(outcome, limits)
            else:
                _check_failure(outcome)
            _check_logs(outcome.logs, limits)
            if len(outcome.refused) > MAX_REFUSED or not all(map(_GRANT.fullmatch, outcome.refused)):
                raise _Refused("its list of what it was refused is malformed")
    except _Refused as refused:
        return Failure(refused.reason, str(refused), micros=micros)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Failure("output", "the function's interpreter reported something that is not an outcome", micros=micros)
    msgspec.structs.force_setattr(outcome, "micros", micros)  # ours: nobody else has seen it yet
    return outcome


def _check_success(outcome: Success, limits: Limits) -> None:
    if len(outcome.effects) > limits.effects:
        raise _Refused(f"more than {limits.effects} commands and emitted events")
    for effect in outcome.effects:
        if isinstance(effect, Order):
            if not DEVICE.fullmatch(effect.device) or not NAME.fullmatch(effect.name) or not 0 < effect.ttl <= MAX_TTL:
                raise _Refused("a command is malformed")
            if effect.key and not NAME.fullmatch(effect.key):
                raise _Refused("a command's key is malformed")
            _check_plain(effect.args)
        elif isinstance(effect, Cancel):
            if not NAME.fullmatch(effect.key):
                raise _Refused("a deferred event's key is malformed")
        else:
            if isinstance(effect, Defer) and not (
                0 < effect.after <= MAX_AFTER and (not effect.key or NAME.fullmatch(effect.key))
            ):
                raise _Refused("a deferred event is malformed")
            if not NAME.fullmatch(effect.kind):
                raise _Refused("an emitted event's kind is malformed")
            _check_plain(effect.data)
    if outcome.value is not None:
        _check_plain(outcome.value)
    if outcome.state:
        _check_state(outcome.state, limits)
    if len(outcome.metrics) > MAX_METRICS or not all(NAME.fullmatch(name) for name, _ in outcome.metrics):
        raise _Refused("its metrics are malformed")


def _check_request(request: HttpRequest) -> None:
    headers = request.headers.items()
    well_formed = (
        request.method in METHODS
        and len(request.url) <= MAX_URL
        and request.url.isprintable()
        and " " not in request.url
        and len(request.body) <= MAX_BODY
        and 0 < request.timeout <= MAX_TIMEOUT
        and len(headers) <= MAX_HEADERS
        and all(_TOKEN.fullmatch(name) and _FIELD.fullmatch(value) for name, value in headers)
    )
    if not well_formed:
        raise _Refused("a request is malformed, or too large: its URL or headers are not those of HTTP", "error")


def _check_state(changes: Mapping[str, Entry | None], limits: Limits) -> None:
    size = 0
    for name, entry in changes.items():
        if not 0 < len(name) <= MAX_STATE_NAME:
            raise _Refused("a state entry's name is malformed")
        if entry is not None:
            if not 0 <= entry[1] < 2**62:
                raise _Refused("a state entry's expiry is malformed")
            size += len(name) + len(entry[0])
    if size > limits.state:
        raise _Refused(f"more than {limits.state // 1024} KiB of state")


def _check_failure(outcome: Failure) -> None:
    if outcome.reason not in REASONS:
        raise _Refused("a failure has an unknown reason")
    if len(outcome.detail) > MAX_DETAIL:
        raise _Refused("a failure's description is too long")


def _check_logs(logs: list[LogLine], limits: Limits) -> None:
    if len(logs) > limits.lines:
        raise _Refused(f"more than {limits.lines} log lines")
    for line in logs:
        if line.level not in LEVELS:
            raise _Refused("a log line has an unknown level")


def _check_plain(value: Any, depth: int = 0) -> None:
    kind = type(value)
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise _Refused("an integer does not fit 64 bits")
    elif kind is dict or kind is list:
        if depth >= MAX_DEPTH:
            raise _Refused(f"values are nested deeper than {MAX_DEPTH} levels")
        for item in value.values() if kind is dict else value:
            _check_plain(item, depth + 1)
