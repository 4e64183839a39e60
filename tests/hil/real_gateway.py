"""The gateway's own process, with doors for boards on a network and on lines: what scenarios ask it, by its API."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edge_runtime.flows.lineage import ENDS
from edge_runtime.planes.client import Client, NotRunning
from edge_runtime.planes.inventory import Ordering
from hil.kinds import Doors
from hil.run import Record, Reply

START = 60.0
STOP = 20.0
TTL = 90_000_000


class RealGateway:
    """One process for all scenarios of a run."""

    def __init__(self, folder: Path) -> None:
        self.doors: Doors
        """Where boards connect, once started."""
        self._lines = lines = folder / "lines"
        lines.mkdir()
        self._config = folder / "edge.toml"
        self._config.write_text(
            '[mqtt]\nlisten = "127.0.0.1:0"\n[coap]\nlisten = "127.0.0.1:0"\n[functions]\nexecutors = 1\n'
            f'[serial.boards]\npath = "{lines}/tty-*"\n[serial.bare]\npath = "{lines}/bare-*"\nauth = false\n'
        )
        self._log = folder / "gateway.log"
        self.api = Client(folder / "data" / "edge.sock")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "edge_runtime.cli", "run", "--config", str(self._config)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + START
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(NotRunning):
                status = self.api.status()
                mqtt, coap = (int(address.rpartition(":")[2]) for address in (status.mqtt, status.coap))
                self.doors = Doors(mqtt, coap, self._lines)
                return
            time.sleep(0.05)
        self.stop()
        raise AssertionError(self.log())

    def stop(self) -> None:
        """End it."""
        self.api.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(errors="replace")

    async def add(self, device: str) -> str:
        """A new device; its key."""
        return (await asyncio.to_thread(self.api.add_device, device)).key


class View:
    """The gateway as one device's scenario sees it: `hil.run.Gateway`."""

    def __init__(self, gateway: RealGateway, device: str) -> None:
        self._gateway = gateway
        self._api = gateway.api
        self._device = device
        self._records: list[Record] = []
        self._replies: dict[str, Reply] = {}
        self._after = -1

    async def records(self) -> list[Record]:
        """All events and dead letters of the device."""
        lines = await asyncio.to_thread(lambda: list(self._api.tail(self._after, follow=False)))
        for line in lines:
            self._after = max(self._after, line.offset)
            if line.device != self._device:
                continue
            if line.type in ("event", "dead-letter"):
                self._records.append(Record(line.type, line.id, line.name, line.data))
            elif line.type == "command-end":
                self._replies[line.id] = Reply(ENDS.index(line.name), line.data)
        return self._records

    async def connected(self) -> bool:
        """Whether the gateway takes it for connected."""
        rows = await asyncio.to_thread(self._api.devices)
        return any(row.device == self._device and row.connected for row in rows)

    async def order(self, name: str, args: Any) -> str:
        """A command, as a person gives it."""
        order = await asyncio.to_thread(self._api.order, self._device, Ordering(name, args, ttl=TTL))
        return order.id

    async def reply(self, command: str) -> Reply | None:
        """The end of a command."""
        await self.records()
        return self._replies.get(command)

    def log(self) -> str:
        """The lines of the gateway's log that name the device."""
        named = re.compile(rf"\b{re.escape(self._device)}\b")
        return "\n".join(line for line in self._gateway.log().splitlines() if named.search(line))
