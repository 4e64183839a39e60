"""Lineage: the tree around an event or a command, and what its words mean."""

from __future__ import annotations

import pytest

from edge_runtime.errors import EdgeError, NotFound
from edge_runtime.events import Event
from edge_runtime.flows.deadletters import Selection
from edge_runtime.flows.ports import Unavailable
from edge_runtime.journal.records import Command, CommandEnd, DeadLetter, Dropped, Retry, Trimmed
from tests.planes.house import Answers, House, reading, turns


async def chain(house: House) -> None:
    """climate -> app.f -> alarm -> app.g -> command siren; and a route of climate."""
    second = Answers("app.g", kind="alarm")
    second.emits = ""
    for flow in (Answers("app.f"), second):
        await house.flows.install(flow)
    await house.journal.append([reading(0, 1), reading(1, 2)])
    await turns()


async def test_an_event_leads_down_to_everything_it_has_caused(house: House) -> None:
    await chain(house)
    trace = await house.lineage.trace(reading(1, 2).id)
    root = trace.root
    assert (root.id, root.asked, trace.complete) == (reading(1, 2).id, True, True)
    assert [(node.type, node.flow) for node in root.effects] == [("command", "app.f"), ("event", "app.f")]
    (siren,) = root.effects[1].effects
    assert (siren.type, siren.flow, siren.state) == ("command", "app.g", "under way")
    assert [step.flow for step in root.steps] == ["app.f"]


async def test_a_command_leads_up_to_the_devices_event(house: House) -> None:
    await chain(house)
    siren = next(c for c in house.of(Command) if c.origin.flow == "app.g")
    await house.journal.append([CommandEnd(siren.id, "gh-1", 1, "it is stuck", 3)])
    trace = await house.lineage.trace(siren.id.hex())
    assert trace.root.id == reading(0, 1).id
    assert not trace.root.asked
    (alarm,) = trace.root.effects
    (command,) = alarm.effects
    assert alarm.type == "event"
    assert (command.asked, command.state, command.result) == (True, "failed", "it is stuck")


async def test_an_emitted_event_leads_both_ways(house: House) -> None:
    await chain(house)
    alarm = next(e for e in house.of(Event) if e.origin is not None)
    trace = await house.lineage.trace(alarm.id)
    assert trace.root.id == alarm.origin.cause
    assert trace.root.effects[0].asked
    assert [node.type for node in trace.root.effects[0].effects] == ["command"]


async def test_epochs_are_told_apart(house: House) -> None:
    await chain(house)
    await house.flows.rewind("app.f", -1, quiet=False)
    await turns()
    root = (await house.lineage.trace(reading(0, 1).id)).root
    assert [(node.type, node.epoch) for node in root.effects] == [
        ("command", 0),
        ("event", 0),
        ("command", 1),
        ("event", 1),
    ]


async def test_dead_letters_and_what_became_of_them(house: House) -> None:
    flow = Answers("app.f")
    flow.broken = lambda event: not event.late
    await house.flows.install(flow)
    await house.journal.append([reading(0, 1), reading(1, 2)])
    await turns()
    root = (await house.lineage.trace(reading(0, 1).id)).root
    assert [(node.type, node.state) for node in root.effects] == [("dead-letter", "open")]
    assert root.steps[0].state == "dead letter"
    one, other = (house.offset(letter) for letter in house.of(DeadLetter))
    await house.letters.retry(Selection([one]))
    await house.letters.drop(Selection([other]))
    await turns()
    assert (len(house.of(Retry)), len(house.of(Dropped))) == (1, 1)
    root = (await house.lineage.trace(reading(0, 1).id)).root
    assert [(node.type, node.state) for node in root.effects[:2]] == [
        ("dead-letter", "retried"),
        ("command", "under way"),
    ]
    assert root.steps[0].state == "done"
    dropped = (await house.lineage.trace(reading(1, 2).id)).root
    assert dropped.effects[0].state == "dropped"


async def test_a_route_says_whether_it_has_delivered(house: House) -> None:
    route = Answers("app.route")
    await house.flows.install(route)
    await house.journal.append([reading(0, 1)])
    await turns()
    route.away = [Unavailable("the target is away")] * 9
    await house.journal.append([reading(1, 2)])
    await turns()
    states = [(await house.lineage.trace(reading(seq, 0).id)).root.steps[0] for seq in (0, 1)]
    assert [(step.flow, step.type, step.state) for step in states] == [
        ("app.route", "route", "delivered"),
        ("app.route", "route", "waiting"),
    ]


async def test_causes_that_are_not_kept_any_more_are_named(house: House) -> None:
    await chain(house)
    command = house.of(Command)[1]
    await house.journal.append([Trimmed(house.offset(reading(1, 2)), 5)])
    trace = await house.lineage.trace(command.id.hex())
    assert (trace.root.type, trace.root.id) == ("unknown", command.origin.cause)
    assert trace.root.effects[0].asked
    with pytest.raises(NotFound, match="from record"):
        await house.lineage.trace(command.origin.cause)


async def test_since_narrows_the_search(house: House) -> None:
    await chain(house)
    at = house.offset(reading(1, 2))
    assert (await house.lineage.trace(reading(1, 2).id, at)).root.asked
    with pytest.raises(NotFound, match=f"since record {at}"):
        await house.lineage.trace(reading(0, 1).id, at)


@pytest.mark.parametrize("identity", ["gh-1/f00d/1", "gh-1", "", "f" * 31, "F" * 32, "../../etc/passwd"])
async def test_what_is_no_id_is_said_so(house: House, identity: str) -> None:
    with pytest.raises(EdgeError, match="is not the id") as refused:
        await house.lineage.trace(identity)
    assert "edge tail" in refused.value.hint


async def test_an_id_that_is_not_there_is_not_found(house: House) -> None:
    for identity in ("gh-1/f00d000102030405/1", "f" * 32):
        with pytest.raises(NotFound, match="there is no event or command"):
            await house.lineage.trace(identity)
