"""The API of MQTT users: programs with the `app` profile."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_runtime.ingress.apps import Apps
from edge_runtime.planes.http import guarded, read, reply


class NewUser(msgspec.Struct, forbid_unknown_fields=True):
    """A user is to be added."""

    name: str
    publish: list[str] = []
    subscribe: list[str] = []


class Allowed(msgspec.Struct, forbid_unknown_fields=True):
    """A user's topics, in the place of those that it had."""

    publish: list[str] = []
    subscribe: list[str] = []


class UserKey(msgspec.Struct):
    """A new user's key, which is shown this once."""

    name: str
    key: str


def routes(apps: Apps) -> list[Route]:
    """All routes below `/users`."""

    async def users(_: Request) -> Response:
        return reply(apps.rows())

    async def add(request: Request) -> Response:
        new = await read(request, NewUser)
        return reply(UserKey(new.name, await apps.add(new.name, new.publish, new.subscribe)), 201)

    async def allow(request: Request) -> Response:
        to = await read(request, Allowed)
        return reply(await apps.allow(request.path_params["user"], to.publish, to.subscribe))

    async def remove(request: Request) -> Response:
        await apps.remove(request.path_params["user"])
        return reply(apps.rows())

    return [
        Route("/users", guarded(users)),
        Route("/users", guarded(add), methods=["POST"]),
        Route("/users/{user}", guarded(allow), methods=["PUT"]),
        Route("/users/{user}", guarded(remove), methods=["DELETE"]),
    ]
