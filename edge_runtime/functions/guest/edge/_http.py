"""Requests to the outside. The gateway sends them; the function is run again from its start with each answer.

So nothing waits inside the sandbox: a request for which there is no answer yet ends the run, and in the next one the
same request, which stands at the same place, is answered at once.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from edge._durations import microseconds
from edge._plain import dumps

if TYPE_CHECKING:
    from edge._context import Context

MAX_REQUESTS = 8
"""Requests of one call."""
MAX_BODY = 256 * 1024
"""Bytes of a request's body."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_PORTS = {"https": 443, "http": 80}


class HttpError(Exception):
    """A request got no answer: the host cannot be reached, is too slow, or says too much."""


class Unanswered(BaseException):
    """Ends a run at a request that is not answered yet. Not an `Exception`: a function must not swallow it."""

    def __init__(self, request: str) -> None:
        super().__init__("a request is not answered yet")
        self.request = request


class Response:
    """An answer. Whatever its status: look at `ok` or `status`."""

    __slots__ = ("content", "headers", "status", "url")

    def __init__(self, url: str, status: int, headers: dict[str, str], content: bytes) -> None:
        self.url = url
        self.status = status
        self.headers = headers
        """By their names in lower case."""
        self.content = content

    @property
    def ok(self) -> bool:
        """Whether the status is 200 to 299."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The content as UTF-8 text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The content as JSON."""
        return json.loads(self.content)

    def __repr__(self) -> str:
        return f"<Response {self.status} of {self.url}>"


class Http:
    """`ctx.http`: requests to the hosts that the app was granted (`App(..., grants=["http:api.example.com"])`).

    The function is run again with the answer: what it does before a request should be the same each time (take the time
    from the event, not from the clock). Each request carries an `Idempotency-Key` that stays the same, because a
    gateway that is interrupted may send it again.
    """

    def __init__(self, ctx: Context, answers: list[dict[str, Any]]) -> None:
        self._ctx = ctx
        self._answers = answers
        self._made = 0

    def get(self, url: str, **options: Any) -> Response:
        """GET; the options are those of `request`."""
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> Response:
        """POST; the options are those of `request`."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Any) -> Response:
        """PUT; the options are those of `request`."""
        return self.request("PUT", url, **options)

    def delete(self, url: str, **options: Any) -> Response:
        """DELETE; the options are those of `request`."""
        return self.request("DELETE", url, **options)

    def request(
        self,
        method: str,
        url: str,
        *,
        params: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        json: Any = None,
        data: str | bytes | None = None,
        timeout: float | str = "10s",
    ) -> Response:
        """Send a request and answer what came back.

        `params` are added to the URL, `json` is sent as JSON, `data` as it is; `timeout` is in seconds or text, at most
        30 seconds. Redirects are followed on the same host alone. Raises `NotGranted`, and `HttpError` where there is
        no answer.
        """
        method = method.upper()
        if method not in _METHODS:
            raise ValueError(f"method={method!r} is not one of {', '.join(_METHODS)}")
        if params:
            url += ("&" if urlsplit(url).query else "?") + urlencode(params, doseq=True)
        self._ctx._require("http", origin(url))
        if self._made >= MAX_REQUESTS:
            raise HttpError(f"more than {MAX_REQUESTS} requests in one call")
        body, kind = _body(json, data)
        if len(body) > MAX_BODY:
            raise ValueError(f"a request's body may have {MAX_BODY // 1024} KiB, not {len(body)} bytes")
        place, self._made = self._made, self._made + 1
        if place < len(self._answers):
            return _answered(self._answers[place], method, url)
        described = {
            "method": method,
            "url": url,
            "headers": {**kind, **{str(name): str(value) for name, value in (headers or {}).items()}},
            "body": base64.b64encode(body).decode(),
            "timeout": microseconds(timeout, "timeout", "30 seconds"),
        }
        raise Unanswered(dumps(described))


def origin(url: str) -> str:
    """Scheme, host and port, as grants spell them."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        raise ValueError(f"{url!r} is not the URL of a web page or service")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}")


def _body(value: Any, data: str | bytes | None) -> tuple[bytes, dict[str, str]]:
    if data is not None:
        if value is not None:
            raise TypeError("give a request either json= or data=")
        return (data.encode(), {"content-type": "text/plain; charset=utf-8"}) if isinstance(data, str) else (data, {})
    return (b"", {}) if value is None else (dumps(value).encode(), {"content-type": "application/json"})


def _answered(answer: dict[str, Any], method: str, url: str) -> Response:
    if (answer["method"], answer["url"]) != (method, url):
        raise RuntimeError(
            f"the function asked for {answer['method']} {answer['url']} first, and now for {method} {url}: it is run "
            "again with each answer, so its requests must come in the same order"
        )
    if "error" in answer:
        raise HttpError(answer["error"])
    return Response(url, answer["status"], answer.get("headers", {}), base64.b64decode(answer.get("body", "")))
