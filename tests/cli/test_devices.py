"""`edge device ...` against a real gateway, with boards that really connect."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from pathlib import Path
from typing import Any

import cbor2
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from devices.authority import Authority
from edge_runtime.proto import mqtt
from tests.cli.conftest import Gateway
from tests.ingress.mqtt_house import Client, connect_packet, subscribe_packet

REFUSED = b"\x20\x02\x00\x05"
ACCEPTED = b"\x20\x02\x00\x00"


def port(gateway: Gateway) -> int:
    return int(gateway.json("status")["mqtt"].rpartition(":")[2])


def login(gateway: Gateway, device: str, key: str) -> bytes:
    """What a CONNECT is answered with."""

    async def once() -> bytes:
        client = Client(*await asyncio.open_connection("127.0.0.1", port(gateway)))
        client.send(connect_packet(device, key))
        answer = await client.receive()
        client.close()
        return answer

    return asyncio.run(once())


class Board(threading.Thread):
    """Connects, and answers the first command it gets."""

    def __init__(self, gateway: Gateway, device: str, key: str) -> None:
        super().__init__()
        self._where, self._device, self._key = port(gateway), device, key
        self.ready = threading.Event()
        self.args: Any = None
        self.closed = False

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        client = Client(*await asyncio.open_connection("127.0.0.1", self._where))
        client.send(connect_packet(self._device, self._key))
        assert await client.receive() == ACCEPTED
        client.send(subscribe_packet(1, (f"/devices/{self._device}/commands/#", 1)))
        assert (await client.receive())[0] == 0x90
        self.ready.set()
        packet = await client.receive()
        length = int.from_bytes(packet[2:4], "big")
        command = cbor2.loads(packet[4 + length + 2 :])
        self.args = command[3]
        reply = cbor2.dumps({0: command[0], 1: 0, 2: {"seen": True}})
        client.send(mqtt.publish(f"/devices/{self._device}/replies", reply, qos=1, packet_id=7))
        assert (await client.receive())[:2] == b"\x40\x02"
        self.closed = await client.receive() == b""
        client.close()


def test_a_board_with_a_jwt_is_let_in_and_its_key_taken_over_by_a_token(gateway: Gateway) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = private.public_key().public_bytes(serialization.Encoding.PEM, form)
    (gateway.folder / "public.pem").write_bytes(public)
    gateway.says("device", "add", "gh-jwt", "--no-token", "--tag", "site=north")
    made = gateway.json("device", "key", "add", "gh-jwt", "--public-key", "public.pem")
    assert (made["key"]["id"], made["key"]["type"], made["secret"]) == ("1", "es256", "")
    now = gateway.json("status")["now"] // 10**6
    claims = {"iat": now, "exp": now + 600, "aud": "gateway"}
    good = jwt.encode(claims, private, "ES256")
    assert login(gateway, "gh-jwt", good) == ACCEPTED
    assert login(gateway, "gh-jwt", jwt.encode({**claims, "aud": "other"}, private, "ES256")) == REFUSED
    token = gateway.json("device", "key", "add", "gh-jwt", "--expires", "90d")["secret"]
    assert login(gateway, "gh-jwt", token) == login(gateway, "gh-jwt", good) == ACCEPTED
    gateway.says("device", "key", "remove", "gh-jwt", "1")
    assert login(gateway, "gh-jwt", good) == REFUSED
    assert login(gateway, "gh-jwt", token) == ACCEPTED
    security = (gateway.folder / "data/logs/security.jsonl").read_text()
    assert "its JWT is for another audience" in security
    assert good not in security
    gateway.says("device", "add", "gh-one-step", "--profile", "iotcore", "--public-key", "public.pem")
    shown = gateway.json("device", "show", "gh-one-step")
    assert (shown["profile"], [key["type"] for key in shown["keys"]]) == ("iotcore", ["es256"])
    (gateway.folder / "empty.pem").write_text("\n")
    for wrong in ("empty.pem", "nowhere.pem", "edge.toml"):
        assert gateway.edge("device", "add", "gh-none", "--public-key", wrong).returncode != 0
    assert "gh-none" not in [row["device"] for row in gateway.json("device", "list")]


def test_a_shared_secret_is_shown_once_and_stands_nowhere_in_the_clear(gateway: Gateway) -> None:
    made = gateway.json("device", "add", "gh-hs", "--hs256")
    assert made["type"] == "hs256"
    now = gateway.json("status")["now"] // 10**6
    claims = {"iat": now, "exp": now + 600, "aud": "gateway"}

    def signed(secret: str) -> str:
        return jwt.encode(claims, base64.urlsafe_b64decode(secret + "="), "HS256")

    assert login(gateway, "gh-hs", signed(made["key"])) == ACCEPTED
    assert login(gateway, "gh-hs", made["key"]) == REFUSED, "the secret itself is never shown to a gateway"
    rotated = gateway.json("device", "rotate", "gh-hs")
    assert rotated["type"] == "hs256"
    assert login(gateway, "gh-hs", signed(made["key"])) == REFUSED
    said = gateway.says("device", "key", "add", "gh-hs", "--hs256", "--expires", "90d")
    assert "has the new key 3 (hs256)" in said
    second = said.split("\n")[2].strip()
    assert login(gateway, "gh-hs", signed(second)) == login(gateway, "gh-hs", signed(rotated["key"])) == ACCEPTED
    for secret in (made["key"], rotated["key"], second):
        raw = base64.urlsafe_b64decode(secret + "=")
        forms = {secret, base64.b64encode(raw).decode(), raw.hex()}
        for shown in (gateway.says("device", "show", "gh-hs"), gateway.says("device", "export")):
            assert not any(form in shown for form in forms)
        logs = [path.read_text() for path in (gateway.folder / "data/logs").rglob("*") if path.is_file()]
        assert not any(form in text for form in forms for text in logs)
    for wrong in (("--hs256", "--no-token"), ("--hs256", "--profile", "iotcore")):
        assert gateway.edge("device", "add", "gh-none", *wrong).returncode == 1
    assert "gh-none" not in [row["device"] for row in gateway.json("device", "list")]


def test_a_command_shows_its_reply_or_that_none_came(gateway: Gateway) -> None:
    key = gateway.json("device", "add", "gh-cmd")["key"]
    board = Board(gateway, "gh-cmd", key)
    board.start()
    assert board.ready.wait(30)
    shown = gateway.json("device", "command", "gh-cmd", "fan", '{"on": true}')
    assert (shown["state"], shown["result"]) == ("done", {"seen": True})
    assert board.args == {"on": True}
    gateway.says("device", "block", "gh-cmd")
    board.join(30)
    assert board.closed, "who is blocked is cut off"
    assert login(gateway, "gh-cmd", key) == REFUSED
    gateway.says("device", "unblock", "gh-cmd")
    assert login(gateway, "gh-cmd", key) == ACCEPTED
    late = gateway.edge("device", "command", "gh-cmd", "fan", "--expires", "0.3", "--wait", "20")
    assert late.returncode == 1
    assert "fan: timed out" in late.stdout
    waits = gateway.edge("device", "command", "gh-cmd", "fan", "--wait", "0.1")
    assert waits.returncode == 1
    assert "under way" in waits.stdout
    states = [order["state"] for order in gateway.json("device", "command", "gh-cmd")]
    assert states == ["under way", "timed out", "done"]
    assert "timed out" in gateway.says("device", "show", "gh-cmd")
    assert "fan" in gateway.says("trace", shown["id"])
    wrong = gateway.edge("device", "command", "gh-cmd", "fan", "{on}")
    assert "not JSON" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_configuration_and_whether_the_device_has_taken_it(gateway: Gateway, tmp_path: Path) -> None:
    key = gateway.json("device", "add", "gh-twin")["key"]
    assert "no configuration" in gateway.edge("device", "config", "get", "gh-twin").stderr
    assert "has not reported" in gateway.says("device", "state", "gh-twin")
    (tmp_path / "config.json").write_text('{"every": 5}')
    gateway.says("device", "config", "set", "gh-twin", f"@{tmp_path}/config.json")
    assert gateway.json("device", "config", "set", "gh-twin", "@edge.toml", "--raw")["form"] == "bytes"
    assert gateway.json("device", "config", "set", "gh-twin", '{"every": 7}')["version"] == 3
    assert gateway.json("device", "config", "get", "gh-twin", "--version", "1")["config"] == {"every": 5}
    assert "not JSON" in gateway.edge("device", "config", "set", "gh-twin", "{every}").stderr
    assert "not taken" in gateway.says("device", "config", "get", "gh-twin")

    async def board() -> None:
        client = Client(*await asyncio.open_connection("127.0.0.1", port(gateway)))
        client.send(connect_packet("gh-twin", key), subscribe_packet(1, ("/devices/gh-twin/config", 1)))
        assert await client.receive() == ACCEPTED
        assert (await client.receive())[0] == 0x90
        assert b"every" in await client.receive()
        told = {"config/ack": {0: 3, 1: 0}, "state": {0: {"fan": True, "raw": b"\xff"}}}
        for number, (topic, payload) in enumerate(told.items(), 1):
            topic = f"/devices/gh-twin/{topic}"
            client.send(mqtt.publish(topic, cbor2.dumps(payload), qos=1, packet_id=number))
            assert await client.receive() == bytes((0x40, 2, 0, number))
        client.close()

    asyncio.run(board())
    assert "taken by the device" in gateway.says("device", "config", "get", "gh-twin")
    assert gateway.json("device", "state", "gh-twin")[0]["state"] == {"fan": True, "raw": {"base64": "/w=="}}
    assert '"fan":true' in gateway.says("device", "state", "gh-twin")


def test_a_certificate_of_the_gateways_own_ca(gateway: Gateway, tmp_path: Path) -> None:
    gateway.says("device", "add", "gh-cert", "--no-token")
    add = ("device", "key", "add", "gh-cert", "--certificate", "--to", tmp_path)
    assert "edge init --lan" in gateway.edge(*add).stderr
    Authority(gateway.folder / "data/ca").make("here", gateway.json("status")["now"])
    assert "gh-cert.key" in gateway.says(*add)
    assert (tmp_path / "gh-cert.key").stat().st_mode & 0o777 == 0o600
    made = x509.load_pem_x509_certificate((tmp_path / "gh-cert.pem").read_bytes())
    made.verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / "gh-cert.ca.pem").read_bytes()))
    (key,) = gateway.json("device", "show", "gh-cert")["keys"]
    assert key["shown"] == f"SHA-256 {made.fingerprint(hashes.SHA256()).hex()}"
    assert abs(key["expires"] / 1e6 - made.not_valid_after_utc.timestamp()) <= 1
    assert "is there already" in gateway.edge(*add).stderr


def test_there_and_back_again(gateway: Gateway, tmp_path: Path) -> None:
    key = gateway.json("device", "add", "gh-moves", "--tag", "bay=1")["key"]
    gateway.says("device", "key", "add", "gh-moves", "--oscore")
    exported = gateway.says("device", "export")
    assert key not in exported
    (tmp_path / "devices.jsonl").write_text(exported)
    line = next(json.loads(text) for text in exported.splitlines() if "gh-moves" in text)
    assert [each["type"] for each in line["keys"]] == ["token"]
    same = gateway.json("device", "import", tmp_path / "devices.jsonl")
    assert (same["added"], same["changed"]) == (0, 0)
    gateway.says("device", "remove", "gh-moves", "--yes")
    assert login(gateway, "gh-moves", key) == REFUSED
    assert gateway.json("device", "import", tmp_path / "devices.jsonl")["added"] == 1
    assert login(gateway, "gh-moves", key) == ACCEPTED
    assert [row["device"] for row in gateway.json("device", "list", "--tag", "bay=1")] == ["gh-moves"]
    assert "bay=2" in gateway.says("device", "tag", "gh-moves", "bay=2")
    (tmp_path / "bad.jsonl").write_text(exported + '{"device": "a/b", "created": 1}\n')
    bad = gateway.edge("device", "import", tmp_path / "bad.jsonl")
    assert "cannot be the id" in bad.stderr
    assert "nothing was imported" in bad.stderr


def test_mistakes_are_answered_with_what_to_do(gateway: Gateway) -> None:
    for arguments, why in (
        (("show", "gh-9"), "no device 'gh-9'"),
        (("tag", "gh-1", "site"), "Tags look like"),
        (("key", "add", "gh-1", "--expires", "soon"), "Say 30m"),
        (("key", "add", "gh-1", "--public-key", "edge.toml"), "BEGIN PUBLIC KEY"),
        (("key", "remove", "gh-1", "7"), "no key '7'"),
        (("add", "gh-x", "--profile", "mine"), "not a profile"),
    ):
        ended = gateway.edge("device", *arguments)
        assert ended.returncode == 1
        assert why in ended.stderr, ended.stderr
        assert "Traceback" not in ended.stderr


def test_many_devices_are_listed_in_plain_columns(gateway: Gateway, tmp_path: Path) -> None:
    lines = [json.dumps({"device": f"many-{n}", "created": 1, "tags": {"many": "[red]"}}) for n in range(600)]
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    assert gateway.json("device", "import", tmp_path / "many.jsonl")["added"] == 600
    head, *rows = gateway.says("device", "list", "--tag", "many=[red]").splitlines()
    assert head.split() == ["device", "connected", "last", "heard", "clock", "registered", "tags"]
    assert len(rows) == 600
    assert len({row.index("many=[red]") for row in rows}) == 1, "one below the other"
