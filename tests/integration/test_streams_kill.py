"""kill -9 of the stream worker and of the whole gateway under load: every reading is in one window, and once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cbor2
import pytest

from edge_runtime.planes.messages import Line
from edge_runtime.proto import mqtt
from tests.ingress.mqtt_house import BOOT
from tests.integration import test_kill
from tests.integration.test_kill import Board, Gateway

APP = """
from edge import App, collect, count
app = App("w")

@app.window("climate", every="500ms", lateness="1h", idle="1s", compute={"n": count(), "all": collect("n", 1000)})
def window(pane, ctx):
    ctx.emit("window", {"key": pane.key, "n": pane.values["n"], "all": pane.values["all"]["items"]})

@app.window("climate", gap="300ms", by="", lateness="1h", idle="1s", compute={"n": count()})
def session(pane, ctx):
    ctx.emit("session", {"n": pane.values["n"]})
"""


@pytest.fixture
async def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    taken: dict[tuple[str, int], int] = {}

    def packet(seq: int, data: Any = None, *, device: str = "d", qos: int = 1) -> bytes:
        """Taken now, and the same when it is sent again."""
        moment = taken.setdefault((device, seq), time.time_ns() // 1000)
        payload = cbor2.dumps({0: BOOT, 1: seq, 2: moment, 4: data})
        return mqtt.publish(f"/devices/{device}/events/climate", payload, qos=qos, packet_id=seq % 65_535 + 1)

    monkeypatch.setattr(test_kill, "event_packet", packet)
    gateway = Gateway(tmp_path)
    await gateway.start()
    yield gateway
    await gateway.kill()


def workers(gateway: Gateway) -> list[int]:
    """The stream worker's process."""
    found = []
    for entry in Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if b"edge_runtime.streams.worker" in Path(f"/proc/{entry}/cmdline").read_bytes():
                found.append(int(entry))
    return found


@pytest.mark.timeout(300)
async def test_every_reading_is_in_one_window(gateway: Gateway) -> None:
    keys = {f"b{n}": (await asyncio.to_thread(gateway.api.add_device, f"b{n}")).key for n in range(3)}
    await asyncio.to_thread(gateway.api.deploy, {"w.py": APP.encode()})
    boards = [Board(name, key, gateway.port) for name, key in keys.items()]
    stop = asyncio.Event()
    running = [asyncio.ensure_future(board.run(stop)) for board in boards]
    for what in ("worker", "gateway", "worker", "gateway"):
        goal = sum(len(board.acknowledged) for board in boards) + 200
        async with asyncio.timeout(60):
            while sum(len(board.acknowledged) for board in boards) < goal or not workers(gateway):
                await asyncio.sleep(0.01)
        if what == "worker":
            for pid in workers(gateway):
                os.kill(pid, signal.SIGKILL)
        else:
            await gateway.kill()
            await gateway.start()
    stop.set()
    await asyncio.gather(*running)

    def lines() -> list[Line]:
        return [line for line in gateway.api.tail(-1, follow=False) if line.type == "event"]

    def counted(found: list[Line], name: str) -> int:
        return sum(line.data["n"] for line in found if line.name == name)

    async with asyncio.timeout(100):
        while True:
            found = await asyncio.to_thread(lines)
            readings = sum(line.name == "climate" for line in found)
            if min(counted(found, "window"), counted(found, "session")) >= readings:
                break
            await asyncio.sleep(0.2)
    assert counted(found, "window") == counted(found, "session") == readings
    seen = Counter((line.data["key"], n) for line in found if line.name == "window" for n in line.data["all"])
    assert set(seen.values()) == {1}
    assert len(seen) == readings >= sum(len(board.acknowledged) for board in boards) >= 800
