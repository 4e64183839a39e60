"""The operator's opt-in, through a whole gateway: a table of edge.toml, and numpy in a function."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_runtime.errors import DeployError
from tests.ingress.mqtt_house import event_packet

from .test_gateway import GOOD, PUBACK, Site

pytest.importorskip("numpy")

NATIVE = """
[apps.spectrum]
tier = "native"
preload = ["numpy"]
time_limit = "2s"
memory_limit = "128MiB"
"""

SPECTRUM = """
import numpy as np
from edge import App
app = App("spectrum")

@app.on("climate")
def loudest(event, ctx):
    found = np.abs(np.fft.rfft(np.asarray(event.data["n"], dtype=float)))
    ctx.emit("loudest", int(found.argmax()))
"""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path, NATIVE)
    await site.start()
    yield site
    await site.stop()


async def test_an_app_of_the_native_tier_serves_the_events_of_boards(site: Site) -> None:
    await site.deploy(SPECTRUM, "spectrum.py")
    device = await site.device("d")
    device.send(event_packet(0, {"n": [0, 1, 0, -1] * 8}))
    assert (await device.receive())[:2] == PUBACK
    found = await site.until("event", lambda lines: any(line.name == "loudest" for line in lines))
    assert [line.data for line in found if line.name == "loudest"] == [8]
    status = site.gateway.status()
    assert any(text.startswith("in force around native functions, which have no other wall: ") for text in status.jail)
    assert any(text.startswith("in force: ") for text in status.jail)


async def test_an_app_that_the_operator_did_not_name_stays_in_the_sandbox(site: Site) -> None:
    with pytest.raises(DeployError, match="No module named 'numpy'"):
        await site.deploy(SPECTRUM.replace('"spectrum"', '"other"'), "spectrum.py")
    # Nor does it help to say that name somewhere: the app is loaded again for what it turns out to be.
    feint = '# App("spectrum")\n' + GOOD
    await site.deploy(feint, "feint.py")
    assert not [found for found in site.gateway.platform.report().executors if found.engine == "native" and found.apps]


async def test_a_native_app_is_there_again_after_a_restart_and_not_after_a_change_of_mind(site: Site) -> None:
    await site.deploy(SPECTRUM, "spectrum.py")
    await site.gateway.stop()
    await site.start()
    device = await site.device("d")
    device.send(event_packet(0, {"n": [1, 1]}))
    await site.until("event", lambda lines: any(line.name == "loudest" for line in lines))
    await site.gateway.stop()
    allowed, site.config = site.config, Site(site.folder).config
    await site.start()
    assert "edge.toml no longer says that it may" in site.gateway.status().health.words
    await site.gateway.stop()
    site.config = allowed
    await site.start()
    assert site.gateway.status().health.state == "ok"
