"""The package as a board gets it: through MicroPython's own installer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hil.board import firmware_folder
from hil.script import installed, run_script


class Quiet(SimpleHTTPRequestHandler):
    """A file server that says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    """Where the folder `firmware/` is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(firmware_folder()))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_mip_installs_it_whole(tmp_path: Path, address: str) -> None:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    script = f"""
import mip
mip.install("{address}/package.json", target="/lib", mpy=False)
from edge_device import Device, shell
print("installed", Device.__name__, shell.Shell.__name__)
"""
    output = run_script("unix", tmp_path, script, heap="512k")
    assert output.endswith("installed Device Shell\n"), output
    package = firmware_folder() / "edge_device"
    found = {path.name: path.read_bytes() for path in (tmp_path / "lib" / "edge_device").iterdir()}
    assert found == {path.name: path.read_bytes() for path in package.glob("*.py")}


def test_mip_installs_the_sensors(tmp_path: Path, address: str) -> None:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    script = f"""
import mip
mip.install("{address}/edge_sensors/package.json", target="/lib", mpy=False)
from edge_sensors import bme280, ds18b20
print("installed", bme280.Bme280.__name__)
"""
    output = run_script("unix", tmp_path, script, heap="512k")
    assert output.endswith("installed Bme280\n"), output
    found = {path.name: path.read_bytes() for path in (tmp_path / "lib" / "edge_sensors").iterdir()}
    assert found == {path.name: path.read_bytes() for path in (firmware_folder() / "edge_sensors").glob("*.py")}
