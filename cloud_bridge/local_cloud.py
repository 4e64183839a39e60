"""A cloud function on this machine: the real functions-framework in a process of its own.

For the demo, for tests, and for trying a function before it is deployed to a cloud.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import httpx

from edge_runtime.errors import EdgeError

START_LIMIT = 30.0
"""Seconds for a start: importing Flask and gunicorn takes one on a PC and a dozen on a busy small board."""
STOP_LIMIT = 5.0
"""Seconds for a stop before the process is killed."""
_PROBE_INTERVAL = 0.05
_HOST = "127.0.0.1"


class LocalCloud:
    """One function, served on 127.0.0.1 at a free port that stays the same over restarts.

    As an asynchronous context manager it starts on entry and stops on exit.
    """

    def __init__(
        self, source: Path, target: str, folder: Path, *, log: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """`target` is the function's name in the file `source`; `folder` its working folder.

        It writes to the file `log` (`cloud.log` in the folder) and sees no environment but `env` and what it needs to
        run at all.
        """
        self._source = source.absolute()
        self._target = target
        self._folder = folder
        self.log = log or folder / "cloud.log"
        self._env = dict(env or {})
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where events are to be sent; known once it has been started."""
        return f"http://{_HOST}:{self._port}/"

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._process is None else self._process.pid

    async def __aenter__(self) -> LocalCloud:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start, or start again, and return once it answers. Raises `EdgeError`."""
        if self._process is not None:
            return
        if importlib.util.find_spec("functions_framework") is None:
            raise EdgeError(
                "The cloud function's runtime, functions-framework, is not installed.",
                hint="pip install 'edge-runtime[clouds]'",
            )
        if not self._source.is_file():
            raise EdgeError(f"There is no cloud function {self._source}.")
        self._port = self._port or _free_port()
        self._folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            # A session of its own: the runtime is a group of processes, and Ctrl-C is for us to pass on.
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "functions_framework"),
                *("--source", str(self._source), "--target", self._target, "--signature-type", "cloudevent"),
                *("--host", _HOST, "--port", str(self._port)),
                cwd=self._folder,
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            await self._answers(self._process)
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """End it, by force if it does not go by itself."""
        process = self._process
        if process is None:
            return
        self._signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_LIMIT):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            await self.kill()

    async def kill(self) -> None:
        """End it at once, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            self._signal(process, signal.SIGKILL)
            await process.wait()

    @staticmethod
    def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "HOME": str(self._folder),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            # Enough for the route's parallel deliveries; the runtime would take four for each core.
            "THREADS": "8",
            **self._env,
        }

    async def _answers(self, process: asyncio.subprocess.Process) -> None:
        """Return once the runtime answers HTTP; any answer will do, and this path does not reach the function."""
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            try:
                async with asyncio.timeout(START_LIMIT):
                    while process.returncode is None:
                        with contextlib.suppress(httpx.TransportError):
                            await client.get(f"{self.url}robots.txt")
                            return
                        await asyncio.sleep(_PROBE_INTERVAL)
            except TimeoutError:
                raise EdgeError(
                    f"The cloud function did not answer within {START_LIMIT:g} s.", hint=f"See {self.log}."
                ) from None
        raise EdgeError(
            f"The cloud function ended with status {process.returncode} while it started: {self._last_line()}",
            hint=f"See {self.log}.",
        )

    def _last_line(self) -> str:
        lines = self.log.read_bytes()[-4096:].decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing."


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def received(path: Path) -> list[str]:
    """The ids in a journal written by `examples/greenhouse/cloud/main.py`, in order, repeats included."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    # A line without an end is still being written: its event has not been acknowledged.
    return [str(json.loads(line)["id"]) for line in lines if line.endswith("\n")]
