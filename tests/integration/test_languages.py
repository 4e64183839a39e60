"""Apps in other languages on a real gateway: deployed like any other, and answering boards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_runtime.planes.messages import Deploy
from tests.ingress.mqtt_house import Client, connect_packet, event_packet

from .test_gateway import PUBACK, Site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path, '[targets.cloud]\ntype = "http-cloudevents"\nurl = "http://127.0.0.1:9/"\n')
    await site.start()
    yield site
    await site.stop()


@pytest.fixture(params=["c", "assemblyscript", "javascript"])
def example(request: pytest.FixtureRequest) -> Path:
    """The example of each language, built."""
    path = request.getfixturevalue(f"{request.param}_module")
    assert isinstance(path, Path)
    return path


async def test_an_app_in_another_language_answers_a_board_and_keeps_state(site: Site, example: Path) -> None:
    source = Deploy({example.name: example.read_bytes()})
    checked = await site.gateway.deploy(Deploy(source.files, check=True))
    assert site.gateway.apps() == [], "a check changes nothing"
    deployed = await site.gateway.deploy(source)
    assert deployed.version == checked.version
    assert [trigger.name for trigger in deployed.triggers] == ["overheat", "average", "shape"]
    device = await site.device("d", listen=True)
    device.send(event_packet(0, {"temperature": 31.5}))
    received = [await device.receive() for _ in range(2)]
    assert any(packet[:2] == PUBACK for packet in received)
    assert any(b"/devices/d/commands/fan" in packet for packet in received)
    for seq in range(1, 6):
        device.send(event_packet(seq, {"temperature": 20}))
    await site.until("event", lambda lines: len(lines) >= 6)

    await site.gateway.stop()  # between the sixth reading and the seventh
    await site.start()
    assert [row.version for row in site.gateway.apps()] == [deployed.version]
    key = await site.gateway.rotate_key("d")
    reader, writer = await asyncio.open_connection("127.0.0.1", site.gateway.front.mqtt_port)
    again = Client(reader, writer)
    site.clients.append(again)
    again.send(connect_packet("d", key.key))
    assert await again.receive() == b"\x20\x02\0\0"
    for seq in range(6, 10):
        again.send(event_packet(seq, {"temperature": 20}))
    found = await site.until("event", lambda lines: any(line.name == "climate.mean" for line in lines))
    assert [line.data for line in found if line.name == "climate.mean"] == [{"temperature": 21.15}]
