"""A real MicroPython board on a serial line with faults, at the gateway's own serial door."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devices.twin import json_content
from hil.board import BoardConfig
from hil.faulty_line import FaultyLine
from hil.script import installed
from hil.unix_board import UnixBoard
from hil.waiting import until
from tests.ingress.serial_house import SerialHouse

GREENHOUSE = Path(__file__).resolve().parent.parent.parent / "examples" / "greenhouse" / "board"


class Site:
    """A door, a line and a board on it."""

    def __init__(self, house: SerialHouse, line: FaultyLine, board: UnixBoard) -> None:
        self.house = house
        self.line = line
        self.board = board

    def arrived(self, more: int) -> int:
        return len(self.house.events) + more


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    house = await SerialHouse.build(tmp_path)
    key = await house.registry.add("house-1")
    line = house.line()
    options = {"link": "serial", "backoff": 1, "patience": 4, "keepalive": 4, "queue": 600, "queue_bytes": 60_000}
    config = BoardConfig("house-1", key, options=options, settings={"period_ms": 100, "seed": 4})
    board = UnixBoard(tmp_path / "board", GREENHOUSE, config, heap="256k")
    board.folder.mkdir()
    board.line = line.board
    await board.start()
    yield Site(house, line, board)
    await board.stop()
    await house.tear_down()


async def check(site: Site) -> None:
    """Nothing that the board knows to be acknowledged is missing, nothing is there twice or out of order."""
    await site.board.stop()
    house = site.house
    assert [event.seq for event in house.events] == list(range(len(house.events)))
    assert site.board.journal().acknowledged <= {event.id for event in house.events}
    assert site.board.journal().acknowledged
    assert house.letters == []
    assert house.security == []


async def order(site: Site, index: int = 0) -> None:
    """Have the fan switched, as the outbox does: again and again until there is a reply."""
    command = site.house.order("house-1", index)
    await site.house.journal.append([command])
    ends = len(site.house.ends)
    for _ in range(60):
        site.house.door.deliver(command)
        try:
            await until(lambda: len(site.house.ends) > ends, "the reply arrives", 0.5)
        except TimeoutError:
            continue
        break
    assert site.house.ends[-1].command == command.id
    assert site.house.ends[-1].status == 0
    carried_out = [c for c in site.board.journal().commands if c.id == command.id.hex() and not c.repeat]
    assert len(carried_out) == 1


async def test_events_in_a_command_out_a_reply_in(site: Site) -> None:
    await until(lambda: len(site.house.events) >= 20, "20 events arrive")
    assert site.house.listening == ["house-1"]
    await order(site)
    await until(lambda: site.house.events[-1].data["fan"] is True, "the fan is on")
    assert site.house.door.figures().damaged == 0
    await check(site)


@pytest.mark.parametrize("fault", ["loss", "damage", "slow", "all"])
async def test_a_bad_line(site: Site, fault: str) -> None:
    line = site.line
    line.loss = 0.1 if fault in ("loss", "all") else 0
    line.damage = 0.1 if fault in ("damage", "all") else 0
    line.rate = 5000 if fault in ("slow", "all") else 0
    await until(lambda: len(site.house.events) >= 40, "40 events arrive", 60)
    await order(site)
    await check(site)


async def test_a_cut_line_and_a_half_open_one(site: Site) -> None:
    house, line = site.house, site.line
    await until(lambda: len(house.events) >= 5, "events arrive")
    line.cut = True
    await until(lambda: house.door.connected() == frozenset(), "the silence is noticed", 30)
    line.cut = False
    goal = site.arrived(20)
    await until(lambda: len(house.events) >= goal, "more events arrive", 30)
    line.deaf_board = True
    await asyncio.sleep(0)
    before = house.door.figures().repeats
    await until(lambda: house.door.figures().repeats > before, "the board repeats what is not acknowledged", 30)
    line.deaf_board = False
    goal = site.arrived(20)
    await until(lambda: len(house.events) >= goal, "more events arrive", 30)
    await order(site)
    await check(site)


async def test_unplugged_and_plugged_in_again_with_power_on(site: Site) -> None:
    house, line = site.house, site.line
    for _ in range(3):
        goal = site.arrived(10)
        await until(lambda goal=goal: len(house.events) >= goal, "events arrive", 30)  # type: ignore[misc]
        line.unplug()
        await until(lambda: house.door.connected() == frozenset(), "it is noticed")
        line.plug()
    goal = site.arrived(10)
    await until(lambda: len(house.events) >= goal, "events arrive", 30)
    await check(site)


async def test_a_power_cut_of_the_board(site: Site) -> None:
    await until(lambda: len(site.house.events) >= 10, "events arrive")
    await site.board.kill()
    await site.board.start()
    boot = site.house.events[0].boot
    await until(lambda: site.house.events[-1].boot != boot, "events of the next start arrive", 30)
    goal = site.arrived(10)
    await until(lambda: len(site.house.events) >= goal, "more events arrive", 30)
    await site.board.stop()
    assert site.board.journal().acknowledged <= {event.id for event in site.house.events}
    assert len({event.id for event in site.house.events}) == len(site.house.events)
    assert site.house.letters == []


CONFIGURED = """
from edge_device import Device

device = Device.load()


@device.on_config
def configure(config):
    if config["every"] < 1:
        raise ValueError("every is too short")
    device.report({"every": config["every"], "text": len(config.get("text", ""))})


device.run()
"""


async def test_a_configuration_over_a_bad_line(tmp_path: Path) -> None:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    house = await SerialHouse.build(tmp_path)
    twin = house.door.admission.twin
    key = await house.registry.add("house-1")
    await twin.set_config("house-1", json_content({"every": 5}))
    line = house.line(seed=3)
    line.loss = line.damage = 0.05
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "main.py").write_text(CONFIGURED)
    options = {"link": "serial", "backoff": 1, "patience": 4, "keepalive": 4}
    board = UnixBoard(tmp_path / "board", tmp_path / "program", BoardConfig("house-1", key, options=options))
    board.folder.mkdir()
    board.line = line.board
    await board.start()
    try:
        await until(lambda: twin.at_hand("house-1").acknowledged == 1, "the board has taken the first", 40)
        await twin.set_config("house-1", json_content({"every": 0}))
        await until(lambda: twin.at_hand("house-1").rejected == 2, "the board has refused the second", 40)
        await twin.set_config("house-1", json_content({"every": 7, "text": "x" * 400}))
        await until(lambda: twin.at_hand("house-1").acknowledged == 3, "the board has taken one in fragments", 40)
        await until(lambda: len(twin.at_hand("house-1").states) == 2, "the states have come", 40)
    finally:
        await board.stop()
        await house.tear_down()
    states = [content.value() for _, content in await twin.states("house-1")]
    assert states == [{"every": 7, "text": 400}, {"every": 5, "text": 0}]
    assert house.letters == []
