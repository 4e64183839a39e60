"""What all parts of the API share: messages in, messages out, errors as messages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from edge_runtime.errors import EdgeError, NotFound
from edge_runtime.planes.messages import Problem

MAX_BODY = 8 << 20
"""Bytes of a request, unless its handler says otherwise."""

M = TypeVar("M", bound=msgspec.Struct)
Handler = Callable[[Request], Awaitable[Response]]

encode = msgspec.json.Encoder().encode
_log = logging.getLogger("edge.api")


def reply(message: object, status: int = 200) -> Response:
    """A message as a response."""
    return Response(encode(message), status, media_type="application/json")


def lines(messages: AsyncIterator[object]) -> Response:
    """Messages as lines of JSON, as they come."""

    async def ndjson() -> AsyncIterator[bytes]:
        async for item in messages:
            yield encode(item) + b"\n"

    return StreamingResponse(ndjson(), media_type="application/x-ndjson")


async def until(closing: asyncio.Event, messages: AsyncIterator[M]) -> AsyncIterator[M]:
    """Messages until the server closes: who follows them is let go, not cut off."""
    closed = asyncio.ensure_future(closing.wait())
    try:
        while True:
            item = asyncio.ensure_future(anext(messages))
            await asyncio.wait({item, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not item.done():
                item.cancel()
                await asyncio.wait({item})
                return
            try:
                yield item.result()
            except StopAsyncIteration:
                return
    finally:
        closed.cancel()


async def read(request: Request, kind: type[M], limit: int = MAX_BODY) -> M:
    """The request's message; raises EdgeError for one of more than `limit` bytes, or not of this kind."""
    too_large = EdgeError(f"the request is larger than {limit >> 20} MiB")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except msgspec.MsgspecError as error:
        raise EdgeError(f"the request is not a valid {kind.__name__}: {error}") from error


def asked(request: Request, kind: type[M]) -> M:
    """The request's query as a message."""
    query = request.query_params
    found = {name: query.getlist(name) if len(query.getlist(name)) > 1 else query[name] for name in query}
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        raise EdgeError(f"the query is not a valid {kind.__name__}: {error}") from error


def guarded(handler: Handler) -> Handler:
    """Errors become messages; what is our own defect is logged here and only named there."""

    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except NotFound as error:
            return reply(Problem(str(error), error.hint), 404)
        except EdgeError as error:
            return reply(Problem(str(error), error.hint), 400)
        except Exception:
            _log.exception("the API failed on %s %s", request.method, request.url.path)
            return reply(Problem("the gateway failed inside; its log has the details"), 500)

    return guarded
