"""Events into the sandbox, outcomes out of it. What comes out is not believed: it is checked again, here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edge_runtime.events import NAME, Event
from edge_runtime.flows.ports import Failure, LogLine, Order, Outcome, Success
from edge_runtime.functions.limits import Limits
from edge_runtime.journal.records import Entry, State

MAX_DEPTH = 16
"""How deep an effect's values may be nested, as on the wire."""

MAX_DETAIL = 4000
MAX_STATE_NAME = 128
MAX_TTL = 7 * 86_400_000_000
REASONS = frozenset({"error", "timeout", "memory", "output", "crash"})
LEVELS = frozenset({"debug", "info", "warning", "error"})

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Success | Failure).decode


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


def encode_given(states: Mapping[str, State]) -> str:
    """What the guest is given besides events: the states by partition key, as JSON; empty where there are none."""
    return _encode({"states": states}).decode() if states else ""


def judge(payload: bytes, micros: int, event: Event, limits: Limits) -> Outcome:
    """The outcome that the sandbox reported for `event`, or the failure that it deserves."""
    try:
        outcome: Outcome = _decode(payload)
        if isinstance(outcome, Success):
            _check_success(outcome, event, limits)
        else:
            _check_failure(outcome)
        _check_logs(outcome.logs, limits)
    except _Refused as refused:
        return Failure(refused.reason, str(refused), micros=micros)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Failure("output", "the function's interpreter reported something that is not an outcome", micros=micros)
    msgspec.structs.force_setattr(outcome, "micros", micros)  # ours: nobody else has seen it yet
    return outcome


def _check_success(outcome: Success, event: Event, limits: Limits) -> None:
    if len(outcome.effects) > limits.effects:
        raise _Refused(f"more than {limits.effects} commands and emitted events")
    for effect in outcome.effects:
        if isinstance(effect, Order):
            if effect.device != event.device:
                raise _Refused(f"a command to '{effect.device}' was not granted", "error")
            if not NAME.fullmatch(effect.name) or not 0 < effect.ttl <= MAX_TTL:
                raise _Refused("a command is malformed")
            if effect.key and not NAME.fullmatch(effect.key):
                raise _Refused("a command's key is malformed")
            _check_plain(effect.args)
        else:
            if not NAME.fullmatch(effect.kind):
                raise _Refused("an emitted event's kind is malformed")
            _check_plain(effect.data)
    if outcome.value is not None:
        _check_plain(outcome.value)
    if outcome.state:
        _check_state(outcome.state, limits)


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
