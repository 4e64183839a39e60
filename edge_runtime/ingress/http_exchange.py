"""What all that answers HTTP requests has in common: refusals, and bodies within bounds of size and time."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edge_runtime.clock import Clock

BODY_TIME = 10_000_000
"""Microseconds for the body of a request."""


class Refused(Exception):
    """A request is answered with this, whatever else it wanted."""

    def __init__(self, status: int, why: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.headers = headers or {}

    @property
    def response(self) -> Response:
        """In the plain form."""
        return problem(self.status, self.why, self.headers)


class Others(Protocol):
    """Who answers the requests that are not for apps."""

    def answers(self, path: str) -> bool:
        """Whether a path is one of theirs."""
        ...

    async def respond(self, request: Request) -> Response:
        """The response. Raises Refused."""
        ...

    def stop(self) -> None:
        """Answer at once what waits for news."""
        ...


def as_json(status: int, message: Any, headers: dict[str, str] | None = None) -> Response:
    """A response in JSON."""
    return Response(msgspec.json.encode(message), status, headers, media_type="application/json")


def problem(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    """What is wrong, in the plain form."""
    return as_json(status, {"error": why}, headers)


async def read_body(request: Request, limit: int, clock: Clock) -> bytes:
    """The body, of at most `limit` bytes. Raises Refused."""
    too_large = Refused(413, f"a request has at most {limit} bytes", {"connection": "close"})
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise too_large
    body = bytearray()

    async def read() -> None:
        async for chunk in request.stream():
            body.extend(chunk)
            if len(body) > limit:
                raise too_large

    reading = asyncio.ensure_future(read())
    await either(clock, reading, BODY_TIME)
    if not reading.done():
        await cancelled(reading)
        raise Refused(408, "the request did not arrive in time", {"connection": "close"})
    reading.result()
    return bytes(body)


async def either(clock: Clock, *work: Any) -> None:
    """Return when one of these is done; a number is a time in microseconds."""
    sleeping = [asyncio.ensure_future(clock.sleep(item)) for item in work if isinstance(item, int)]
    try:
        others = [item for item in work if not isinstance(item, int)]
        await asyncio.wait([*sleeping, *others], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in sleeping:
            one.cancel()


async def cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
