"""The API's socket where something else is in its place."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from edge_runtime.errors import EdgeError
from edge_runtime.planes.api import ApiServer, _listen
from edge_runtime.planes.messages import Line


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: the paths of sockets are limited."""
    with tempfile.TemporaryDirectory() as short:
        yield Path(short)


def test_a_folder_in_its_place_is_a_sentence(folder: Path) -> None:
    path = folder / "edge.sock"
    path.mkdir()
    with pytest.raises(EdgeError, match="cannot be made: it is a folder") as caught:
        _listen(path)
    assert "gateway.data" in caught.value.hint
    assert path.is_dir()


def test_a_folder_that_is_missing_is_a_sentence(folder: Path) -> None:
    with pytest.raises(EdgeError, match="cannot be made: No such file"):
        _listen(folder / "gone" / "edge.sock")


def test_what_a_gateway_that_is_gone_left_there_is_replaced(folder: Path) -> None:
    path = folder / "edge.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with _listen(path):
        assert path.is_socket()
        with pytest.raises(EdgeError, match="is running on"):
            _listen(path)


async def test_who_follows_the_journal_is_let_go_when_the_gateway_stops(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def tail(after: int | None, follow: bool) -> AsyncIterator[Line]:
        yield Line(7, "event", 0, "gh-1", "", "climate")
        await asyncio.Event().wait()

    parts = dict.fromkeys(("deployments", "control", "fleet", "secrets", "mqtt_users", "letters", "lineage"))
    house = SimpleNamespace(tail=tail, inventory=SimpleNamespace(registry=None), **parts)
    server = ApiServer(cast(Any, house), folder / "edge.sock")
    await server.start()
    caplog.set_level(logging.WARNING)
    transport = httpx.AsyncHTTPTransport(uds=str(folder / "edge.sock"))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://edge") as client,
        client.stream("GET", "/tail", params={"follow": "1"}) as response,
    ):
        lines = response.aiter_lines()
        assert '"offset":7' in await anext(lines)
        stopping = asyncio.create_task(server.stop())
        assert [line async for line in lines] == []
        await stopping
    assert caplog.messages == []
