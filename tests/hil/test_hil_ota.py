"""Updates over the air, from a front door to boards that really start again: the unix port, with the boot loader."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devices.ota import Ota
from devices.registry import Registry
from devices.release_store import ReleaseStore, new_package
from devices.releases import manifest_of
from devices.rollouts import Rollout, Stand
from edge_runtime import wire_ota
from edge_runtime.clock import SystemClock
from edge_runtime.events import Event
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.coap import CoapFrontDoor
from edge_runtime.ingress.coap_site import CoapSite
from edge_runtime.ingress.doors import Doors
from edge_runtime.ingress.mqtt import MqttFrontDoor
from edge_runtime.ingress.serial import SerialFrontDoor
from edge_runtime.ingress.serial_find import SerialRule
from edge_runtime.ingress.stamps import Stamps
from edge_runtime.journal.memory import MemoryJournal
from hil.faulty_line import FaultyLine
from hil.faulty_network import FaultyTcp, FaultyUdp
from hil.script import installed
from hil.waiting import until
from tests.hil.updatable import PROGRAM, UpdatableBoard, release_files

DEVICE = "gh-1"
PATIENCE = 60
CRASHES = "import bme280\n" + PROGRAM
ELSEWHERE = PROGRAM.replace("device.run()", "device.config.link.port = 9\ndevice.run()")

SHORT = """
import os

from edge_device import ota


class Os:
    def __getattr__(self, name):
        return getattr(os, name)

    def statvfs(self, path):
        return (4096, 4096, 100, 20, 20)


ota.os = Os()
"""


class Gateway:
    """Front doors over a journal in memory, and what they carry of updates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = MemoryJournal()
        self.security: list[str] = []
        self.log: list[str] = []

    async def start(self) -> None:
        clock = SystemClock()
        self.registry = await Registry.open(self.journal, clock)
        self.key = await self.registry.add(DEVICE)
        self.store = ReleaseStore(self.folder / "releases")
        self.ota = await Ota.open(self.journal, self.registry, clock, self.store, self.log.append)
        admission = await Admission.open(self.journal, self.registry, clock, self.security.append)
        admission.ota = self.ota
        self.door = MqttFrontDoor(admission, self.registry, clock, security=self.security.append, log=self.log.append)
        rule = SerialRule("boards", str(self.folder / "tty*"), "", "", 115_200, True)
        self.serial = SerialFrontDoor(
            admission,
            self.registry,
            clock,
            [rule],
            security=self.security.append,
            log=self.log.append,
            random=os.urandom,
            ports=list,
        )
        self.coap = CoapFrontDoor(
            admission,
            self.registry,
            clock,
            security=self.security.append,
            log=self.log.append,
            random=random.Random(1).random,
            stamps=Stamps(b"gateway!"),
            elsewhere=lambda door: CoapSite(door, clock, oscore=self.folder / "oscore"),
        )
        doors = Doors([self.door, self.serial, self.coap])
        self.ota.tell = lambda device, word, payload: doors.tell(device, f"ota/{word}", payload)
        self.ota.connected = doors.connected
        self.port = await self.door.start("127.0.0.1", 0)
        self.coap_port = await self.coap.start("127.0.0.1", 0)
        await self.serial.start()

    async def stop(self) -> None:
        await self.serial.stop()
        await self.coap.stop()
        await self.door.stop()

    def versions(self) -> list[str]:
        """What the board has sent, repeats left out."""
        events = [r.data["version"] for r in self.journal.records() if isinstance(r, Event) and r.kind == "climate"]
        return [v for i, v in enumerate(events) if not i or events[i - 1] != v]

    async def roll_out(
        self, version: str = "2.0", text: str = PROGRAM, *, health: int = 30, proof: str = "report"
    ) -> Rollout:
        files = release_files(version, text)
        manifest = manifest_of("greenhouse", version, files, health=health, proof=proof)
        release = self.store.take_in(new_package(files, manifest), SystemClock().now())
        return await self.ota.roll_out(release.id, [DEVICE])

    def stand(self, rollout: Rollout) -> Stand:
        return self.ota.stand(self.ota.rollout(rollout.number), DEVICE)

    async def wait_for(self, rollout: Rollout, stand: Stand) -> None:
        await self.ota.look()
        await until(lambda: self.stand(rollout) is stand, f"the device {stand.value}", timeout=PATIENCE)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    gateway = Gateway(tmp_path)
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
async def board(tmp_path: Path, gateway: Gateway) -> AsyncIterator[UpdatableBoard]:
    settings = {"device": DEVICE, "key": gateway.key, "host": "127.0.0.1", "port": gateway.port, "backoff": 1}
    board = UpdatableBoard(tmp_path, settings)
    yield board
    await board.cut()


async def test_an_update(gateway: Gateway, board: UpdatableBoard) -> None:
    await board.start()
    await until(lambda: gateway.versions() == ["1.0"], "the board sends", timeout=PATIENCE)
    rollout = await gateway.roll_out(proof="event")
    await gateway.wait_for(rollout, Stand.RUNS)
    await until(lambda: gateway.versions() == ["1.0", "2.0"], "the new version sends", timeout=PATIENCE)
    assert board.starts == 2
    assert board.slot("b") == release_files("2.0")
    assert gateway.ota.bytes < 20_000, "the firmware, which is the same, is not fetched"
    await gateway.ota.look()
    assert gateway.ota.rollout(rollout.number).state == "done"
    assert gateway.security == []


async def test_one_that_crashes_while_it_is_imported(gateway: Gateway, board: UpdatableBoard) -> None:
    await board.start()
    rollout = await gateway.roll_out(text=CRASHES)
    await gateway.wait_for(rollout, Stand.ROLLED_BACK)
    told = gateway.ota.told(DEVICE)
    assert told.detail.startswith("it was not confirmed in its starts: ImportError:")
    assert "bme280" in told.detail
    await until(lambda: gateway.versions() == ["1.0"], "the old version sends", timeout=PATIENCE)
    assert board.starts == 1 + 3 + 1
    await gateway.ota.look()
    assert gateway.ota.rollout(rollout.number).state == "paused"


async def test_one_that_never_connects(gateway: Gateway, board: UpdatableBoard) -> None:
    await board.start()
    rollout = await gateway.roll_out(text=ELSEWHERE, health=10)
    await gateway.wait_for(rollout, Stand.ROLLED_BACK)
    assert gateway.ota.told(DEVICE).detail == "it was not confirmed in its time"
    assert board.starts == 3


async def test_the_link_is_cut_and_the_board_is(gateway: Gateway, board: UpdatableBoard) -> None:
    network = FaultyTcp("127.0.0.1", gateway.port)
    await network.start()
    try:
        board.settings |= {"port": network.port, "patience": 2, "packet": 64}
        await board.start()
        rollout = await gateway.roll_out(text=PROGRAM + "# " + "x" * 6000)
        await gateway.wait_for(rollout, Stand.FETCHING)
        await until(lambda: gateway.ota.pieces > 20, "it fetches", timeout=PATIENCE)
        network.break_connections()
        await until(lambda: gateway.ota.pieces > 60, "it goes on fetching", timeout=PATIENCE)
        await board.cut()
        before = gateway.ota.bytes
        assert gateway.versions() == ["1.0"]
        await board.start()
        await gateway.wait_for(rollout, Stand.RUNS)
        assert gateway.ota.bytes < before + 12_000, "it goes on where it was"
    finally:
        await network.stop()
    assert board.slot("b") == release_files("2.0", PROGRAM + "# " + "x" * 6000)


async def test_pieces_that_come_damaged(gateway: Gateway, board: UpdatableBoard) -> None:
    tell, damaged = gateway.ota.tell, 2

    def spoiled(device: str, word: str, payload: bytes) -> bool:
        nonlocal damaged
        if word == "data" and damaged:
            damaged -= 1
            payload = payload[:-1] + bytes((payload[-1] ^ 1,))
        return tell(device, word, payload)

    gateway.ota.tell = spoiled
    await board.start()
    rollout = await gateway.roll_out()
    await gateway.wait_for(rollout, Stand.RUNS)
    assert not damaged
    assert board.slot("b") == release_files("2.0")


async def test_an_offer_with_a_wrong_proof(
    gateway: Gateway, board: UpdatableBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove = wire_ota.prove
    monkeypatch.setattr(wire_ota, "prove", lambda _key, *rest: prove(bytes(32), *rest))
    await board.start()
    rollout = await gateway.roll_out()
    await gateway.wait_for(rollout, Stand.FAILED)
    assert gateway.ota.told(DEVICE).detail == "the offer is not signed with this board's key"
    assert gateway.ota.pieces == 0
    assert board.slot("b") == {}


async def test_a_flash_that_is_short(gateway: Gateway, board: UpdatableBoard) -> None:
    (board.flash / "a" / "main.py").write_text(SHORT + PROGRAM.replace("VERSION", "'1.0'"))
    await board.start()
    rollout = await gateway.roll_out()
    await gateway.wait_for(rollout, Stand.FAILED)
    assert gateway.ota.told(DEVICE).detail.startswith("the flash is short: it needs ")
    await until(lambda: gateway.versions() == ["1.0"], "it goes on sending", timeout=PATIENCE)
    assert board.slot("b") == {}
    assert board.starts == 1


async def test_paused_and_resumed(gateway: Gateway, board: UpdatableBoard) -> None:
    board.settings |= {"packet": 64}
    await board.start()
    rollout = await gateway.roll_out(text=PROGRAM + "# " + "x" * 6000)
    await until(lambda: gateway.ota.pieces > 20, "it fetches", timeout=PATIENCE)
    await gateway.ota.pause(rollout.number)
    await until(lambda: gateway.ota.told(DEVICE).state == "idle", "it stops", timeout=PATIENCE)
    pieces = gateway.ota.pieces
    before = len(gateway.journal.records())
    await until(lambda: len(gateway.journal.records()) > before + 3, "it goes on sending", timeout=PATIENCE)
    assert gateway.ota.pieces == pieces
    await gateway.ota.resume(rollout.number)
    await gateway.wait_for(rollout, Stand.RUNS)


async def test_over_coap_on_a_bad_network(gateway: Gateway, board: UpdatableBoard) -> None:
    network = FaultyUdp("127.0.0.1", gateway.coap_port)
    await network.start()
    network.loss = 0.1
    network.duplicates = 0.1
    try:
        board.settings |= {"link": "coap", "port": network.port, "patience": 1, "keepalive": 4}
        await board.start()
        await until(lambda: gateway.versions() == ["1.0"], "the board sends", timeout=PATIENCE)
        rollout = await gateway.roll_out(proof="event")
        await gateway.wait_for(rollout, Stand.RUNS)
        await until(lambda: gateway.versions() == ["1.0", "2.0"], "the new version sends", timeout=PATIENCE)
    finally:
        await network.stop()
    assert board.slot("b") == release_files("2.0")
    assert gateway.security == []


async def test_over_coap_paused_and_resumed(gateway: Gateway, board: UpdatableBoard) -> None:
    board.settings |= {"link": "coap", "port": gateway.coap_port, "keepalive": 4, "packet": 64}
    await board.start()
    rollout = await gateway.roll_out(text=PROGRAM + "# " + "x" * 6000)
    await until(lambda: gateway.ota.pieces > 20, "it fetches", timeout=PATIENCE)
    await gateway.ota.pause(rollout.number)
    await until(lambda: gateway.ota.told(DEVICE).state == "idle", "it stops", timeout=PATIENCE)
    await gateway.ota.resume(rollout.number)
    await gateway.wait_for(rollout, Stand.RUNS)


async def test_over_a_bad_serial_line(gateway: Gateway, board: UpdatableBoard, tmp_path: Path) -> None:
    line = FaultyLine(tmp_path / "tty0")
    line.loss = line.damage = 0.01
    line.plug()
    try:
        board.settings = {"device": DEVICE, "key": gateway.key, "link": "serial", "ring": 255}
        await board.start(line.board)
        rollout = await gateway.roll_out()
        await gateway.wait_for(rollout, Stand.RUNS)
    finally:
        await board.cut()
        line.close()
    assert board.slot("b") == release_files("2.0")
