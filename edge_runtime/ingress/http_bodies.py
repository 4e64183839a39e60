"""States, replies and commands as HTTP bodies: in their own forms of `docs/wire.md`, or in JSON."""

from __future__ import annotations

from typing import Any

import cbor2
import msgspec

from devices.twin import BYTES, Content, json_content, reported
from edge_runtime import wire
from edge_runtime.errors import WireError
from edge_runtime.ingress import formats
from edge_runtime.ingress.formats import Form
from edge_runtime.ingress.http_exchange import Refused
from edge_runtime.ingress.http_forms import form
from edge_runtime.journal.records import Command


def state(media: str, body: bytes) -> Content:
    """The body of a state, in one of the forms that have one value."""
    found = form(media)
    try:
        if found is Form.ENVELOPE:
            return reported(wire.decode_state(body))
        if found is Form.CBOR:
            value = wire.decode(body)
            wire.check_plain(value)
            return reported(value)
        if found is Form.JSON:
            return json_content(formats.read(found, "state", body, 0)[0].data)
    except WireError as error:
        raise Refused(400, str(error)) from None
    if found is None or found in (Form.SENML_JSON, Form.SENML_CBOR):
        raise Refused(415, "a state is JSON, CBOR, text or bytes")
    return Content(BYTES, body)


def reply(media: str, body: bytes) -> bytes:
    """A command reply as on the wire, from CBOR or JSON."""
    if form(media) is not Form.JSON:
        return body
    try:
        told = msgspec.json.decode(body, type=_Reply)
        return cbor2.dumps({0: bytes.fromhex(told.id), 1: told.status, 2: told.result})
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Refused(400, 'a reply is {"id": "32 hex digits", "status": 0, "result": ...}') from None


def config_ack(media: str, body: bytes) -> bytes:
    """What a device says of a configuration as on the wire, from CBOR or JSON."""
    if form(media) is not Form.JSON:
        return body
    try:
        ack = msgspec.json.decode(body, type=_ConfigAck)
        return cbor2.dumps({0: ack.version, 1: ack.status, 2: ack.detail})
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Refused(400, 'an acknowledgement is {"version": 1, "status": 0, "detail": ""}') from None


class _Reply(msgspec.Struct):
    id: str
    status: int = 0
    result: Any = None


class _ConfigAck(msgspec.Struct):
    version: int
    status: int = 0
    detail: str = ""


def message(command: Command) -> wire.CommandMessage:
    """A command as it stands on the wire."""
    return wire.CommandMessage(command.id, command.expires, command.name, command.args, command.cause)


def plain_command(command: Command) -> dict[str, Any]:
    """A command for JSON."""
    plain: dict[str, Any] = {
        "id": command.id.hex(),
        "expires": command.expires,
        "name": command.name,
        "args": command.args,
    }
    if command.cause is not None:
        plain["cause"] = {"boot": command.cause[0].hex(), "seq": command.cause[1]}
    return plain
