"""CoAP at a real gateway that is killed again and again: what got its 2.04 is in the log, once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_runtime.planes.client import Client as Api
from edge_runtime.planes.client import NotRunning
from edge_runtime.proto import coap
from edge_runtime.proto.coap import Message, numbers
from tests.ingress.coap_house import Options
from tests.ingress.mqtt_house import event_payload

KILLS = 4
BOARDS = 6
REPEAT = 0.5
"""Seconds after which a board sends again: shorter than ACK_TIMEOUT, for the test's sake."""


class Gateway:
    """The gateway's process, on one port over all its lives."""

    def __init__(self, folder: Path) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.config = folder / "edge.toml"
        self.config.write_text(
            f'[mqtt]\nlisten = "127.0.0.1:0"\n[coap]\nlisten = "127.0.0.1:{self.port}"\n[functions]\nexecutors = 1\n'
        )
        self.log = folder / "gateway.log"
        self.api = Api(folder / "data" / "edge.sock")
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        command = [sys.executable, "-m", "edge_runtime.cli", "run", "--config", str(self.config)]
        with self.log.open("a") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        async with asyncio.timeout(90):
            while True:
                try:
                    await asyncio.to_thread(self.api.status)
                    return
                except NotRunning:
                    assert self.process.returncode is None, self.log.read_text()[-2000:]
                    await asyncio.sleep(0.05)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(tmp_path)
    await gateway.start()
    yield gateway
    await gateway.kill()
    gateway.api.close()


async def board(name: str, key: str, port: int, acknowledged: list[int], stop: asyncio.Event) -> None:
    """Post one event after the other, and again until each is answered, as a board with a spool does."""
    loop = asyncio.get_running_loop()
    options = Options.post(f"devices/{name}/events/climate", f"k={key}", form=65_000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        seq = 0
        while not stop.is_set():
            request = Message(numbers.CON, numbers.POST, seq & 0xFFFF, b"t", options, event_payload(seq))
            with contextlib.suppress(OSError, TimeoutError):
                sock.send(coap.encode(request))
                async with asyncio.timeout(REPEAT):
                    answer = coap.decode(await loop.sock_recv(sock, 2048))
                if answer.mid == request.mid and answer.code == numbers.CHANGED:
                    acknowledged.append(seq)
                    seq += 1
                continue
            await asyncio.sleep(0.02)


async def test_what_got_its_204_is_in_the_log_once_whenever_the_gateway_is_killed(gateway: Gateway) -> None:
    names = [f"board-{number}" for number in range(BOARDS)]
    keys = {name: (await asyncio.to_thread(gateway.api.add_device, name)).key for name in names}
    acknowledged: dict[str, list[int]] = {name: [] for name in names}
    stop = asyncio.Event()

    async def progress(count: int) -> None:
        goal = {name: len(found) + count for name, found in acknowledged.items()}
        async with asyncio.timeout(60):
            while any(len(acknowledged[name]) < least for name, least in goal.items()):
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(board(name, keys[name], gateway.port, acknowledged[name], stop))
        for number in range(KILLS):
            await progress(20 + 13 * number)
            await gateway.kill()
            await gateway.start()
        await progress(10)
        stop.set()
    status = await asyncio.to_thread(gateway.api.status)
    assert status.coap == f"127.0.0.1:{gateway.port}"
    assert status.coap_door["acknowledged"] > 0
    lines = await asyncio.to_thread(lambda: list(gateway.api.tail(-1, follow=False)))
    stored = Counter(line.id for line in lines if line.type == "event")
    assert set(stored.values()) == {1}
    boot = "f00d000102030405"
    expected = {f"{name}/{boot}/{seq}" for name, found in acknowledged.items() for seq in found}
    assert expected <= set(stored)
    # Besides, one event of each board may be stored whose answer was lost with the gateway.
    assert len(stored) <= len(expected) + BOARDS
