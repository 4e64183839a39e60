"""`edge init --lan`, and what comes of it: a gateway that boards reach with TLS and nothing else."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime import config

EDGE = [sys.executable, "-m", "edge_runtime.cli"]


def edge(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run([*EDGE, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_a_site_for_the_network(tmp_path: Path) -> None:
    made = edge(tmp_path, "init", "site", "--lan", "--name", "gateway.test")
    assert made.returncode == 0, made.stderr
    settings = config.load(tmp_path / "site/edge.toml")
    assert settings.mqtt.tls_listen == "0.0.0.0:8883"
    assert settings.mqtt.host == "127.0.0.1", "in the clear only on this machine"
    assert settings.gateway.announce
    folder = tmp_path / "site/data/ca"
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()}
    assert modes == {"ca.pem": "0o644", "ca.key": "0o600", "server.pem": "0o644", "server.key": "0o600"}
    assert (tmp_path / "site/data").stat().st_mode & 0o077 == 0
    again = edge(tmp_path, "init", "site", "--lan")
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert edge(tmp_path, "init", "other", "--name", "x").returncode == 1
    assert not (tmp_path / "other").exists()
    plain = edge(tmp_path, "init", "plain")
    assert plain.returncode == 0
    assert not config.load(tmp_path / "plain/edge.toml").mqtt.tls_listen
    assert not (tmp_path / "plain/data").exists()


def test_a_device_with_a_certificate_is_let_in_over_tls(tmp_path: Path) -> None:
    paho = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
    assert edge(tmp_path, "init", "--lan", "--name", "gateway.test").returncode == 0
    text = (tmp_path / "edge.toml").read_text()
    # On this machine alone, and unannounced: tests talk to nobody else.
    text = text.replace('"0.0.0.0:8883"', '"127.0.0.1:0"').replace("announce = true", "announce = false")
    text = text.replace('# listen = "127.0.0.1:1883"', 'listen = "127.0.0.1:0"')
    (tmp_path / "edge.toml").write_text(text)
    with (tmp_path / "log").open("wb") as log:
        gateway = subprocess.Popen([*EDGE, "run"], cwd=tmp_path, stdout=log, stderr=log)
    try:
        assert edge(tmp_path, "status", "--wait", "50").returncode == 0, (tmp_path / "log").read_text()
        (where,) = json.loads(edge(tmp_path, "status", "--json").stdout)["mqtt_more"]
        assert edge(tmp_path, "device", "add", "gh-1", "--no-token").returncode == 0
        assert edge(tmp_path, "device", "key", "add", "gh-1", "--certificate").returncode == 0
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="gh-1")
        context = ssl.create_default_context(cafile=str(tmp_path / "gh-1.ca.pem"))
        context.load_cert_chain(tmp_path / "gh-1.pem", tmp_path / "gh-1.key")
        client.tls_set_context(context)
        client.username_pw_set("gh-1", "")
        codes: list[int] = []
        client.on_connect = lambda _c, _u, _f, code, _p: codes.append(code.value)
        client.connect("127.0.0.1", int(where.rpartition(":")[2]))
        while not codes:
            client.loop(1)
        assert codes == [0]
        client.disconnect()
        assert edge(tmp_path, "device", "block", "gh-1").returncode == 0
        client.connect("127.0.0.1", int(where.rpartition(":")[2]))
        while len(codes) < 2:
            client.loop(1)
        assert codes[1] != 0
    finally:
        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait(60) == 0
