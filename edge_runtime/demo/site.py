"""The demo's site: a real gateway, real MicroPython boards and a real cloud function, each a process of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from cloud_bridge.local_cloud import LocalCloud
from edge_runtime.config import load
from edge_runtime.errors import EdgeError
from edge_runtime.planes.client import Client, NotRunning
from edge_runtime.planes.messages import Deployed, Status
from hil.board import JOURNAL, BoardConfig
from hil.boards import demo_board
from hil.journal import BoardJournal, read_journal
from hil.process_board import ProcessBoard

BOARDS = ("gh-1", "gh-2")
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
_POLL = 0.05
QUEUE = {"queue": 256, "queue_bytes": 16384}
"""What a board keeps in RAM while the gateway starts again: 12 s of its fastest readings."""

_CONFIG = """\
# Written by `edge demo` at each start.
[gateway]
name = "greenhouse"

[mqtt]
listen = "127.0.0.1:{port}"

[functions]
executors = 1

[targets.cloud]
type = "http-cloudevents"
url = "{url}"
"""


def examples() -> Path:
    """The folder of the greenhouse example. Raises EdgeError outside a clone."""
    folder = Path(__file__).resolve().parents[2] / "examples" / "greenhouse"
    if not (folder / "greenhouse.py").is_file():
        raise EdgeError(
            f"the demo's example is not at {folder}", hint="It comes with a clone of the project; run 'make run' there."
        )
    return folder


def _free_port() -> int:
    """A port for the boards: chosen once for a run, so that a gateway that starts again is found again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Site:
    """Everything the demo runs, in one folder that outlives it: the next start goes on from the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.config = self.folder / "edge.toml"
        self.app = self.folder / "greenhouse.py"
        self.cloud_journal = self.folder / "cloud" / "received.jsonl"
        self._gateway: asyncio.subprocess.Process | None = None
        self.boards: list[ProcessBoard] = []
        self.client: Client
        self.deployed: Deployed
        self.cloud: LocalCloud

    async def start(self, say: Callable[[str], None], progress: Callable[[str, float], None]) -> None:
        """Bring up all but the boards; `say` hears what is going on, `progress` about building the guest once."""
        example = examples()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.app.exists():
            shutil.copy(example / "greenhouse.py", self.app)
        # Here rather than in the gateway: here is a terminal for the progress bar.
        # Here, and not above: every verb of the command line would wait for the sandbox to be imported.
        from edge_runtime.functions.sandbox.prepare import prepare

        await asyncio.to_thread(prepare, progress)
        say("starting the cloud function")
        self.cloud = LocalCloud(
            example / "cloud" / "main.py",
            "on_event",
            self.folder / "cloud",
            env={"CLOUD_JOURNAL": str(self.cloud_journal)},
        )
        await self.cloud.start()
        self.config.write_text(_CONFIG.format(port=_free_port(), url=self.cloud.url), "utf-8")
        say("starting the gateway")
        await self.start_gateway()
        say("deploying greenhouse.py")
        files = {self.app.name: self.app.read_bytes()}
        self.deployed = await asyncio.to_thread(self.client.deploy, files)

    async def start_boards(self, *, period_ms: int, readings: int = 0) -> None:
        """Power the boards: `period_ms` between two readings, and no more after `readings` of them (0: no end)."""
        program = examples() / "board"
        known = {row.device for row in await asyncio.to_thread(self.client.devices)}
        status = await self.status()
        host, _, port = status.mqtt.rpartition(":")
        for seed, device in enumerate(BOARDS, 1):
            folder = self._board_folder(device)
            key = await self._key(folder, device, device in known)
            settings = {"period_ms": period_ms, "readings": readings, "seed": seed}
            config = BoardConfig(device, key, host, int(port), options=QUEUE, settings=settings)
            self.boards.append(demo_board(folder, program, config))
        await asyncio.gather(*(board.start() for board in self.boards))

    async def start_gateway(self) -> None:
        """Start the gateway's process and return once it answers."""
        log = os.open(self.folder / "gateway.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._gateway = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "edge_runtime.cli", "run", "--config", str(self.config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which ends everything in order.
            )
        finally:
            os.close(log)
        self._close_client()
        self.client = Client(load(self.config).socket)
        async with asyncio.timeout(READY_SECONDS):
            while self._gateway.returncode is None:
                try:
                    await self.status()
                except NotRunning:
                    await asyncio.sleep(_POLL)
                else:
                    return
        raise EdgeError("the gateway did not start", hint=f"{self._last_line()} See {self.folder / 'gateway.log'}.")

    def journals(self) -> dict[str, BoardJournal]:
        """What each board has written down so far, over all its starts."""
        return {device: read_journal(self._board_folder(device) / "flash" / JOURNAL[1:], device) for device in BOARDS}

    async def kill_gateway(self) -> None:
        """End the gateway with SIGKILL, as a crash would."""
        if self._gateway is not None and self._gateway.returncode is None:
            self._gateway.kill()
            await self._gateway.wait()

    async def status(self) -> Status:
        """The gateway at a glance."""
        return await asyncio.to_thread(self.client.status)

    async def stop(self) -> None:
        """End everything in order: boards, gateway, cloud. Whatever was started is stopped, even if a part fails."""
        await asyncio.gather(*(board.stop() for board in self.boards), return_exceptions=True)
        if self._gateway is not None and self._gateway.returncode is None:
            self._gateway.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._gateway.wait()
            except TimeoutError:
                await self.kill_gateway()
        self._close_client()
        if hasattr(self, "cloud"):
            await self.cloud.stop()

    def _close_client(self) -> None:
        if hasattr(self, "client"):
            self.client.close()

    def _board_folder(self, device: str) -> Path:
        return self.folder / "boards" / device

    async def _key(self, folder: Path, device: str, known: bool) -> str:
        """The board's key, kept beside it as it would be in its flash; made by the gateway the first time."""
        path = folder / "key"
        if known and path.exists():
            return path.read_text("utf-8")
        issue = self.client.rotate_key if known else self.client.add_device
        key = (await asyncio.to_thread(issue, device)).key
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(key, "utf-8")
        return key

    def _last_line(self) -> str:
        lines = (self.folder / "gateway.log").read_bytes()[-4096:].decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""
