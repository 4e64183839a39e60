"""The API of the operational plane: dead letters and lineage."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_runtime.flows.deadletters import DeadLetters, Selection
from edge_runtime.flows.lineage import Lineage
from edge_runtime.planes.control import FlowControl
from edge_runtime.planes.http import asked, guarded, lines, read, reply
from edge_runtime.planes.moments import Moment


class Which(msgspec.Struct, forbid_unknown_fields=True):
    """Which dead letters are listed."""

    flow: str = ""
    device: str = ""
    reason: str = ""
    limit: int = 100

    def selection(self) -> Selection:
        """Without the limit."""
        return Selection([], True, self.flow, self.device, self.reason)


class TraceRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The lineage of an event or command; with `since`, only what is newer is searched for it."""

    id: str
    since: Moment | None = None


def routes(letters: DeadLetters, lineage: Lineage, control: FlowControl) -> list[Route]:
    """`/dead` and what is below it, and `/trace`."""

    async def every(request: Request) -> Response:
        which = asked(request, Which)
        return reply(await letters.newest(which.selection(), which.limit))

    async def export(request: Request) -> Response:
        selection = asked(request, Which).selection()
        await letters.newest(selection, 0)  # A flow that is not there is said before the first line.
        return lines(letters.export(selection))

    async def show(request: Request) -> Response:
        return reply(await letters.show(request.path_params["offset"]))

    async def retry(request: Request) -> Response:
        return reply(await letters.retry(await read(request, Selection)))

    async def drop(request: Request) -> Response:
        return reply(await letters.drop(await read(request, Selection)))

    async def trace(request: Request) -> Response:
        wanted = await read(request, TraceRequest)
        since = None if wanted.since is None else await control.offset(wanted.since)
        return reply(await lineage.trace(wanted.id, since))

    return [
        Route("/dead", guarded(every)),
        Route("/dead/export", guarded(export)),
        Route("/dead/retry", guarded(retry), methods=["POST"]),
        Route("/dead/drop", guarded(drop), methods=["POST"]),
        Route("/dead/{offset:int}", guarded(show)),
        Route("/trace", guarded(trace), methods=["POST"]),
    ]
