"""What goes into `/edge.json`: where the gateway is, as a board sees it, and its Wi-Fi."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from devices.authority import is_outside, own_names
from devices.flash import plan
from edge_runtime import config
from edge_runtime.cli.flash_settings import place, values, wifi
from edge_runtime.errors import EdgeError
from edge_runtime.planes.messages import Status
from hil.script import installed, run_script

BOOT = (plan.firmware_folder() / "boards/wifi/boot.py").read_text()
NETWORK = """
STA_IF = 0
class WLAN:
    def __init__(self, which): pass
    def active(self, on=True): print("active", on); return True
    def isconnected(self): return False
    def connect(self, ssid, password=None): print("connect", ssid, password)
    def status(self):
        STATUS.append(STATUS.pop(0))
        return STATUS[-1]
STATUS = [1, -2, 3]
"""
MACHINE = """
class Timer:
    PERIODIC = 1
    def __init__(self, period, mode, callback):
        print("every", period)
        for _ in range(3):
            callback(self)
"""


class Listens:
    """The part of a status that matters here."""

    def __init__(self, mqtt: str, coap: str = "") -> None:
        self.mqtt, self.coap = mqtt, coap


def form(mqtt: str, tmp_path: Path, link: str = "mqtt", host: str = "", *, text: str = "", **more: Any) -> Any:
    (tmp_path / "edge.toml").write_text(text)
    settings = config.load(tmp_path / "edge.toml")
    status = cast("Status", Listens(mqtt, "192.0.2.9:5683"))
    return place(link, host, status, settings, **{"tls": False, "virtual": False, **more})


def test_where_the_gateway_is(tmp_path: Path) -> None:
    assert form("192.0.2.1:1883", tmp_path).form == {"host": "192.0.2.1", "port": 1883}
    assert form("192.0.2.1:1883", tmp_path, host="gw.local").form == {"host": "gw.local", "port": 1883}
    assert form("127.0.0.1:1883", tmp_path, host="gw.local:1884").form == {"host": "gw.local", "port": 1884}
    assert form("127.0.0.1:1883", tmp_path, virtual=True).form["host"] == "127.0.0.1"
    assert form("127.0.0.1:1883", tmp_path, "coap").form == {"link": "coap", "host": "192.0.2.9", "port": 5683}
    assert form("127.0.0.1:1883", tmp_path, "serial").form == {"link": "serial"}
    if any(is_outside(name) for name in own_names()):
        found = form("0.0.0.0:1883", tmp_path).form["host"]
        assert socket.inet_pton(socket.AF_INET6 if ":" in found else socket.AF_INET, found)


def test_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"listens at 127\.0\.0\.1 alone, which no board can reach") as caught:
        form("127.0.0.1:1883", tmp_path)
    assert "--link serial" in caught.value.hint
    with pytest.raises(EdgeError, match="is not a host"):
        form("192.0.2.1:1883", tmp_path, host="gw:port")
    with pytest.raises(EdgeError, match="--tls is for MQTT"):
        form("192.0.2.1:1883", tmp_path, "serial", tls=True)


def test_tls_brings_the_ca_along(tmp_path: Path) -> None:
    text = '[mqtt]\ntls_listen = "192.0.2.1:8883"\n'
    with pytest.raises(EdgeError, match="cannot be read") as caught:
        form("127.0.0.1:1883", tmp_path, text=text, tls=True)
    assert "edge init --lan" in caught.value.hint
    ca = tmp_path / "data/ca/ca.pem"
    ca.parent.mkdir(parents=True)
    ca.write_text("the CA")
    assert "tls" not in form("127.0.0.1:1883", tmp_path, text=text, virtual=True).form
    for host in ("", "gw.local:8883", "gw.local"):
        by_itself = form("127.0.0.1:1883", tmp_path, host=host, text=text, tls=None)
        assert "tls" in by_itself.form
    for link, host in (("coap", ""), ("serial", ""), ("mqtt", "gw.local:1883")):
        assert "tls" not in form("127.0.0.1:1883", tmp_path, link, host, text=text, tls=None).form
    assert "tls" not in form("192.0.2.1:1883", tmp_path, tls=None).form, "without a door for it"
    found = form("127.0.0.1:1883", tmp_path, text=text, tls=True)
    assert found.files == {"/ca.pem": b"the CA"}
    assert found.form["host"] == "192.0.2.1"
    assert found.form["port"] == 8883
    assert found.form["tls"] == {"ca": "/ca.pem", "since": int(ca.stat().st_mtime)}
    assert any(file.path == "/ca.pem" for file in plan.files({"main.py": b""}, more=found.files))


def test_names_with_values() -> None:
    assert values(["queue=200", "name=north", 'uart={"id": 1}', "on=true", "text="], "an option") == {
        "queue": 200,
        "name": "north",
        "uart": {"id": 1},
        "on": True,
        "text": "",
    }
    with pytest.raises(EdgeError, match="'queue' is not an option"):
        values(["queue"], "an option")


def test_the_password_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_WIFI_PASSWORD", "open sesame")
    assert wifi("home") == {"ssid": "home", "password": "open sesame"}
    monkeypatch.setenv("EDGE_WIFI_PASSWORD", "")
    assert wifi("open") == {"ssid": "open"}


def test_the_board_joins_its_wifi(tmp_path: Path) -> None:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")

    def boot(settings: object) -> str:
        (tmp_path / "edge.json").write_text(json.dumps(settings))
        return run_script("unix", tmp_path, BOOT, heap="128k")

    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/network.py").write_text(NETWORK)
    said = boot({"settings": {"wifi": {"ssid": "home", "password": "open sesame"}}})
    assert said.split("\n")[:2] == ["active True", "connect home open sesame"]
    assert "connect home None" in boot({"settings": {"wifi": {"ssid": "home"}}})
    assert boot({"settings": {}}).strip() == ""
    assert "no Wi-Fi" in boot({"settings": {"wifi": {"password": "x"}}})
    assert "no Wi-Fi" in boot({"settings": {"wifi": "home"}})
    (tmp_path / "edge.json").write_text("{")
    assert "no Wi-Fi" in run_script("unix", tmp_path, BOOT, heap="128k")


def test_a_pico_looks_for_a_network_that_was_lost(tmp_path: Path) -> None:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/network.py").write_text(NETWORK)
    (tmp_path / "lib/machine.py").write_text(MACHINE)
    (tmp_path / "edge.json").write_text(json.dumps({"settings": {"wifi": {"ssid": "home"}}}))
    said = run_script("unix", tmp_path, BOOT.replace("sys.platform", '"rp2"'), heap="128k")
    assert "every 15000" in said
    assert said.count("connect home None") == 2, "at the start, and where it is not joining, nor joined"
    said = run_script("unix", tmp_path, BOOT, heap="128k")
    assert said.count("connect home None") == 1


def test_the_order_on_the_board() -> None:
    paths = [file.path for file in plan.files({"main.py": b"", "lib/sensor.py": b""}, wifi=True)]
    assert paths[-3:] == ["/edge_boot.py", "/boot.py", "/main.py"]
    assert paths.index("/a/lib/edge_device/core.py") < paths.index("/a/main.py")
    assert plan.folders(paths)[:3] == ["/a", "/a/lib", "/a/lib/edge_device"]
