"""Boards over TLS, and over several links in an order, at the gateway's own doors."""

from __future__ import annotations

import asyncio
import json
import os
import random
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from devices.authority import Authority
from devices.registry import Registry
from devices.twin import json_content
from edge_runtime.clock import SystemClock
from edge_runtime.events import Event, Origin
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.coap import CoapFrontDoor
from edge_runtime.ingress.coap_site import CoapSite
from edge_runtime.ingress.mqtt import MqttFrontDoor
from edge_runtime.ingress.stamps import Stamps
from edge_runtime.ingress.tls import Certificates
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Command, CommandEnd, DeadLetter
from hil.board import firmware_folder
from hil.faulty_network import FaultyTcp, FaultyUdp
from hil.script import installed
from hil.waiting import until
from tests.firmware.test_firmware_heap import compile_to

PROGRAM = """
from edge_device import Device

device = Device.load()
count = 0


@device.every(seconds=0.05)
def count_up():
    global count
    count += 1
    return {"count": count}


@device.on_command("fan")
def fan(args):
    return args


device.run()
"""
CONFIGURED = """
@device.on_config
def configure(config):
    device.report({"every": config["every"], "size": len(config.get("text", ""))})


device.run()
"""


class Site:
    """Doors over a journal in memory, and a board of compiled files beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.flash = folder / "flash"
        self.journal = MemoryJournal()
        self.clock = SystemClock()
        self.security: list[str] = []
        self.authority = Authority(folder / "ca")
        self.board: asyncio.subprocess.Process | None = None
        self.doors: list[MqttFrontDoor] = []
        self.coap: CoapFrontDoor | None = None
        self.registry: Registry
        self.admission: Admission

    async def build(self) -> None:
        self.registry = await Registry.open(self.journal, self.clock)
        self.admission = await Admission.open(self.journal, self.registry, self.clock, self.security.append)
        self.authority.make("test", self.clock.now())
        self.authority.renew(["localhost", "127.0.0.1"], self.clock.now(), look=True)
        self.flash.mkdir()
        (self.flash / "ca.pem").write_bytes(self.authority.certificate.read_bytes())
        (self.flash / "ca.der").write_bytes(ssl.PEM_cert_to_DER_cert(self.authority.certificate.read_text()))
        compile_to(self.flash / "lib" / "edge_device", sorted((firmware_folder() / "edge_device").glob("*.py")))
        self.program(PROGRAM)

    def program(self, text: str) -> None:
        """Have the board run this."""
        (self.folder / "main.py").write_text(text)
        compile_to(self.flash, [self.folder / "main.py"])

    async def door(self, port: int = 0) -> tuple[MqttFrontDoor, int, int]:
        """An MQTT door, its port and its port for TLS."""
        made = MqttFrontDoor(
            self.admission, self.registry, self.clock, security=self.security.append, log=lambda _: None
        )
        self.doors.append(made)
        plain = await made.start("127.0.0.1", port)
        ca = self.authority
        certificates = Certificates(ca.server_certificate, ca.server_key, ca.certificate)
        return made, plain, await made.listen("127.0.0.1", 0, tls=certificates)

    async def coap_door(self) -> int:
        """A CoAP door; returns its port."""
        self.coap = CoapFrontDoor(
            self.admission,
            self.registry,
            self.clock,
            security=self.security.append,
            log=lambda _: None,
            random=random.Random(1).random,
            stamps=Stamps(b"gateway!"),
            elsewhere=lambda door: CoapSite(door, self.clock, oscore=self.folder / "oscore"),
        )
        return await self.coap.start("127.0.0.1", 0)

    async def start(self, heap: str, **settings: Any) -> None:
        (self.flash / "edge.json").write_text(json.dumps({"device": "b1", "patience": 3, "backoff": 1, **settings}))
        arguments = ["-m", "hil.machine", "unix", "--heap", heap, "--parent", str(os.getpid()), str(self.flash)]
        with (self.folder / "board.log").open("ab") as log:
            self.board = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=log, stderr=log)

    @property
    def logs(self) -> str:
        return (self.folder / "board.log").read_text()

    @property
    def events(self) -> list[Event]:
        return [record for record in self.journal.records() if isinstance(record, Event)]

    async def more(self, number: int, within: float = 30) -> None:
        """Wait until so many more events are there."""
        goal = len(self.events) + number
        await until(
            lambda: len(self.events) >= goal, f"{number} more events arrive; the board says {self.logs}", within
        )

    async def tear_down(self) -> None:
        if self.board is not None and self.board.returncode is None:
            self.board.kill()
            await self.board.wait()
        for door in self.doors:
            await door.stop()
        if self.coap is not None:
            await self.coap.stop()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    made = Site(tmp_path)
    await made.build()
    yield made
    await made.tear_down()


def in_order(events: list[Event]) -> bool:
    """Nothing is missing, nothing is there twice."""
    return [event.seq for event in events] == list(range(len(events)))


async def test_the_whole_firmware_with_tls_in_a_heap_of_64_kib(site: Site) -> None:
    _, _, port = await site.door()
    key = await site.registry.add("b1")
    await site.start("64k", host="localhost", port=port, key=key, tls={"ca": "/ca.der"}, queue=16, packet=256)
    await site.more(100)
    assert in_order(site.events)
    assert "MemoryError" not in site.logs
    assert site.security == []


async def test_a_certificate_of_our_own_in_place_of_a_key(site: Site) -> None:
    _, _, port = await site.door()
    await site.registry.add("b1", token=False)
    issued = site.authority.issue("b1", site.clock.now())
    (site.flash / "board.pem").write_bytes(issued.certificate)
    (site.flash / "board.key").write_bytes(issued.key)
    await site.registry.add_certificate("b1", issued.der)
    tls = {"ca": "/ca.pem", "cert": "/board.pem", "key": "/board.key"}
    await site.start("96k", host="127.0.0.1", port=port, tls=tls)
    await site.more(20)
    assert in_order(site.events)
    assert site.security == []


@pytest.mark.parametrize("wrong", ["name", "ca"])
async def test_a_gateway_that_is_not_ours_gets_nothing(site: Site, wrong: str) -> None:
    _, _, port = await site.door()
    key = await site.registry.add("b1")
    tls = {"ca": "/ca.pem"}
    if wrong == "name":
        tls["name"] = "gateway.example"
    else:
        other = Authority(site.folder / "other")
        other.make("other", site.clock.now())
        (site.flash / "ca.pem").write_bytes(other.certificate.read_bytes())
    await site.start("96k", host="localhost", port=port, key=key, tls=tls)
    await until(lambda: "certificate" in site.logs, "the board says why")
    assert site.events == []
    assert site.doors[0].counters.accepted == 0


async def test_the_next_link_takes_over_and_the_first_comes_back(site: Site) -> None:
    first, port, _ = await site.door()
    _, _, second = await site.door()
    key = await site.registry.add("b1")
    links = [{"port": port}, {"port": second, "tls": {"ca": "/ca.pem"}}]
    await site.start("96k", host="127.0.0.1", key=key, links=links, prefer=1, queue=200)
    await site.more(20)
    assert site.doors[1].counters.accepted == 0
    await first.stop()
    await site.more(40)
    assert site.doors[1].counters.accepted >= 1
    _, again, _ = await site.door(port)
    assert again == port
    await until(lambda: site.doors[2].connected() == frozenset({"b1"}), "the board goes back")
    await site.more(20)
    assert in_order(site.events)
    assert site.security == []


async def test_events_commands_and_configurations_over_coap(site: Site) -> None:
    port = await site.coap_door()
    key = await site.registry.add("b1")
    site.program(PROGRAM.replace("device.run()\n", CONFIGURED))
    twin = site.admission.twin
    await twin.set_config("b1", json_content({"every": 5}))
    await site.start("128k", link="coap", host="127.0.0.1", port=port, key=key, patience=1, keepalive=4, packet=4096)
    await site.more(20)
    await until(lambda: twin.at_hand("b1").acknowledged == 1, "the configuration is taken")
    await twin.set_config("b1", json_content({"every": 6, "text": "x" * 3000}))
    await until(lambda: twin.at_hand("b1").acknowledged == 2, f"one in blocks is taken; the board says {site.logs}")
    await until(lambda: len(twin.at_hand("b1").states) == 2, "the states have come")
    assert next(content.value() for _, content in await twin.states("b1")) == {"every": 6, "size": 3000}
    await order(site)
    assert in_order(site.events)
    assert site.security == []


async def order(site: Site) -> None:
    """Have a command carried out, sent again and again as the outbox does."""
    assert site.coap is not None
    now = site.clock.now()
    command = Command("b1", "fan", {"on": True}, now, now + 60_000_000, Origin("f", 0, "cause", 0))
    await site.journal.append([command])

    def ended() -> bool:
        return any(isinstance(r, CommandEnd) and r.command == command.id for r in site.journal.records())

    for _ in range(60):
        site.coap.deliver(command)
        try:
            await until(ended, "the reply arrives", 0.5)
        except TimeoutError:
            continue
        break
    ends = [record for record in site.journal.records() if isinstance(record, CommandEnd)]
    assert [(end.status, end.result) for end in ends] == [(0, {"on": True})]


async def test_coap_over_a_network_that_loses_doubles_and_delays(site: Site) -> None:
    network = FaultyUdp("127.0.0.1", await site.coap_door(), seed=7)
    port = await network.start()
    key = await site.registry.add("b1")
    network.loss, network.duplicates, network.jitter = 0.3, 0.2, 0.1
    sizes = {"queue": 400, "queue_bytes": 20_000, "patience": 1, "keepalive": 6}
    await site.start("128k", link="coap", host="127.0.0.1", port=port, key=key, **sizes)
    await site.more(60, 60)
    await order(site)
    network.rebind()
    await site.more(30, 60)
    await network.stop()
    assert in_order(site.events)
    assert not any(isinstance(record, DeadLetter) for record in site.journal.records())
    assert site.security == []


async def test_a_reading_in_blocks(site: Site) -> None:
    program = PROGRAM.replace('{"count": count}', '{"count": count, "text": "x" * 3000}').replace("0.05", "0.5")
    site.program(program)
    port = await site.coap_door()
    key = await site.registry.add("b1")
    await site.start("256k", link="coap", host="127.0.0.1", port=port, key=key, patience=1, queue_bytes=40_000)
    await site.more(3)
    assert in_order(site.events)
    assert {len(event.data["text"]) for event in site.events} == {3000}


async def test_coap_takes_over_from_mqtt_with_the_same_queue(site: Site) -> None:
    first, port, _ = await site.door()
    other = await site.coap_door()
    key = await site.registry.add("b1")
    links = [{"port": port}, {"link": "coap", "port": other}]
    await site.start("128k", host="127.0.0.1", key=key, links=links, prefer=60, queue=200, patience=1)
    await site.more(20)
    await first.stop()
    await site.more(40)
    await order(site)
    assert "online over coap" in site.logs
    assert in_order(site.events)
    assert site.security == []


async def test_a_jwt_in_place_of_a_key(site: Site) -> None:
    _, _, port = await site.door()
    await site.registry.add("b1", token=False)
    private = ec.generate_private_key(ec.SECP256R1())
    form = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (site.flash / "board.key").write_bytes(form)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    await site.registry.add_public_key("b1", public.decode())
    site.registry.audiences = frozenset({"test"})
    jwt = {"key": "/board.key", "audience": "test"}
    await site.start("128k", host="localhost", port=port, tls={"ca": "/ca.pem"}, jwt=jwt)
    await site.more(20)
    assert in_order(site.events)
    assert site.security == []


async def test_a_jwt_signed_with_a_shared_secret(site: Site) -> None:
    _, _, port = await site.door()
    secret = await site.registry.add("b1", hs256=True)
    site.registry.audiences = frozenset({"test"})
    jwt = {"alg": "HS256", "secret": secret, "audience": "test"}
    await site.start("112k", host="localhost", port=port, tls={"ca": "/ca.pem"}, jwt=jwt)
    await site.more(20)
    assert in_order(site.events)
    assert site.security == []
    # A secret that was replaced opens nothing; the board says so and tries on.
    await site.registry.rotate("b1")
    await until(lambda: any("no key of the device" in line for line in site.security), "the old secret is refused")
    assert secret not in site.logs + "".join(site.security)


async def test_a_half_open_connection_is_left_for_the_next_link(site: Site) -> None:
    _, port, _ = await site.door()
    _, second, _ = await site.door()
    network = FaultyTcp("127.0.0.1", port, seed=5)
    key = await site.registry.add("b1")
    links = [{"port": await network.start()}, {"port": second}]
    await site.start("128k", host="127.0.0.1", key=key, links=links, patience=1, keepalive=4, prefer=60, queue=200)
    await site.more(20)
    assert site.doors[1].counters.accepted == 0
    network.deaf_board = True  # what the board says arrives, and no acknowledgement comes back
    await until(lambda: site.doors[1].counters.accepted == 1, f"the board takes the next; it says {site.logs}")
    await site.more(40)
    await network.stop()
    assert in_order(site.events)
    assert site.security == []
