"""A gateway as a process, attached to a real mosquitto, killed while messages come: each event is there once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.planes.client import Client as Api
from edge_runtime.planes.client import NotRunning
from tests.ingress.mqtt_house import event_payload
from tests.ingress.test_attach import MOSQUITTO, Mosquitto, Publisher

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
START_LIMIT = 60.0


class Site:
    """A gateway's process and its broker."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        (folder / "edge.toml").write_text(
            f'[mqtt]\nlisten = "127.0.0.1:0"\n[functions]\nexecutors = 1\n[attach]\nurl = "mqtt://127.0.0.1:{port}"\n'
        )
        self.socket = folder / "data" / "edge.sock"
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        with (self.folder / "gateway.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge_runtime.cli", "run", "--config", str(self.folder / "edge.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

        def up() -> bool:
            assert self.process.poll() is None, (self.folder / "gateway.log").read_text()
            try:
                with Api(self.socket) as api:
                    return bool(api.status().attached["connected"])
            except NotRunning:
                return False

        self.until(up)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_LIMIT
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "gateway.log").read_text()
            time.sleep(0.05)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = Mosquitto(folder)
    asyncio.run(broker.start())
    yield broker
    broker.kill()


def test_nothing_is_lost_over_kills_of_the_gateway(tmp_path: Path, broker: Mosquitto) -> None:
    site = Site(tmp_path, broker.port)
    site.start()
    publisher = Publisher(broker.port)
    try:
        with Api(site.socket) as api:
            api.add_device("d")
        sent = 0
        for _ in range(2):
            for _ in range(30):
                asyncio.run(publisher.send("/devices/d/events/climate", event_payload(sent)))
                sent += 1
            site.kill()  # in the middle of what it was doing
            asyncio.run(publisher.send("/devices/d/events/climate", event_payload(sent)))
            sent += 1
            site.start()

        def seen() -> list[int]:
            with Api(site.socket) as api:
                found = [line for line in api.tail(-1, follow=False) if line.type == "event"]
            return sorted(int(line.id.rsplit("/", 1)[1]) for line in found)

        site.until(lambda: len(seen()) >= sent)
        assert seen() == list(range(sent))
    finally:
        publisher.close()
        site.kill()
