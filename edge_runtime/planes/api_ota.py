"""The API of releases, roll-outs and what boards run."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from devices.ota import Ota
from devices.release_keys import public_pem
from devices.release_store import Package
from edge_runtime.errors import EdgeError
from edge_runtime.planes.fleet import Fleet, Resume, RollOut
from edge_runtime.planes.http import guarded, read, reply

MAX_PACKAGE = 8 << 20
"""Bytes of a request with a release: its 4 MiB in base64, and the names."""


class TrustedKey(msgspec.Struct):
    """A key whose releases are taken in."""

    name: str
    own: bool
    """It is the gateway's."""
    pem: str = ""


class Trusting(msgspec.Struct, forbid_unknown_fields=True):
    """Trust a public key, in PEM form."""

    pem: str


def routes(fleet: Fleet) -> list[Route]:
    """All routes below `/ota`."""

    def numbered(request: Request) -> int:
        text = str(request.path_params["number"])
        if not text.isdecimal() or len(text) > 10:
            raise EdgeError("a roll-out is named by its number", hint="See: edge ota status")
        return int(text)

    async def releases(_: Request) -> Response:
        return reply(fleet.releases())

    async def take_in(request: Request) -> Response:
        return reply(await fleet.take_in(await read(request, Package, MAX_PACKAGE)), 201)

    async def package(request: Request) -> Response:
        return reply(await fleet.package(request.path_params["name"], request.query_params.get("version", "")))

    async def remove(request: Request) -> Response:
        return reply(await fleet.remove(request.path_params["name"], request.query_params.get("version", "")))

    async def keys(_: Request) -> Response:
        return reply(await asyncio.to_thread(_keys, fleet.ota))

    async def trust(request: Request) -> Response:
        await asyncio.to_thread(fleet.ota.store.trust, (await read(request, Trusting)).pem.encode())
        return reply(await asyncio.to_thread(_keys, fleet.ota), 201)

    async def distrust(request: Request) -> Response:
        await asyncio.to_thread(fleet.ota.store.distrust, request.path_params["name"])
        return reply(await asyncio.to_thread(_keys, fleet.ota))

    async def rollouts(_: Request) -> Response:
        return reply(fleet.rollouts())

    async def rollout(request: Request) -> Response:
        return reply(fleet.rollout(numbered(request)))

    async def begin(request: Request) -> Response:
        return reply(await fleet.roll_out(await read(request, RollOut)), 201)

    async def pause(request: Request) -> Response:
        number = fleet.ota.rollout(numbered(request)).number
        await fleet.ota.pause(number)
        return reply(fleet.rollout(number))

    async def abort(request: Request) -> Response:
        number = fleet.ota.rollout(numbered(request)).number
        await fleet.ota.abort(number)
        return reply(fleet.rollout(number))

    async def resume(request: Request) -> Response:
        number = fleet.ota.rollout(numbered(request)).number
        await fleet.ota.resume(number, go_on=(await read(request, Resume)).go_on)
        return reply(fleet.rollout(number))

    async def rows(_: Request) -> Response:
        return reply(fleet.rows())

    return [
        Route("/ota/releases", guarded(releases)),
        Route("/ota/releases", guarded(take_in), methods=["POST"]),
        Route("/ota/releases/{name}", guarded(package)),
        Route("/ota/releases/{name}", guarded(remove), methods=["DELETE"]),
        Route("/ota/keys", guarded(keys)),
        Route("/ota/keys", guarded(trust), methods=["POST"]),
        Route("/ota/keys/{name}", guarded(distrust), methods=["DELETE"]),
        Route("/ota/rollouts", guarded(rollouts)),
        Route("/ota/rollouts", guarded(begin), methods=["POST"]),
        Route("/ota/rollouts/{number}", guarded(rollout)),
        Route("/ota/rollouts/{number}/pause", guarded(pause), methods=["POST"]),
        Route("/ota/rollouts/{number}/resume", guarded(resume), methods=["POST"]),
        Route("/ota/rollouts/{number}/abort", guarded(abort), methods=["POST"]),
        Route("/ota/fleet", guarded(rows)),
    ]


def _keys(ota: Ota) -> list[TrustedKey]:
    trusted = ota.store.trusted()
    own = next(iter(trusted))
    return [TrustedKey(name, name == own, public_pem(public)) for name, public in trusted.items()]
