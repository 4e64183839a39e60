"""`edge flash`, from a blank board to its first event in a real gateway: esptool, mpremote, MicroPython, all real."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from devices.authority import Authority
from devices.boards import ESP32
from devices.flash.plan import SETTINGS, BoardFile
from devices.flash.prompt import Prompt
from edge_runtime.cli.main import app
from edge_runtime.clock import SystemClock
from edge_runtime.errors import EdgeError
from hil.blank_board import BlankBoard
from hil.rom_loader import RomLoader
from hil.unix_board import find_micropython
from hil.waiting import until
from tests.cli.conftest import Gateway
from tests.flash.conftest import Plug
from tests.flash.made import esp_image

PROGRAM = """
from edge_device import Device

device = Device.load()


@device.every(seconds=1)
def climate():
    return {"temperature": device.settings["offset"] + 20}


device.run()
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("g")
    running = Gateway(folder, f'[serial.bench]\npath = "{folder}/tty*"\n[coap]\nlisten = "127.0.0.1:0"\n')
    try:
        running.up()  # with a serial door that takes every port in one folder
        (running.folder / "board.py").write_text(PROGRAM)
        yield running
    finally:
        running.end()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What carries the version of the MicroPython that runs here, as a real image does."""
    micropython = find_micropython()
    version = subprocess.check_output([str(micropython), "-c", "import sys; print(sys.version)"], text=True).strip()
    path = tmp_path / "ESP32_GENERIC-20260131-v1.27.0.bin"
    path.write_bytes(esp_image(ESP32, version))
    return path


def flash(gateway: Gateway, device: str, board: BlankBoard, *arguments: object) -> Any:
    ended = gateway.edge(
        "flash", device, "board.py", "--port", board.port, "--setting", "offset=2", *arguments, "--json"
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_from_a_blank_board_to_its_first_event(gateway: Gateway, plug: Plug, image: Path) -> None:
    board = plug(RomLoader())
    done = flash(gateway, "gh-1", board, "--board", "esp32", "--image", image, "--erase")
    assert done["image"] == str(image)
    assert done["key"] == "gh-1 is registered"
    assert {"/a/lib/edge_device/core.py", "/a/main.py", "/edge_boot.py", "/main.py", "/edge.json"} <= set(
        done["written"]
    )
    assert done["event"]
    assert gateway.json("device", "show", "gh-1")["tags"] == {"board": "esp32"}
    assert "gh-1" in {row["device"] for row in gateway.json("ota", "fleet")}, "it can be updated over the air"
    said = gateway.says("trace", done["event"])
    assert "climate" in said
    assert '"key"' not in board.said()[: board.said().rindex("MicroPython")]

    # Once more: the chip is not written, no file is, the key stays; the board starts anew.
    again = flash(gateway, "gh-1", board, "--image", image, "--board", "esp32")
    assert (again["image"], again["written"]) == ("", [])
    assert again["key"] == "gh-1 keeps the key that it has"
    assert again["event"] not in ("", done["event"])
    assert len(gateway.json("device", "show", "gh-1")["keys"]) == 1

    # A changed program: that alone is written.
    (gateway.folder / "board.py").write_text(PROGRAM.replace("+ 20", "+ 30"))
    changed = flash(gateway, "gh-1", board)
    assert changed["board"] == "linux"
    assert changed["written"] == ["/a/main.py"]
    (gateway.folder / "board.py").write_text(PROGRAM)

    # Another device on the same board only when that is meant; the one before keeps its key at the gateway.
    ended = gateway.edge("flash", "gh-2", "board.py", "--port", board.port)
    assert ended.returncode == 1
    assert "this board is 'gh-1'" in ended.stderr
    assert "--yes" in ended.stderr
    other = flash(gateway, "gh-2", board, "--yes")
    assert other["key"] == "gh-2 is registered"


def test_over_tls_with_a_shared_secret(plug: Plug, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`edge init --lan`, and one command: the board has the CA pinned, and its secret goes over the cable alone."""
    folder = tmp_path_factory.mktemp("l")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    authority = Authority(folder / "data/ca")
    (folder / "data").mkdir(mode=0o700)
    authority.make("gateway", SystemClock().now())
    authority.renew(["127.0.0.1", "localhost"], SystemClock().now(), look=True)
    running = Gateway(folder, mqtt=f'tls_listen = "127.0.0.1:{port}"\n')
    (folder / "board.py").write_text(PROGRAM)
    try:
        running.up()
        board = plug(heap="1m")
        clock = '--option=clock={"host": "127.0.0.1"}'
        done = flash(running, "gh-1", board, "--hs256", clock)
        assert done["event"]
        found = Prompt(board.port).look([SETTINGS, "/ca.pem"])
        held = found.config
        assert (held["host"], held["port"], held["tls"]["ca"]) == ("127.0.0.1", port, "/ca.pem")
        assert "key" not in held
        assert (held["jwt"]["alg"], held["jwt"]["audience"]) == ("HS256", "gateway")
        assert found.digests["/ca.pem"] == sha256(authority.certificate.read_bytes()).hexdigest()
        secret = held["jwt"]["secret"]
        for text in (json.dumps(done), running.says("device", "show", "gh-1"), (folder / "log").read_text()):
            assert secret not in text
        again = flash(running, "gh-1", board, clock)
        assert again["written"] == []
        assert again["key"] == "gh-1 keeps the key that it has"
        assert again["event"]
        assert [key["type"] for key in running.json("device", "show", "gh-1")["keys"]] == ["hs256"]
    finally:
        running.end()


def test_the_cable_is_pulled_and_the_same_command_goes_on(gateway: Gateway, plug: Plug) -> None:
    board = plug()
    board.pull_at = b"open('/a/lib/edge_device/core.py','wb')"
    ended = gateway.edge("flash", "gh-3", "board.py", "--port", board.port, "--setting", "offset=2")
    assert ended.returncode == 1
    assert f"nothing is connected at {board.port}" in " ".join(ended.stderr.split())
    assert "it goes on" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert "gh-3" not in {row["device"] for row in gateway.json("device", "list")}
    board.unplug()
    board.plug()
    done = flash(gateway, "gh-3", board)
    assert "/a/lib/edge_device/__init__.py" not in done["written"]
    assert done["written"][-1] == "/edge.json"
    assert done["event"]


async def test_a_serial_link_on_a_port_that_the_gateway_has(gateway: Gateway, plug: Plug) -> None:
    board = plug()
    (gateway.folder / "tty0").symlink_to(os.path.realpath(board.port))
    await until(lambda: gateway.json("status")["serial_door"]["ports"] == 1, "the gateway has the port")
    done = await asyncio.to_thread(flash, gateway, "gh-8", board, "--link", "serial")
    assert done["event"]
    assert gateway.json("status")["serial_door"]["boards"] == 1
    (gateway.folder / "tty0").unlink()


def test_over_coap(gateway: Gateway, plug: Plug) -> None:
    """With the boot loader, as every board that was flashed: it tells what it runs before it sends readings."""
    assert flash(gateway, "gh-10", plug(), "--link", "coap")["event"]
    (row,) = (row for row in gateway.json("ota", "fleet") if row["device"] == "gh-10")
    assert (row["runs"], row["state"], row["connected"]) == ("as flashed", "idle", True)


def test_a_board_whose_key_is_void(gateway: Gateway, plug: Plug) -> None:
    board = plug()
    flash(gateway, "gh-4", board, "--wait", "0")
    gateway.says("device", "rotate", "gh-4")
    ended = gateway.edge("flash", "gh-4", "board.py", "--port", board.port, "--setting", "offset=2", "--wait", "8")
    assert ended.returncode == 1
    assert "no event of gh-4 has come in 8 s" in ended.stderr
    assert "--new-key" in ended.stderr
    done = flash(gateway, "gh-4", board, "--new-key")
    assert "has the new key" in done["key"]
    assert done["written"] == ["/edge.json"]
    assert done["event"]


def test_a_program_that_fails_is_heard(gateway: Gateway, plug: Plug, tmp_path: Path) -> None:
    program = tmp_path / "bad.py"
    program.write_text("raise ValueError('the sensor is upside down')\n")
    ended = gateway.edge("flash", "gh-5", program, "--port", plug().port, "--wait", "2")
    assert ended.returncode == 1
    assert "The board says:" in ended.stderr
    assert "the sensor is upside down" in ended.stderr


def test_a_program_of_somebody_else_is_not_overwritten(gateway: Gateway, plug: Plug) -> None:
    board = plug()
    prompt = Prompt(board.port)
    prompt.copy([BoardFile("/main.py", b"print('mine')\n")], prompt.look())
    ended = gateway.edge("flash", "gh-7", "board.py", "--port", board.port)
    assert ended.returncode == 1
    assert "has a program of its own (/main.py)" in ended.stderr
    assert "gh-7" not in {row["device"] for row in gateway.json("device", "list")}


def test_a_gateway_that_does_not_run(plug: Plug, tmp_path: Path) -> None:
    from tests.cli.conftest import EDGE

    (tmp_path / "edge.toml").write_text("")
    (tmp_path / "board.py").write_text(PROGRAM)
    (tmp_path / "key").write_text("a-key-of-its-own\n")
    board = plug()

    def edge(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*EDGE, "flash", "gh-6", "board.py", "--port", str(board.port), *arguments]
        environment = os.environ | {"NO_COLOR": "1"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    ended = edge()
    assert ended.returncode == 1
    assert "no gateway is running" in ended.stderr
    assert "edge run" in ended.stderr
    ended = edge("--key", "key", "--wait", "0", "--host", "192.0.2.1:1883")
    assert ended.returncode == 0, ended.stderr
    assert "gh-6 has started" in ended.stdout
    assert "a-key-of-its-own" not in ended.stdout + ended.stderr


def test_the_options_that_cannot_be(gateway: Gateway, plug: Plug, tmp_path: Path) -> None:
    board = plug()
    for arguments, says in (
        (("gh-9",), "the program is missing"),
        (("gh-9", "none.py"), "there is no program for the board"),
        (("gh-9", gateway.folder / "board.py"), "no board is connected"),
        (("gh-9", gateway.folder / "board.py", "--port", board.port, "--link", "pigeon"), "is not a link"),
        (
            ("gh-9", gateway.folder / "board.py", "--port", "/dev/none", "--board", "esp32"),
            "nothing is connected at /dev/none",
        ),
        (("gh-9", gateway.folder / "board.py", "--port", board.port, "--board", "esp33"), "no board profile 'esp33'"),
        (
            ("gh-9", gateway.folder / "board.py", "--port", board.port, "--tls"),
            "where the gateway listens for MQTT with TLS",
        ),
        (("gh-9", gateway.folder / "board.py", "--port", board.port, "--link", "coap", "--hs256"), "is for MQTT"),
        (("gh-9", gateway.folder / "board.py", "--port", board.port, "--option", "queue"), "is not an option"),
        (("gh-9", gateway.folder / "board.py", "--port", board.port, "--wifi", "home"), "the password of the Wi-Fi"),
    ):
        ended = CliRunner().invoke(app, ["flash", *map(str, arguments), "--config", str(gateway.folder / "edge.toml")])
        assert isinstance(ended.exception, EdgeError)
        assert says in str(ended.exception)
    assert "gh-9" not in {row["device"] for row in gateway.json("device", "list")}
