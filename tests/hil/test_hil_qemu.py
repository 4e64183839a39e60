"""A Cortex-M0 with 16 KB of RAM on the gateway's serial door: the firmware's own link, taken out and made to fit."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_runtime.ingress.serial_find import SerialRule
from hil.board import BoardConfig
from hil.faulty_line import FaultyLine
from hil.qemu_board import QemuBoard, missing
from hil.waiting import until
from tests.ingress.serial_house import SerialHouse


class Site:
    """A door, a line and a board on it."""

    def __init__(self, house: SerialHouse, line: FaultyLine, board: QemuBoard) -> None:
        self.house = house
        self.line = line
        self.board = board

    def kinds(self) -> list[str]:
        return [event.kind for event in self.house.events]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    why = missing()
    if why:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    house = await SerialHouse.build(tmp_path, SerialRule("boards", str(tmp_path / "tty*"), auth=False))
    await house.registry.add("micro-1")
    line = FaultyLine(tmp_path / "tty0", terminal=False)
    line.plug()
    house.lines.append(line)
    board = QemuBoard(tmp_path / "board", BoardConfig("micro-1", "", settings={"period_ms": 100}), line)
    await board.start()
    yield Site(house, line, board)
    await board.stop()
    await house.tear_down()


async def order(site: Site, index: int = 0) -> None:
    """Have the pin switched, as the outbox does: again and again until there is a reply."""
    house = site.house
    command = house.order("micro-1", index, "pin")
    await house.journal.append([command])
    ends = len(house.ends)
    for _ in range(60):
        house.door.deliver(command)
        try:
            await until(lambda: len(house.ends) > ends, "the reply arrives", 1)
        except TimeoutError:
            continue
        break
    assert (house.ends[-1].command, house.ends[-1].status) == (command.id, 0)


def check(site: Site) -> None:
    """Every number once and in order, nothing that could not be read."""
    house = site.house
    assert [event.seq for event in house.events] == list(range(len(house.events)))
    numbers = [event.data["n"] for event in house.events if event.kind == "count"]
    assert numbers == sorted(set(numbers))
    assert house.letters == []
    assert house.security == []


async def test_readings_a_button_and_a_command(site: Site) -> None:
    house = site.house
    await until(lambda: len(house.events) >= 5, "events arrive", 60)
    assert set(site.kinds()) == {"count"}
    await site.board.press("b")
    await until(lambda: "button" in site.kinds(), "the button is an event")
    assert next(event.data for event in house.events if event.kind == "button") == {"button": "b"}
    assert not await site.board.pin()
    await order(site)
    assert await site.board.pin()
    check(site)


async def test_nothing_is_lost_or_doubled_on_a_line_that_spoils_a_third(site: Site) -> None:
    house = site.house
    site.line.damage = 0.3
    await until(lambda: len(house.events) >= 12, "events arrive", 100)
    await order(site)
    check(site)
    assert house.door.figures().damaged > 3
