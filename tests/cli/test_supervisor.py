"""A gateway under a service manager: it says when it is ready, that it is alive, and that it stops."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from edge_runtime.cli.supervisor import Supervisor
from tests.cli.conftest import EDGE, PATIENCE

LIMIT = "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096)); "
RUN = [sys.executable, "-c", LIMIT + 'runpy.run_module("edge_runtime.cli", run_name="__main__")', "run"]


def test_it_is_ready_alive_and_stops() -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        folder = Path(name)
        manager.bind(f"{folder}/notify")
        manager.settimeout(PATIENCE)
        (folder / "edge.toml").write_text('[mqtt]\nlisten = "127.0.0.1:0"\nmax_connections = 5000\n')
        told = {"NOTIFY_SOCKET": f"{folder}/notify", "WATCHDOG_USEC": "300000"}
        process = subprocess.Popen(RUN, cwd=folder, env={**os.environ, **told}, stderr=subprocess.PIPE, text=True)
        try:
            heard = [manager.recv(1000).decode()]
            while not heard[-1].startswith("READY=1\nSTATUS=boards connect to mqtt://127.0.0.1:"):
                heard.append(manager.recv(1000).decode())
            assert set(heard[:-1]) <= {"WATCHDOG=1"}
            assert [manager.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (4096, 4096)
            process.send_signal(signal.SIGTERM)
            while manager.recv(1000) != b"STOPPING=1":
                pass
            _, log = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    assert "the system allows 4096 open files, too few for mqtt.max_connections = 5000" in log
    assert "Traceback" not in log


def test_nobody_has_to_listen() -> None:
    Supervisor({}).tell("READY=1")
    Supervisor({"NOTIFY_SOCKET": "/nowhere/notify"}).tell("READY=1")


async def test_another_process_watchdog_is_not_fed() -> None:
    await Supervisor({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}).beat()  # ends, as there is nothing to do
    await Supervisor({"WATCHDOG_USEC": "soon"}).beat()


def test_the_unit_calls_what_there_is() -> None:
    unit = (Path(__file__).parents[2] / "examples" / "service" / "edge.service").read_text()
    [call] = re.findall(r"^ExecStart=\S+/edge (.*)$", unit, re.MULTILINE)
    help_text = subprocess.run([*EDGE, call.split()[0], "--help"], capture_output=True, text=True, check=True).stdout
    assert call.split()[1] in help_text
    assert "Type=notify" in unit.splitlines()
