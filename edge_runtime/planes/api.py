"""The gateway's API: typed JSON messages over HTTP, on a Unix socket that only its owner can open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from edge_runtime.errors import EdgeError, NotFound
from edge_runtime.planes.house import House
from edge_runtime.planes.messages import AddDevice, Deploy, Problem

MAX_BODY = 8 << 20
"""Bytes of a request: an app's sources fit many times over."""

M = TypeVar("M", AddDevice, Deploy)

_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("edge.api")


def _reply(message: object, status: int = 200) -> Response:
    return Response(_encode(message), status, media_type="application/json")


async def _read(request: Request, kind: type[M]) -> M:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise EdgeError(f"the request is larger than {MAX_BODY >> 20} MiB")
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except msgspec.MsgspecError as error:
        raise EdgeError(f"the request is not a valid {kind.__name__}: {error}") from error


def application(house: House) -> Starlette:
    """The routes, over any `House`."""

    async def status(_: Request) -> Response:
        return _reply(house.status())

    async def devices(_: Request) -> Response:
        return _reply(house.devices())

    async def add_device(request: Request) -> Response:
        message = await _read(request, AddDevice)
        return _reply(await house.add_device(message.device), 201)

    async def rotate_key(request: Request) -> Response:
        return _reply(await house.rotate_key(request.path_params["device"]))

    async def apps(_: Request) -> Response:
        return _reply(house.apps())

    async def deploy(request: Request) -> Response:
        return _reply(await house.deploy(await _read(request, Deploy)))

    async def tail(request: Request) -> Response:
        after = request.query_params.get("after")
        if after is not None and not after.lstrip("-").isdigit():
            raise EdgeError("'after' is the offset of a record")
        lines = house.tail(None if after is None else int(after), request.query_params.get("follow") == "1")

        async def ndjson() -> AsyncIterator[bytes]:
            async for item in lines:
                yield _encode(item) + b"\n"

        return StreamingResponse(ndjson(), media_type="application/x-ndjson")

    return Starlette(
        routes=[
            Route("/status", _guarded(status)),
            Route("/devices", _guarded(devices)),
            Route("/devices", _guarded(add_device), methods=["POST"]),
            Route("/devices/{device}/key", _guarded(rotate_key), methods=["POST"]),
            Route("/apps", _guarded(apps)),
            Route("/apps", _guarded(deploy), methods=["POST"]),
            Route("/tail", _guarded(tail)),
        ]
    )


Handler = Callable[[Request], Awaitable[Response]]


def _guarded(handler: Handler) -> Handler:
    """Errors become messages; what is our own defect is logged here and only named there."""

    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except NotFound as error:
            return _reply(Problem(str(error), error.hint), 404)
        except EdgeError as error:
            return _reply(Problem(str(error), error.hint), 400)
        except Exception:
            _log.exception("the API failed on %s %s", request.method, request.url.path)
            return _reply(Problem("the gateway failed inside; its log has the details"), 500)

    return guarded


class _Server(uvicorn.Server):
    """uvicorn inside our loop: signals are the daemon's own business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ApiServer:
    """Serves the API on a Unix socket, readable and writable by its owner alone."""

    def __init__(self, house: House, path: Path) -> None:
        self._path = path
        config = uvicorn.Config(
            application(house), log_config=None, lifespan="off", access_log=False, timeout_graceful_shutdown=1
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises EdgeError if a gateway answers there already."""
        listener = _listen(self._path)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="api")
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Stop listening and remove the socket."""
        if self._task is not None:
            self._server.should_exit = True
            await self._task
        self._path.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    if len(str(path).encode()) > 100:
        raise EdgeError(f"the path of the API socket is too long: {path}", hint="Choose a shorter gateway.data.")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
        else:
            raise EdgeError(f"a gateway is running on {path.parent} already", hint="Stop it first, or use it.")
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(64)
    listener.setblocking(False)
    return listener
