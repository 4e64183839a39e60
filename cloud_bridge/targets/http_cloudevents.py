"""A target that takes CloudEvents 1.0 over HTTP, in binary mode: one POST for each event.

Attributes: `ce-id` is the event's identity for the outside world, the same for every repeat; `ce-source` names the
device below the gateway; `ce-type` is `io.edge.event.<kind>`; `ce-subject` is the device; `ce-time` is when it
happened.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from edge_runtime.clock import Clock
from edge_runtime.events import Event
from edge_runtime.flows.ports import Rejected, Unavailable

MAX_ANSWER = 64 << 10
"""Bytes of an answer that are read, so that the connection can be used again; a longer one ends it."""
MAX_RETRY_AFTER = 300 * 10**6
"""Microseconds for which a receiver can ask to be left alone: it may be wrong about its clock or its units."""
MAX_CONNECTIONS = 16

_LATER = frozenset({408, 425, 429})
_UNSAFE = re.compile(r"""[^\x21\x23\x24\x26-\x7e]""")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def header_value(text: str) -> str:
    """An attribute as a header value: CloudEvents HTTP binding 1.0.2, section 3.1.3.2.

    Space, double quote, percent and everything outside printable ASCII are percent-encoded as UTF-8.
    """
    return _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode(errors="replace")), text)


def timestamp(micros: int) -> str | None:
    """RFC 3339 in UTC; None for a moment outside the years 1 to 9999, which it cannot express."""
    try:
        moment = _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        return None
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


class HttpCloudEventsTarget:
    """Delivers events to one URL. Implements `Target`."""

    def __init__(self, url: str, source: str, timeout: int, clock: Clock) -> None:
        """`source` is what `ce-source` starts with (`//edge/<gateway>`); `timeout` bounds a delivery, microseconds."""
        self._url = url
        # A query may hold a secret: errors show the URL without it.
        self._shown = urlsplit(url)._replace(query="", fragment="").geturl()
        self._source = source
        self._timeout = timeout / 1e6
        self._clock = clock
        self._quiet_until = 0
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            timeout=self._timeout,
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS),
            headers={"user-agent": "edge-runtime"},
            # What is sent where is said in edge.toml alone, not by proxy variables or a .netrc.
            trust_env=False,
        )

    async def send(self, event: Event, value: Any) -> None:
        """Deliver one event; see `Target`."""
        if self._clock.monotonic() < self._quiet_until:
            raise Unavailable(f"{self._shown} asked to be left alone for a while.")
        try:
            body = msgspec.json.encode(value)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            raise Rejected(f"what the function returned is not JSON: {error}") from error
        try:
            async with asyncio.timeout(self._timeout):
                status, headers, answer = await self._post(self._headers(event), body)
        except TimeoutError as error:
            raise Unavailable(f"{self._shown} did not answer within {self._timeout:g} s.") from error
        except httpx.TimeoutException as error:
            raise Unavailable(f"{self._shown} did not answer within {self._timeout:g} s.") from error
        except httpx.TransportError as error:
            raise Unavailable(f"{self._shown} cannot be reached: {error or type(error).__name__}.") from error
        self._judge(status, headers, answer)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _headers(self, event: Event) -> dict[str, str]:
        headers = {
            "ce-specversion": "1.0",
            "ce-id": header_value(event.outside_id),
            "ce-source": header_value(f"{self._source}/devices/{event.device}"),
            "ce-type": header_value(f"io.edge.event.{event.kind}"),
            "ce-subject": header_value(event.device),
            "content-type": "application/json",
        }
        moment = timestamp(event.time)
        if moment is not None:
            headers["ce-time"] = moment
        return headers

    async def _post(self, headers: dict[str, str], body: bytes) -> tuple[int, httpx.Headers, bytes]:
        answer = b""
        async with self._client.stream("POST", self._url, headers=headers, content=body) as response:
            async for chunk in response.aiter_raw():
                answer += chunk
                if len(answer) > MAX_ANSWER:
                    break
            return response.status_code, response.headers, answer

    def _judge(self, status: int, headers: httpx.Headers, answer: bytes) -> None:
        if 200 <= status < 300:
            return
        if status in _LATER or status >= 500:
            self._quiet_until = self._clock.monotonic() + self._retry_after(headers.get("retry-after", ""))
            raise Unavailable(f"{self._shown} answered {status}{_excerpt(answer)}.")
        if status < 400:
            # Not this event's fault, and every other one would meet the same.
            raise Unavailable(f"{self._shown} answered {status} and points elsewhere.", hint="Set the target's 'url'.")
        raise Rejected(f"{self._shown} answered {status}{_excerpt(answer)}.")

    def _retry_after(self, text: str) -> int:
        """Microseconds to wait by a Retry-After header (RFC 9110, 10.2.3), 0 without a readable one."""
        if re.fullmatch(r"[0-9]{1,10}", text):
            wait = int(text) * 10**6
        else:
            try:
                moment = parsedate_to_datetime(text)
            except ValueError:
                return 0
            wait = (moment.replace(tzinfo=moment.tzinfo or UTC) - _EPOCH) // timedelta(
                microseconds=1
            ) - self._clock.now()
        return min(max(wait, 0), MAX_RETRY_AFTER)


def _excerpt(answer: bytes) -> str:
    """The start of an answer on one line, for an error."""
    text = " ".join(answer[:200].decode(errors="replace").split())
    return f": {''.join(filter(str.isprintable, text))}" if text else ""
