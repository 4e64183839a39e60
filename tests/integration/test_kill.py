"""kill -9 of the whole gateway under load, ten times at random moments: nothing is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_runtime.planes.client import Client as Api
from edge_runtime.planes.client import NotRunning
from tests.ingress.mqtt_house import Client, connect_packet, event_packet, subscribe_packet

KILLS = 10
BOARDS = 8
APP = """
from edge import App
app = App("load")

@app.on("climate", where="n % 2 == 0")
def answer(event, ctx):
    ctx.command(event.device, "fan", {"n": event.data["n"]}, expires="10m")

@app.on("climate", where="n % 3 == 0")
def emit(event, ctx):
    ctx.emit("third", {"n": event.data["n"]})
"""


class Board:
    """Sends one event after the other and never forgets one before it is acknowledged. Does not answer commands."""

    def __init__(self, name: str, key: str, port: int) -> None:
        self.name = name
        self.key = key
        self.port = port
        self.acknowledged: list[int] = []

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                client = Client(reader, writer)
                try:
                    await self._talk(client, stop)
                finally:
                    client.close()
            await asyncio.sleep(0.02)

    async def _talk(self, client: Client, stop: asyncio.Event) -> None:
        client.send(connect_packet(self.name, self.key), subscribe_packet(9, (f"/devices/{self.name}/commands/#", 1)))
        seq = len(self.acknowledged)
        sent = False
        while not stop.is_set():
            packet = await client.receive()
            if not packet:
                return
            if packet[0] >> 4 == 3:
                continue
            if packet[0] >> 4 == 4:
                self.acknowledged.append(seq)
                seq += 1
                sent = False
            if not sent and packet[0] >> 4 in (4, 9):
                client.send(event_packet(seq, {"n": seq}, device=self.name))
                sent = True


class Gateway:
    """The gateway's process, on one port over all its lives."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.config = folder / "edge.toml"
        self.config.write_text(f'[mqtt]\nlisten = "127.0.0.1:{self.port}"\n[functions]\nexecutors = 1\n')
        self.log = folder / "gateway.log"
        self.socket = folder / "data" / "edge.sock"

    async def start(self) -> None:
        self.api = Api(self.socket)
        with self.log.open("a") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "edge_runtime.cli", "run", "--config", str(self.config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(60):
            while self.process.returncode is None:
                try:
                    await asyncio.to_thread(self.api.status)
                except NotRunning:
                    await asyncio.sleep(0.02)
                else:
                    return
        raise AssertionError(self.log.read_text())

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        self.api.close()

    async def settled(self) -> None:
        async with asyncio.timeout(60):
            while True:
                status = await asyncio.to_thread(self.api.status)
                if all(row.lag == 0 for row in status.flows):
                    return
                await asyncio.sleep(0.05)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(tmp_path)
    await gateway.start()
    yield gateway
    await gateway.kill()


@pytest.mark.timeout(300)
async def test_ten_kills_under_load(gateway: Gateway) -> None:
    rng = random.Random(20)
    keys = {f"b{n}": (await asyncio.to_thread(gateway.api.add_device, f"b{n}")).key for n in range(BOARDS)}
    await asyncio.to_thread(gateway.api.deploy, {"load.py": APP.encode()})
    boards = [Board(name, key, gateway.port) for name, key in keys.items()]
    stop = asyncio.Event()
    running = [asyncio.ensure_future(board.run(stop)) for board in boards]
    for _ in range(KILLS):
        goal = sum(len(board.acknowledged) for board in boards) + rng.randint(20, 400)
        async with asyncio.timeout(60):
            while sum(len(board.acknowledged) for board in boards) < goal:
                await asyncio.sleep(rng.uniform(0.001, 0.02))
        await gateway.kill()
        await gateway.start()
    stop.set()
    await asyncio.gather(*running)
    await gateway.settled()
    lines = await asyncio.to_thread(lambda: list(gateway.api.tail(-1, follow=False)))

    events = Counter((line.device, line.data["n"]) for line in lines if line.type == "event" and not line.cause)
    acknowledged = {(board.name, n) for board in boards for n in board.acknowledged}
    assert acknowledged <= events.keys(), "an acknowledged event is lost"
    assert set(events.values()) == {1}, "an event is there twice"
    commands = Counter((line.device, line.data["n"]) for line in lines if line.type == "command")
    assert commands == Counter(event for event in events if event[1] % 2 == 0)
    emitted = Counter((line.device, line.data["n"]) for line in lines if line.type == "event" and line.cause)
    assert emitted == Counter(event for event in events if event[1] % 3 == 0)
    for board in boards:
        mine = [line.data["n"] for line in lines if line.type == "command" and line.device == board.name]
        assert mine == sorted(mine), "order per device"
