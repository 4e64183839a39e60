"""`edge ota ...` against a real gateway, with a device that says on MQTT what a board would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from devices.flash.plan import firmware_folder
from edge_runtime import wire_ota
from edge_runtime.cli.main import app
from edge_runtime.errors import EdgeError
from edge_runtime.proto import mqtt
from tests.cli.conftest import Gateway
from tests.ingress.mqtt_house import Client, connect_packet, subscribe_packet


class Site:
    """A real gateway; the command line runs in this process, which is some twenty times as fast."""

    def __init__(self, gateway: Gateway) -> None:
        self.folder = gateway.folder
        self.port = int(gateway.json("status")["mqtt"].rpartition(":")[2])

    def edge(self, *arguments: object) -> tuple[str, str]:
        """What a verb prints, and of which mistake it speaks."""
        options = ["--config", str(self.folder / "edge.toml")]
        ended = CliRunner().invoke(app, [*map(str, arguments), *options], env={"COLUMNS": "140", "NO_COLOR": "1"})
        error = ended.exception
        if isinstance(error, EdgeError):
            return ended.output, f"{error}. {error.hint}"
        assert ended.exit_code == 0, ended.output
        return ended.output, ""

    def says(self, *arguments: object) -> str:
        """What a verb prints that succeeds."""
        output, mistake = self.edge(*arguments)
        assert not mistake
        return output

    def json(self, *arguments: object) -> Any:
        """What a verb answers programs."""
        return json.loads(self.says(*arguments, "--json"))

    def refuses(self, *arguments: object) -> str:
        """Why a verb does not do what it is asked to."""
        mistake = self.edge(*arguments)[1]
        assert mistake
        return mistake


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = Gateway(tmp_path_factory.mktemp("ota"))
    try:
        running.up()
        yield Site(running)
    finally:
        running.end()


def says(site: Site, device: str, key: str, *reports: dict[int, Any]) -> list[dict[int, Any]]:
    """What a board reports, one after the other, and the offers that it hears meanwhile."""

    async def talk() -> list[dict[int, Any]]:
        client = Client(*await asyncio.open_connection("127.0.0.1", site.port))
        tree = f"/devices/{device}/ota"
        client.send(connect_packet(device, key), subscribe_packet(1, (f"{tree}/+", 1)))
        assert (await client.receive())[0] == 0x20
        assert (await client.receive())[0] == 0x90
        offers = []
        for number, report in enumerate(reports, 1):
            client.send(mqtt.publish(f"{tree}/report", cbor2.dumps(report), qos=1, packet_id=number))
            while (packet := await client.receive())[0] >> 4 != 4:
                assert packet[0] >> 4 == 3
                offers.append(cbor2.loads(packet[packet.index(b"/offer") + 6 :]))
        # What is offered on the last report leaves before the answer to a ping.
        client.send(b"\xc0\0")
        while (packet := await client.receive())[0] >> 4 == 3:
            offers.append(cbor2.loads(packet[packet.index(b"/offer") + 6 :]))
        client.close()
        return offers

    return asyncio.run(talk())


def program(site: Site, version: str) -> Path:
    folder = site.folder / f"board-{version}"
    (folder / "lib").mkdir(parents=True)
    (folder / "main.py").write_text(f"print({version!r})\n")
    (folder / "lib" / "fan.py").write_text("on = True\n")
    (folder / "lib" / ".hidden").write_text("x")
    return folder


def test_from_a_folder_to_the_fleet(site: Site) -> None:
    assert "No releases yet" in site.says("ota", "list")
    assert "No roll-outs yet" in site.says("ota", "status")
    keys = {device: site.json("device", "add", device)["key"] for device in ("gh-1", "gh-2")}
    made = site.says("ota", "release", program(site, "1.0"), "--name", "greenhouse", "--version", "1.0")
    assert "greenhouse 1.0 (" in made
    (row,) = site.json("ota", "list")
    firmware = {f"lib/edge_device/{path.name}" for path in (firmware_folder() / "edge_device").glob("*.py")}
    assert {file["path"] for file in row["files"]} == {"lib/fan.py", "main.py"} | firmware
    bare = (program(site, "0.9") / "main.py", "--name", "bare", "--version", "0.9", "--no-firmware")
    assert [file["path"] for file in site.json("ota", "release", *bare)["files"]] == ["main.py"]
    site.says("ota", "remove", "bare", "0.9")
    kinds = ("--board", "pico-w", "--board", "pico", "--board", "esp32-s3", "--board", "stm32")
    assert site.json("ota", "release", *bare, *kinds)["boards"] == ["rp2", "esp32", "stm32"], "as boards say it"
    site.says("ota", "remove", "bare", "0.9")
    assert "lib/fan.py" in site.says("ota", "show", "greenhouse")

    begun = site.json("ota", "roll-out", "greenhouse", "--device", "gh-2", "--first", "gh-1")
    assert (begun["state"], begun["steps"], begun["counts"]) == ("running", [1, 2], {"due": 1, "waits": 1})
    number, release = begun["number"], bytes.fromhex(begun["release"])
    assert says(site, "gh-2", keys["gh-2"], {1: wire_ota.IDLE, 4: "rp2"}) == []
    (offer,) = says(site, "gh-1", keys["gh-1"], {1: wire_ota.IDLE, 4: "rp2"})
    assert (offer[0], offer[2]) == (release, number)
    done = {0: release, 1: wire_ota.IDLE, 4: "rp2", 5: number}
    fetching = {1: wire_ota.FETCHING, 2: release, 4: "rp2", 5: number, 6: 1024, 7: 4096}
    assert says(site, "gh-1", keys["gh-1"], fetching)[0][0] == release
    assert "1.0 of 4.0 KiB" in site.says("ota", "status", 0)
    assert says(site, "gh-1", keys["gh-1"], {**done, 1: wire_ota.TRIAL}, done) == []
    failed = {1: wire_ota.ROLLED_BACK, 2: release, 3: "ImportError: no module named 'fan'", 4: "rp2", 5: number}
    says(site, "gh-2", keys["gh-2"], failed)
    fleet = {row["device"]: row for row in site.json("ota", "fleet")}
    assert (fleet["gh-1"]["runs"], fleet["gh-2"]["runs"]) == ("greenhouse 1.0", "as flashed")
    assert "no module named 'fan'" in fleet["gh-2"]["detail"]
    shown = site.says("ota", "status", number)
    assert "rolled back" in shown
    assert "runs it" in shown
    assert "greenhouse 1.0" in site.says("ota", "status")
    assert site.json("ota", "list")[0]["running"] == 1


def test_pausing_and_going_on(site: Site) -> None:
    site.says("device", "add", "p-1", "--tag", "site=p")
    site.says("device", "add", "p-2", "--tag", "site=p")
    site.says("ota", "release", program(site, "1.1"), "--name", "greenhouse", "--version", "1.1")
    begun = site.json("ota", "roll-out", "greenhouse", "1.1", "--tag", "site=p", "--steps", "50")
    assert begun["steps"] == [1, 2]
    refused = site.refuses("ota", "roll-out", "greenhouse", "1.0", "--device", "p-1")
    assert f"is in the roll-out {begun['number']} already" in refused
    assert "paused (by a person)" in site.says("ota", "pause")
    assert "is paused" in site.refuses("ota", "pause")
    assert site.json("ota", "resume")["state"] == "running"
    assert site.json("ota", "resume", "--go-on")["step"] == 2
    assert "is about it" in site.refuses("ota", "remove", "greenhouse", "1.1")
    assert site.json("ota", "abort", begun["number"])["state"] == "aborted"
    assert "is removed" in site.says("ota", "remove", "greenhouse", "1.1")


def test_releases_of_others(site: Site) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = site.folder / "release.pem", site.folder / "release.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    folder = program(site, "3.0")
    make = ("ota", "release", folder, "--name", "house", "--version", "3.0", "--key", private)
    assert "edge ota trust" in site.refuses(*make)
    trusted = site.json("ota", "trust", public)
    assert [row["own"] for row in trusted] == [True, False]
    assert f"signed by {trusted[1]['name']}" in site.says(*make)
    site.says("ota", "export", "house", "3.0", site.folder / "house.json")
    site.says("ota", "remove", "house", "3.0")
    assert site.json("ota", "import", site.folder / "house.json")["signer"] == trusted[1]["name"]
    site.says("ota", "remove", "house", "3.0")
    changed = json.loads((site.folder / "house.json").read_text())
    changed["signature"] = "AAAA"
    (site.folder / "changed.json").write_text(json.dumps(changed))
    assert "the signature of the release is not that of its manifest" in site.refuses(
        "ota", "import", site.folder / "changed.json"
    )
    del changed["signature"]
    (site.folder / "changed.json").write_text(json.dumps(changed))
    assert "is not signed" in site.refuses("ota", "import", site.folder / "changed.json")
    site.says("ota", "trust", "--remove", trusted[1]["name"])
    assert "not ours" in site.refuses("ota", "import", site.folder / "house.json")
    assert "BEGIN PUBLIC KEY" in site.says("ota", "keys")


def test_mistakes_are_sentences(site: Site) -> None:
    for arguments, words in (
        (("release", "nowhere", "--name", "a", "--version", "1"), "there is no program for the board at nowhere"),
        (("roll-out", "nothing", "--all"), "there is no release 'nothing'"),
        (("roll-out", "greenhouse", "--tag", "site=nowhere"), "no device has these tags"),
        (("roll-out", "greenhouse", "--device", "gh-2", "--steps", "a"), "are not shares in per cent"),
        (("roll-out", "greenhouse", "--device", "gh-3"), "there is no device 'gh-3'"),
        (("status", "7"), "there is no roll-out 7"),
        (("import", site.folder / "edge.toml"), "is not a release"),
        (("trust", site.folder / "edge.toml"), "holds no public key in PEM form"),
        (("trust", "--remove", "0123"), "no key '0123' was given"),
    ):
        assert words in site.refuses("ota", *arguments)


def test_what_a_board_says_of_itself_is_only_text(site: Site) -> None:
    """A board can report any text: it is no markup."""
    key = site.json("device", "add", "odd")["key"]
    says(site, "odd", key, {1: wire_ota.IDLE, 4: "[/x]"})
    shown = site.says("ota", "fleet")
    assert "odd" in shown
    assert "[/x]" in shown
