"""The API of devices."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_runtime.errors import EdgeError
from edge_runtime.planes.http import guarded, lines, read, reply
from edge_runtime.planes.inventory import Importing, Inventory, NewConfig, NewDevice, NewKey, Ordering, Tagging

MAX_IMPORT = 64 << 20


def routes(inventory: Inventory) -> list[Route]:
    """All routes below `/devices`, and `/devices-export` and `/devices-import`, which no device is called."""
    registry = inventory.registry

    def named(request: Request) -> str:
        return str(request.path_params["device"])

    async def rows(_: Request) -> Response:
        return reply(inventory.rows())

    async def add(request: Request) -> Response:
        return reply(await inventory.add(await read(request, NewDevice)), 201)

    async def show(request: Request) -> Response:
        return reply(await inventory.detail(named(request)))

    async def remove(request: Request) -> Response:
        await inventory.remove(named(request))
        return reply(inventory.rows())

    async def rotate(request: Request) -> Response:
        return reply(await inventory.rotate(named(request)))

    async def add_key(request: Request) -> Response:
        return reply(await inventory.add_key(named(request), await read(request, NewKey)), 201)

    async def remove_key(request: Request) -> Response:
        await registry.remove_key(named(request), request.path_params["key"])
        return reply(await inventory.detail(named(request)))

    async def block(request: Request) -> Response:
        await registry.block(named(request))
        return reply(await inventory.detail(named(request)))

    async def unblock(request: Request) -> Response:
        await registry.unblock(named(request))
        return reply(await inventory.detail(named(request)))

    async def tag(request: Request) -> Response:
        await registry.tag(named(request), (await read(request, Tagging)).tags)
        return reply(await inventory.detail(named(request)))

    async def order(request: Request) -> Response:
        return reply(await inventory.order(named(request), await read(request, Ordering)), 201)

    async def orders(request: Request) -> Response:
        registry.info(named(request))
        return reply(inventory.orders.of(named(request)))

    async def config(request: Request) -> Response:
        version = request.query_params.get("version", "0")
        if not version.isdecimal() or len(version) > 9:
            raise EdgeError("'version' is a number")
        return reply(await inventory.config(named(request), int(version)))

    async def configure(request: Request) -> Response:
        return reply(await inventory.configure(named(request), await read(request, NewConfig)), 201)

    async def states(request: Request) -> Response:
        return reply(await inventory.states(named(request)))

    async def export(_: Request) -> Response:
        return lines(inventory.exported())

    async def take_in(request: Request) -> Response:
        return reply(await inventory.take_in(await read(request, Importing, MAX_IMPORT)))

    return [
        Route("/devices", guarded(rows)),
        Route("/devices", guarded(add), methods=["POST"]),
        Route("/devices-export", guarded(export)),
        Route("/devices-import", guarded(take_in), methods=["POST"]),
        Route("/devices/{device}", guarded(show)),
        Route("/devices/{device}", guarded(remove), methods=["DELETE"]),
        Route("/devices/{device}/key", guarded(rotate), methods=["POST"]),
        Route("/devices/{device}/keys", guarded(add_key), methods=["POST"]),
        Route("/devices/{device}/keys/{key}", guarded(remove_key), methods=["DELETE"]),
        Route("/devices/{device}/block", guarded(block), methods=["POST"]),
        Route("/devices/{device}/unblock", guarded(unblock), methods=["POST"]),
        Route("/devices/{device}/tags", guarded(tag), methods=["POST"]),
        Route("/devices/{device}/config", guarded(config)),
        Route("/devices/{device}/config", guarded(configure), methods=["POST"]),
        Route("/devices/{device}/states", guarded(states)),
        Route("/devices/{device}/commands", guarded(orders)),
        Route("/devices/{device}/commands", guarded(order), methods=["POST"]),
    ]
