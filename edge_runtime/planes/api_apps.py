"""The API of apps that are there: their versions, and the way back."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_runtime.planes.deployments import Deployments, Rollback
from edge_runtime.planes.http import guarded, read, reply
from edge_runtime.planes.rehearsal import AppReplay


def routes(deployments: Deployments) -> list[Route]:
    """All routes below `/apps/{app}` that deal with versions."""

    async def versions(request: Request) -> Response:
        return reply(await deployments.versions(_app(request)))

    async def rollback(request: Request) -> Response:
        return reply(await deployments.rollback(_app(request), await read(request, Rollback)))

    async def replay(request: Request) -> Response:
        return reply(await deployments.replay(_app(request), await read(request, AppReplay)))

    async def explain(request: Request) -> Response:
        return reply(await deployments.explain(_app(request), request.query_params.get("version", "")))

    return [
        Route("/apps/{app}/explain", guarded(explain)),
        Route("/apps/{app}/replay", guarded(replay), methods=["POST"]),
        Route("/apps/{app}/versions", guarded(versions)),
        Route("/apps/{app}/rollback", guarded(rollback), methods=["POST"]),
    ]


def _app(request: Request) -> str:
    name: str = request.path_params["app"]
    return name
