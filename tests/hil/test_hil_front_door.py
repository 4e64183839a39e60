"""Boards at the gateway's own front door: both sides of `docs/wire.md` meet."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devices.registry import Registry
from devices.twin import Twin, json_content
from edge_runtime.clock import SystemClock
from edge_runtime.events import Event, Origin
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.mqtt import MqttFrontDoor
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Command, CommandEnd
from hil.board import BoardConfig
from hil.process_board import ProcessBoard
from hil.script import installed
from hil.unix_board import UnixBoard
from hil.waiting import until
from hil.wasi_board import WasiBoard

GREENHOUSE = Path(__file__).resolve().parent.parent.parent / "examples" / "greenhouse" / "board"
KINDS = {"unix": UnixBoard, "wasi": WasiBoard}


class Gateway:
    """A front door over a journal in memory."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.security: list[str] = []
        self.log: list[str] = []
        self.listening: list[str] = []

    async def start(self) -> None:
        clock = SystemClock()
        self.registry = await Registry.open(self.journal, clock)
        self.admission = admission = await Admission.open(self.journal, self.registry, clock, self.security.append)
        self.door = MqttFrontDoor(admission, self.registry, clock, security=self.security.append, log=self.log.append)
        self.door.on_listening = self.listening.append
        self.port = await self.door.start("127.0.0.1", 0)

    @property
    def events(self) -> list[Event]:
        return [r for r in self.journal.records() if isinstance(r, Event)]

    @property
    def ends(self) -> list[CommandEnd]:
        return [r for r in self.journal.records() if isinstance(r, CommandEnd)]


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    await gateway.start()
    yield gateway
    await gateway.door.stop()


def make(machine: str, folder: Path, port: int, key: str, program: Path = GREENHOUSE) -> ProcessBoard:
    if not installed(machine):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"no {machine} MicroPython: requirements/micropython.txt"
        )
    config = BoardConfig("house-1", key, port=port, options={"backoff": 1}, settings={"period_ms": 20, "seed": 4})
    return KINDS[machine](folder, program, config)


@pytest.mark.parametrize("machine", KINDS)
async def test_events_in_a_command_out_a_reply_in(tmp_path: Path, gateway: Gateway, machine: str) -> None:
    board = make(machine, tmp_path, gateway.port, await gateway.registry.add("house-1"))
    await board.start()
    try:
        await until(lambda: len(gateway.events) >= 20 and gateway.listening == ["house-1"], "20 events arrive")
        event = gateway.events[10]
        now = SystemClock().now()
        cause = (event.boot, event.seq)
        order = Command("house-1", "fan", {"on": True}, now, now + 60_000_000, Origin("f", 0, event.id, 0), cause)
        await gateway.journal.append([order])
        assert gateway.door.deliver(order)
        await until(lambda: len(gateway.ends) == 1, "the reply arrives")
        await until(lambda: gateway.events[-1].data["fan"] is True, "the fan is on")
    finally:
        await board.stop()
    assert [event.seq for event in gateway.events] == list(range(len(gateway.events)))
    assert {event.kind for event in gateway.events} == {"climate"}
    assert all(abs(event.time - event.received) < 30_000_000 for event in gateway.events)
    assert (gateway.ends[0].command, gateway.ends[0].status, gateway.ends[0].result) == (order.id, 0, {"was": False})
    journal = board.journal()
    assert journal.acknowledged <= {event.id for event in gateway.events}
    assert [(c.id, c.cause, c.repeat) for c in journal.commands] == [(order.id.hex(), event.id, False)]
    assert gateway.security == []


CONFIGURED = """
from edge_device import Device

device = Device.load()


@device.on_config
def configure(config):
    if config["every"] < 1:
        raise ValueError("every is too short")
    device.report({"every": config["every"]})


device.run()
"""


@pytest.mark.parametrize("machine", KINDS)
async def test_a_configuration_in_what_came_of_it_and_a_state_out(
    tmp_path: Path, gateway: Gateway, machine: str
) -> None:
    program = tmp_path / "program"
    program.mkdir()
    (program / "main.py").write_text(CONFIGURED)
    (tmp_path / "board").mkdir()
    board = make(machine, tmp_path / "board", gateway.port, await gateway.registry.add("house-1"), program)
    twin = gateway.admission.twin
    await twin.set_config("house-1", json_content({"every": 5}))
    await board.start()
    try:
        await until(lambda: _told(twin, 1), "the board has taken the first")
        await twin.set_config("house-1", json_content({"every": 0}))
        await until(lambda: _told(twin, 2), "the board has refused the second")
        await twin.set_config("house-1", json_content({"every": 7}))
        await until(lambda: _told(twin, 3), "the board has taken the third")
    finally:
        await board.stop()
    index = await twin.index("house-1")
    assert (index.acknowledged, index.rejected) == (3, 2)
    assert "every is too short" in index.detail
    assert [content.value() for _, content in await twin.states("house-1")] == [{"every": 7}, {"every": 5}]


def _told(twin: Twin, version: int) -> bool:
    index = twin.at_hand("house-1")
    return version in (index.acknowledged, index.rejected) and (version == 2 or len(index.states) == (version + 1) // 2)


async def test_a_wrong_key_is_said_on_both_sides(tmp_path: Path, gateway: Gateway) -> None:
    await gateway.registry.add("house-1")
    board = make("unix", tmp_path, gateway.port, "not-the-key")
    await board.start()
    try:
        await until(lambda: "the key is wrong" in board.logs(), "the board says so")
    finally:
        await board.stop()
    assert gateway.events == []
    assert gateway.security
    assert "not-the-key" not in board.logs() + "".join(gateway.security)
