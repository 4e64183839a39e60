"""Runs the scenarios of `hil/scenarios/`."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from hil.faulty_line import FaultyLine
from hil.kinds import has, make
from hil.run import Bench
from hil.scenario import Scenario
from tests.hil.real_gateway import RealGateway, View

_NUMBERS = count(1)


@pytest.mark.usefixtures("runnable")
@pytest.mark.timeout(300)
async def test_scenario(
    kind: str, scenario: Scenario, gateway: RealGateway, tmp_path: Path, image: Path | None
) -> None:
    """A scenario on a board, at the gateway's own process."""
    device = f"board-{next(_NUMBERS)}"
    key = await gateway.add(device)
    board, link = await make(kind, tmp_path, device, key, gateway.doors, scenario.period_ms, image)
    try:
        await Bench(board, link, View(gateway, device), has(kind)).run(scenario)
    finally:
        await board.stop()
        if isinstance(link, FaultyLine):
            link.close()
        else:
            await link.stop()
