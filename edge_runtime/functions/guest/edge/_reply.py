"""What a function of `@app.http` answers to a request."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from edge._plain import dumps

_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_FIELD_VALUE = re.compile(r"[\x20-\x7e\t]{0,4096}")
_RESERVED = frozenset({"connection", "content-length", "date", "server", "transfer-encoding", "upgrade"})


class Reply:
    """An answer with a status (200 to 599), a body and headers of its own.

    A dict or list becomes JSON, text plain text, bytes are sent as they are; None is no body.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int = 200, body: Any = None, headers: Mapping[str, str] | None = None) -> None:
        if type(status) is not int or not 200 <= status <= 599:
            raise ValueError(f"status={status!r} is not a number from 200 to 599")
        self.status = status
        self.body = body
        self.headers = {str(name).lower(): value for name, value in (headers or {}).items()}
        for name, value in self.headers.items():
            if not _FIELD_NAME.fullmatch(name) or not isinstance(value, str) or not _FIELD_VALUE.fullmatch(value):
                raise ValueError(f"the header {name!r}: {value!r} is not one of HTTP")
            if name in _RESERVED:
                raise ValueError(f"the header {name!r} is the gateway's to set")


def described(value: Any) -> str:
    """What a function returned, as the answer that the gateway sends, in JSON. Raises `TypeError` or `ValueError`."""
    if not isinstance(value, Reply):
        value = Reply(204) if value is None else Reply(200, value)
    body, headers = value.body, value.headers
    plain: dict[str, Any] = {"status": value.status}
    if isinstance(body, (bytes, bytearray)):
        headers = {"content-type": "application/octet-stream", **headers}
        plain.update(body=base64.b64encode(body).decode(), base64=True)
    elif isinstance(body, str):
        headers = {"content-type": "text/plain; charset=utf-8", **headers}
        plain["body"] = body
    elif body is not None:
        headers = {"content-type": "application/json", **headers}
        plain["body"] = dumps(body)
    return dumps({**plain, "headers": headers})
