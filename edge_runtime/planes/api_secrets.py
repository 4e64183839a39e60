"""The API of secrets: values go in, and never come out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_runtime.functions.secrets import Secrets
from edge_runtime.planes.http import guarded, read, reply
from edge_runtime.planes.messages import Secret


def routes(secrets: Secrets) -> list[Route]:
    """All routes below `/secrets`."""

    async def names(_: Request) -> Response:
        return reply(secrets.names())

    async def put(request: Request) -> Response:
        secrets.set(request.path_params["name"], (await read(request, Secret)).value)
        return reply(secrets.names())

    async def delete(request: Request) -> Response:
        secrets.remove(request.path_params["name"])
        return reply(secrets.names())

    return [
        Route("/secrets", guarded(names)),
        Route("/secrets/{name}", guarded(put), methods=["PUT"]),
        Route("/secrets/{name}", guarded(delete), methods=["DELETE"]),
    ]
