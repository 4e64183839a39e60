"""A real gateway in a process of its own, and the command line as people and scripts use it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.ingress.mqtt_house import Client, connect_packet, event_packet

EDGE = [sys.executable, "-m", "edge_runtime.cli"]
PATIENCE = 60.0

APP = """
from edge import App

app = App("greenhouse")


@app.on("climate", where="temperature > 30")
def overheat(event, ctx):
    if event.data["temperature"] > 90:
        raise ValueError("that cannot be")
    ctx.command(event.device, "fan", {"on": True}, key="fan", expires="1h")
    ctx.emit("alarm", {"at": event.data["temperature"]})


@app.on("alarm")
def alarmed(event, ctx):
    ctx.command(event.device, "siren", {"on": True}, expires="1h")


@app.route("climate", to="cloud")
def shape(event):
    return event.data
"""


class Gateway:
    """One running gateway; `edge` runs the command line beside it."""

    def __init__(self, folder: Path, settings: str = "", *, mqtt: str = "") -> None:
        self.folder = folder
        text = f'[mqtt]\nlisten = "127.0.0.1:0"\n{mqtt}[functions]\nexecutors = 1\n'
        # Nobody listens on port 9: the target is away for good.
        text += '[targets.cloud]\ntype = "http-cloudevents"\nurl = "http://127.0.0.1:9/"\n'
        (folder / "edge.toml").write_text(text + settings)
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen([*EDGE, "run"], cwd=folder, stdout=log, stderr=log)
        self.seq = 0
        self.key = ""

    def edge(
        self, *arguments: object, environment: Mapping[str, str] = {}, given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """The command line in a process of its own, `given` something on standard input."""
        whole = os.environ | {"COLUMNS": "80", "NO_COLOR": "1", **environment}
        command = [*EDGE, *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=whole,
            input=given,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def says(self, *arguments: object) -> str:
        """What a verb prints that succeeds."""
        ended = self.edge(*arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def json(self, *arguments: object) -> Any:
        """What a verb answers programs."""
        return json.loads(self.says(*arguments, "--json"))

    def up(self) -> None:
        """Return once it answers."""
        deadline = time.monotonic() + 5 * PATIENCE
        while self.edge("status", "--wait", "20").returncode:
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline

    def send(self, device: str, key: str, *temperatures: float) -> list[bytes]:
        """Readings of a device, and how each was answered."""
        port = int(self.json("status")["mqtt"].rpartition(":")[2])
        return asyncio.run(self._send(port, device, key, temperatures))

    async def _send(self, port: int, device: str, key: str, temperatures: tuple[float, ...]) -> list[bytes]:
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        answers = []
        client.send(connect_packet(device, key))
        assert (await client.receive())[0] == 0x20
        for temperature in temperatures:
            client.send(event_packet(self.seq, {"temperature": temperature}, device=device))
            answers.append(await client.receive())
            self.seq += 1
        client.close()
        return answers

    def until(self, flow: str, lag: int = 0) -> None:
        """Return once a flow is at most so far behind and waits for nothing."""
        deadline = time.monotonic() + PATIENCE
        while True:
            row = next(row for row in self.json("flow", "list") if row["flow"] == flow)
            if row["lag"] <= lag and not row["held"]:
                return
            assert time.monotonic() < deadline, row

    def end(self) -> None:
        """Stop it as a service manager would."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(PATIENCE) == 0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """With the app and the device `gh-1`, which has sent readings; one of them was too much for the function."""
    running = Gateway(tmp_path_factory.mktemp("g"))
    try:
        running.up()
        (running.folder / "greenhouse.py").write_text(APP)
        running.says("deploy", "greenhouse.py")
        running.key = running.json("device", "add", "gh-1")["key"]
        answers = running.send("gh-1", running.key, 20, 31, 99, 32)
        assert [answer[:2] for answer in answers] == [b"\x40\x02"] * 4
        running.until("greenhouse.overheat")
        running.until("greenhouse.alarmed")
        yield running
    finally:
        running.end()
