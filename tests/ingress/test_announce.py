"""The gateway is found by multicast DNS, by another resolver on this machine."""

from __future__ import annotations

import asyncio
import sys

import pytest

from edge_runtime.errors import EdgeError
from edge_runtime.ingress.announce import Announcer

zeroconf = pytest.importorskip("zeroconf", reason="the extra 'lan' is not installed")
LOOP = ["127.0.0.1"]


async def test_who_looks_finds_where_it_listens_until_it_stops() -> None:
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    announcer = await Announcer.start("my site", 8883, LOOP, tls=True, interfaces=LOOP)
    async with asyncio.timeout(30):
        async with AsyncZeroconf(interfaces=LOOP) as resolver:
            for service in ("_edge._tcp.local.", "_mqtt._tcp.local."):
                info = AsyncServiceInfo(service, f"my-site.{service}")
                assert await info.async_request(resolver.zeroconf, 10_000)
                assert (info.port, info.parsed_addresses()) == (8883, LOOP)
                assert info.decoded_properties["tls"] == "1"
                assert info.decoded_properties["gateway"] == "my site"
        await announcer.stop()


async def test_without_the_package_the_person_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with pytest.raises(EdgeError, match="not installed") as refused:
        await Announcer.start("site", 1, LOOP, tls=False, interfaces=LOOP)
    assert "edge-runtime[lan]" in refused.value.hint
