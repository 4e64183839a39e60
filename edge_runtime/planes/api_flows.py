"""The API of the control plane: verbs on flows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_runtime.planes.control import FlowControl, ReplayRequest, Rewind
from edge_runtime.planes.http import guarded, read, reply


class Scale(msgspec.Struct, forbid_unknown_fields=True):
    """How many batches of a flow may be under way at a time."""

    lanes: int


class Limit(msgspec.Struct, forbid_unknown_fields=True):
    """Events a second that may pass; None for no limit."""

    rate: float | None


class Release(msgspec.Struct, forbid_unknown_fields=True):
    """A partition key that is held back."""

    key: str


def routes(control: FlowControl) -> list[Route]:
    """All routes below `/flows`."""

    async def every(_: Request) -> Response:
        return reply(await control.all())

    async def pause(request: Request) -> Response:
        return reply(await control.pause(_flow(request)))

    async def resume(request: Request) -> Response:
        return reply(await control.resume(_flow(request)))

    async def rewind(request: Request) -> Response:
        return reply(await control.rewind(_flow(request), await read(request, Rewind)))

    async def bootstrap(request: Request) -> Response:
        return reply(await control.bootstrap(_flow(request)))

    async def replay(request: Request) -> Response:
        return reply(await control.replay(_flow(request), await read(request, ReplayRequest)))

    async def scale(request: Request) -> Response:
        return reply(await control.scale(_flow(request), (await read(request, Scale)).lanes))

    async def rate(request: Request) -> Response:
        return reply(await control.limit(_flow(request), (await read(request, Limit)).rate))

    async def release(request: Request) -> Response:
        return reply(await control.release(_flow(request), (await read(request, Release)).key))

    def verb(name: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(f"/flows/{{flow}}/{name}", guarded(handler), methods=["POST"])

    return [
        Route("/flows", guarded(every)),
        verb("pause", pause),
        verb("resume", resume),
        verb("rewind", rewind),
        verb("bootstrap", bootstrap),
        verb("replay", replay),
        verb("scale", scale),
        verb("rate", rate),
        verb("release", release),
    ]


def _flow(request: Request) -> str:
    name: str = request.path_params["flow"]
    return name
