"""Health in one word, with its reasons."""

from __future__ import annotations

import msgspec

from edge_runtime.flows.flow import Policy
from edge_runtime.planes.instrumentation import FULL, health
from edge_runtime.planes.messages import FlowRow
from tests.planes.house import Answers, House, reading, turns


async def a_row(house: House) -> FlowRow:
    await house.flows.install(Answers())
    return house.control.rows()[0]


async def test_all_is_well(house: House) -> None:
    found = health(True, [await a_row(house)], {})
    assert (found.state, found.words) == ("ok", "ok")


async def test_a_full_storage_comes_first(house: House) -> None:
    waiting = msgspec.structs.replace(await a_row(house), state="waiting", waiting="the target is away")
    found = health(False, [waiting], {"greenhouse": "its files are gone"})
    assert found.state == "full"
    assert found.reasons == [
        FULL,
        "app greenhouse does not run: its files are gone",
        "flow app.f waits: the target is away",
    ]


async def test_a_flow_that_an_operator_has_paused_is_no_illness(house: House) -> None:
    await a_row(house)
    await house.control.pause("app.f")
    assert health(True, house.control.rows(), {}).state == "ok"


async def test_a_flow_that_has_stopped_or_holds_keys_back_is(house: House) -> None:
    for name, policy in (("app.stops", "stop"), ("app.holds", "hold")):
        flow = Answers(name, policy=Policy(retries=0, on_error=policy))
        flow.broken = lambda event: True
        await house.flows.install(flow)
    await house.journal.append([reading(0, 1)])
    await turns()
    found = health(True, house.control.rows(), {})
    assert found.state == "degraded"
    assert "flow app.stops has stopped at an event that fails" in found.reasons
    assert "flow app.holds holds 1 of its keys back" in found.reasons


async def test_timers_that_cannot_fire_are(house: House) -> None:
    found = health(True, [await a_row(house)], {}, "the journal is full")
    assert (found.state, found.reasons) == ("degraded", ["timers that are due wait: the journal is full"])
