"""The peer of bench/coap.py: aiocoap's own server, with one resource that takes a POST and forgets it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiocoap
from aiocoap import resource


class Sink(resource.Resource):  # type: ignore[misc]
    async def render_post(self, _request: Any) -> Any:
        return aiocoap.Message(code=aiocoap.CHANGED)


async def main(port: int) -> None:
    site = resource.Site()
    site.add_resource(["events"], Sink())
    await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port), transports=["simplesocketserver"])
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
