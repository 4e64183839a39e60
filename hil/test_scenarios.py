"""Runs the scenarios of `hil/scenarios/`."""

from __future__ import annotations

import contextlib
from itertools import count
from pathlib import Path

import pytest

from hil.faulty_line import FaultyLine
from hil.kinds import Place, kind_of
from hil.port_board import PortBoard
from hil.run import Bench
from hil.scenario import Scenario
from hil.waiting import until
from tests.hil.real_gateway import RealGateway, View

PROMPT = 10.0
"""Seconds that a board gets to give its prompt back."""
_NUMBERS = count(1)


async def give_back(view: View, line: FaultyLine) -> None:
    """Have the board's program end, so that the prompt is there for the next scenario; its lease ends it anyway."""
    heard = line.heard
    await view.order("prompt", None)
    with contextlib.suppress(TimeoutError):
        await until(lambda: b">>> " in line.since(heard), "the prompt is there", PROMPT)


@pytest.mark.usefixtures("runnable")
@pytest.mark.timeout(300)
async def test_scenario(
    kind: str, scenario: Scenario, gateway: RealGateway, tmp_path: Path, image: Path | None
) -> None:
    """A scenario on a board, at the gateway's own process."""
    device = f"board-{next(_NUMBERS)}"
    place = Place(tmp_path, device, await gateway.add(device), gateway.doors, scenario.period_ms, image)
    board, link = await kind_of(kind).make(place)
    view = View(gateway, device)
    try:
        await Bench(board, link, view).run(scenario)
    finally:
        if isinstance(board, PortBoard) and board.running and isinstance(link, FaultyLine):
            link.heal()
            if not link.plugged:
                link.plug()
            await give_back(view, link)
        await board.stop()
        await link.stop()
