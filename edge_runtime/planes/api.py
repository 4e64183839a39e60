"""The gateway's API: typed JSON messages over HTTP, on a Unix socket that only its owner can open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_runtime.errors import EdgeError
from edge_runtime.planes import api_apps, api_devices, api_flows, api_operations, api_ota, api_secrets, api_users
from edge_runtime.planes.exposition import MEDIA_TYPE, exposition
from edge_runtime.planes.house import House
from edge_runtime.planes.http import guarded, lines, read, reply, until
from edge_runtime.planes.messages import Backup, Deploy, Lend, Lent
from edge_runtime.planes.scaling import AlertMessage

MAX_DEPLOY = 12 << 20
"""Bytes of a request with an app: its 8 MiB in base64, and the names."""


def application(house: House, closing: asyncio.Event | None = None) -> Starlette:
    """The routes, over any `House`; what is followed ends when `closing` is set."""
    closing = closing or asyncio.Event()

    async def status(_: Request) -> Response:
        return reply(house.status())

    async def health(_: Request) -> Response:
        return reply(house.health())

    async def metrics(_: Request) -> Response:
        return Response(exposition(house.status(), house.apps()), media_type=MEDIA_TYPE)

    async def apps(_: Request) -> Response:
        return reply(house.apps())

    async def decisions(request: Request) -> Response:
        return reply(house.scaling.of(request.path_params["app"]))

    async def alert(request: Request) -> Response:
        return reply(house.scaling.alert(request.path_params["app"], await read(request, AlertMessage)))

    async def deploy(request: Request) -> Response:
        return reply(await house.deploy(await read(request, Deploy, MAX_DEPLOY)))

    async def app_token(request: Request) -> Response:
        return reply(await house.app_token(request.path_params["app"]), 201)

    async def backup(request: Request) -> Response:
        to = Path((await read(request, Backup)).to)
        if not to.is_absolute():
            raise EdgeError("a backup's folder is named by an absolute path")
        return reply(await house.backup(to), 201)

    async def lend(request: Request) -> Response:
        asked = await read(request, Lend)
        return reply(Lent(house.lend_port(asked.path, asked.seconds)))

    async def tail(request: Request) -> Response:
        after = request.query_params.get("after")
        if after is not None and not after.lstrip("-").isdigit():
            raise EdgeError("'after' is the offset of a record")
        follow = request.query_params.get("follow") == "1"
        return lines(until(closing, house.tail(None if after is None else int(after), follow)))

    return Starlette(
        routes=[
            Route("/status", guarded(status)),
            Route("/health", guarded(health)),
            Route("/metrics", guarded(metrics)),
            Route("/apps", guarded(apps)),
            Route("/apps", guarded(deploy), methods=["POST"]),
            Route("/apps/{app}/decisions", guarded(decisions)),
            Route("/apps/{app}/alert", guarded(alert), methods=["POST"]),
            Route("/apps/{app}/token", guarded(app_token), methods=["POST"]),
            Route("/backup", guarded(backup), methods=["POST"]),
            Route("/ports/lend", guarded(lend), methods=["POST"]),
            Route("/tail", guarded(tail)),
            *api_apps.routes(house.deployments),
            *api_devices.routes(house.inventory),
            *api_flows.routes(house.control),
            *api_ota.routes(house.fleet),
            *api_secrets.routes(house.secrets),
            *api_users.routes(house.mqtt_users),
            *api_operations.routes(house.letters, house.lineage, house.control),
        ]
    )


class _Server(uvicorn.Server):
    """uvicorn inside our loop: signals are the daemon's own business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ApiServer:
    """Serves the API on a Unix socket, readable and writable by its owner alone."""

    def __init__(self, house: House, path: Path) -> None:
        self._path = path
        self._closing = asyncio.Event()
        app = application(house, self._closing)
        config = uvicorn.Config(app, log_config=None, lifespan="off", access_log=False, timeout_graceful_shutdown=1)
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
            self._closing.set()
            await self._task
        self._path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """What a gateway that is gone has left there."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        what = "it is a folder" if path.is_dir() else error.strerror
        hint = "Move away what is there, or choose another gateway.data."
        raise EdgeError(f"the API socket {path} cannot be made: {what}", hint=hint) from None


def _listen(path: Path) -> socket.socket:
    if len(str(path).encode()) > 100:
        raise EdgeError(f"the path of the API socket is too long: {path}", hint="Choose a shorter gateway.data.")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            _remove(path)
        else:
            raise EdgeError(f"a gateway is running on {path.parent} already", hint="Stop it first, or use it.")
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise EdgeError(f"the API socket {path} cannot be made: {error.strerror}") from None
    finally:
        os.umask(before)
    listener.listen(64)
    listener.setblocking(False)
    return listener
