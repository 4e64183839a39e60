"""Requests of functions, sent by the gateway: to granted hosts alone, within a deadline and a size."""

from __future__ import annotations

import asyncio
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import msgspec

from edge_runtime.flows.ports import HttpAnswer, HttpRequest
from edge_runtime.grants import origin_of

MAX_ANSWER = 1 << 20
"""Bytes of an answer's body."""
MAX_HEADERS = 16 << 10
"""Bytes of an answer's headers that a function is given."""
MAX_REDIRECTS = 3
"""On the same host; to another one is not gone, for nobody has granted it."""
MAX_PER_APP = 16
MAX_PER_HOST = 4
"""Requests of an app under way at a time, in all and to one host: a slow one must not take the places of others."""
KEPT_CONNECTIONS = 32
"""Connections that are kept open for the next request."""

_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "idempotency-key", "accept-encoding"})
"""Headers that are not a function's to set."""
_MOVED = frozenset({301, 302, 303, 307, 308})


class HttpOut:
    """The connections of all apps."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            timeout=None,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS),
            # What goes where is for the operator to say, not for proxy variables or a .netrc.
            trust_env=False,
            # One app's session is nobody else's: who wants cookies sends and reads them as headers.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
        self._apps: dict[str, AppHttp] = {}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def of(self, app: str) -> AppHttp:
        """What sends the requests of an app."""
        return self._apps.setdefault(app, AppHttp(self._client))


class AppHttp:
    """Implements `Fetcher` for one app, which has its own places."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._places = asyncio.Semaphore(MAX_PER_APP)
        self._hosts: dict[str, asyncio.Semaphore] = {}
        """One for each host that was granted: there are few."""

    async def fetch(self, request: HttpRequest, idempotency_key: str) -> HttpAnswer:
        """As `Fetcher.fetch`."""
        found = HttpAnswer(request.method, request.url)
        origin = origin_of(request.url)
        if origin is None:
            return msgspec.structs.replace(found, error="that is not a URL that can be asked")
        sent = False
        try:
            async with asyncio.timeout(request.timeout / 1e6), self._host(origin), self._places:
                sent = True
                return await self._followed(request, idempotency_key, origin)
        except TimeoutError:
            error = f"{origin} did not answer within {request.timeout / 1e6:g} s"
            if not sent:
                error = f"it waited {request.timeout / 1e6:g} s behind other requests of this app, and was not sent"
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as failed:
            error = f"{origin} cannot be asked: {failed or type(failed).__name__}"
        except (UnicodeError, ValueError) as failed:  # what the URL or a header says cannot be said in HTTP
            error = f"the request cannot be sent: {failed}"
        return msgspec.structs.replace(found, error=error[:500])

    def _host(self, origin: str) -> asyncio.Semaphore:
        return self._hosts.setdefault(origin, asyncio.Semaphore(MAX_PER_HOST))

    async def _followed(self, request: HttpRequest, key: str, origin: str) -> HttpAnswer:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OURS}
        headers |= {"idempotency-key": key, "accept-encoding": "identity"}
        headers.setdefault("user-agent", "edge-runtime")
        method, url, body = request.method, request.url, request.body
        for _ in range(MAX_REDIRECTS + 1):
            answer, target = await self._once(method, url, headers, body)
            if target is None or origin_of(target) != origin:
                break
            url = target
            if answer.status == 303 or (answer.status in (301, 302) and method == "POST"):
                method, body = "GET", b""
        return msgspec.structs.replace(answer, method=request.method, url=request.url)

    async def _once(self, method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[HttpAnswer, str | None]:
        """One answer, and where it points to if it says to go there."""
        # Whatever another reader makes of a URL's host: what is sent goes to the origin that was compared.
        origin, parts = origin_of(url), urlsplit(url)
        url = f"{origin}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")
        extra: dict[str, Any] = {"content": body} if body else {}
        async with self._client.stream(method, url, headers=headers, **extra) as response:
            found = HttpAnswer(method, url)
            if response.headers.get("content-encoding", "identity") != "identity":
                # It was asked not to: unpacking could make any size out of few bytes.
                return msgspec.structs.replace(found, error="the answer is compressed, which was not asked for"), None
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > MAX_ANSWER:
                    error = f"the answer has more than {MAX_ANSWER >> 20} MiB"
                    return msgspec.structs.replace(found, error=error), None
            kept = _headers(response.headers)
            target = response.headers.get("location") if response.status_code in _MOVED else None
            answer = HttpAnswer(method, url, response.status_code, kept, bytes(content))
            return answer, None if target is None else urljoin(url, target)


def _headers(headers: httpx.Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    room = MAX_HEADERS
    for name, value in headers.items():
        room -= len(name) + len(value)
        if room < 0:
            break
        found[name.lower()] = value
    return found
