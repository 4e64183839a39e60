"""What flows keep: through rewinds, restarts, full disks and dry runs."""

from __future__ import annotations

import json

import pytest

from edge_runtime.errors import EdgeError
from edge_runtime.flows import states
from edge_runtime.flows.flows import Choice
from edge_runtime.flows.replay import Replay
from edge_runtime.journal.records import REMOVED_KEPT, Command, StateChange
from tests.flows.conftest import House, Keeping, event, turns

NAME = "app.f"


async def kept(house: House) -> dict[str, list[int]]:
    found = await house.journal.states(NAME, ["gh-1", "gh-2"])
    return {key: json.loads(state["seen"][0]) for key, state in found.items()}


async def with_five(house: House) -> None:
    await house.flows.install(Keeping(NAME))
    await house.journal.append([event(0), event(1, "gh-2"), event(2), event(3), event(4, "gh-2")])
    await turns()
    assert await kept(house) == {"gh-1": [0, 2, 3], "gh-2": [1, 4]}


def offset(house: House, seq: int) -> int:
    return next(at for at, record in enumerate(house.journal.records()) if getattr(record, "seq", None) == seq)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("restored", {"gh-1": [0, 2, 3], "gh-2": [1, 4]}),
        ("reset", {"gh-1": [2, 3], "gh-2": [4]}),
        ("kept", {"gh-1": [0, 2, 3, 2, 3], "gh-2": [1, 4, 4]}),
    ],
)
async def test_a_rewind_with_a_choice(house: House, choice: Choice, expected: dict[str, list[int]]) -> None:
    await with_five(house)
    await house.flows.rewind(NAME, offset(house, 1), state=choice)
    await turns()
    assert await kept(house) == expected
    assert house.flows.runners[NAME].state.rewriting is None
    changes = house.of(StateChange)
    assert all(change.entries != change.before for change in changes)


@pytest.mark.parametrize("choice", ["restored", "reset"])
async def test_much_is_put_back_in_pieces(house: House, monkeypatch: pytest.MonkeyPatch, choice: Choice) -> None:
    monkeypatch.setattr(states, "CHUNK_BYTES", 5_000)
    await house.flows.install(Keeping(NAME))
    many = {f"e{number:03}": (str(number), 0) for number in range(100)}
    await house.journal.append([event(0)])
    await turns()
    for key in ("x", "y"):
        await house.journal.append([StateChange(NAME, key, dict(many), dict.fromkeys(many), 99)])
    records = len(house.journal.records())
    await house.flows.rewind(NAME, offset(house, 0) if choice == "restored" else -1, state=choice)
    await turns()
    assert await house.journal.states(NAME, ["x", "y"]) == {}
    changes = [record for record in house.journal.records()[records:] if isinstance(record, StateChange)]
    assert max(len(change.entries) for change in changes) <= 25, "no append is too large"
    assert sum(len(change.entries) for change in changes if change.key in ("x", "y")) == 200, "each once"


async def test_a_rewind_of_what_keeps_something_needs_a_choice(house: House) -> None:
    await house.flows.install(Keeping(NAME))
    await house.flows.rewind(NAME, -1)  # nothing is kept yet
    await with_five(house)
    with pytest.raises(EdgeError, match=r"'app\.f' keeps state") as refused:
        await house.flows.rewind(NAME, -1)
    assert "--state restored" in refused.value.hint
    assert house.flows.runners[NAME].state.epoch == 1


async def test_restored_twice_over_another_rewind(house: House) -> None:
    await with_five(house)
    await house.flows.rewind(NAME, offset(house, 2), state="reset")
    await turns()
    assert await kept(house) == {"gh-1": [3], "gh-2": [4]}
    await house.flows.rewind(NAME, offset(house, 3), state="restored")
    await turns()
    assert await kept(house) == {"gh-1": [3], "gh-2": [4]}
    await house.flows.rewind(NAME, offset(house, 0), state="restored")
    await turns()
    assert await kept(house) == {"gh-1": [0, 2, 3], "gh-2": [1, 4]}


async def test_a_full_disk_puts_it_off_and_a_restart_goes_on(house: House) -> None:
    await with_five(house)
    await house.flows.rewind(NAME, -1, state="restored")
    house.journal.full = True
    await turns()
    runner = house.flows.runners[NAME]
    assert "cannot be put back" in runner.stats.waiting
    assert await kept(house) == {"gh-1": [0, 2, 3], "gh-2": [1, 4]}
    again = await house.after_crash()
    flow = Keeping(NAME)
    await again.flows.install(flow, resume=True)
    await turns()
    assert await kept(again) == {"gh-1": [0, 2, 3], "gh-2": [1, 4]}
    assert [item.seq for item in flow.taken] == [0, 1, 2, 3, 4]
    second = [command.args for command in again.of(Command) if command.origin.epoch == 1 and command.device == "gh-1"]
    assert second == []  # withheld: the rewind was quiet


async def test_the_room_that_comes_back_lets_it_go_on(house: House) -> None:
    await with_five(house)
    await house.flows.rewind(NAME, -1, state="reset")
    house.journal.full = True
    await turns()
    house.journal.full = False
    await house.time()
    assert await kept(house) == {"gh-1": [0, 2, 3], "gh-2": [1, 4]}


async def test_pausing_meanwhile_neither_loses_nor_doubles_it(house: House) -> None:
    await with_five(house)
    await house.flows.rewind(NAME, -1, state="reset")
    await house.flows.pause(NAME)
    await turns()
    assert await kept(house) == {}
    await house.flows.resume(NAME)
    await turns()
    assert await kept(house) == {"gh-1": [0, 2, 3], "gh-2": [1, 4]}


async def test_a_flow_that_was_forgotten_begins_with_nothing(house: House) -> None:
    await with_five(house)
    await house.flows.remove(NAME)
    house.clock.advance(REMOVED_KEPT + 1)
    await house.flows.install(Keeping(NAME, start="latest"))
    await turns()
    assert await kept(house) == {}


async def test_a_flow_that_comes_back_in_time_keeps_what_it_kept(house: House) -> None:
    await with_five(house)
    await house.flows.remove(NAME)
    house.clock.advance(REMOVED_KEPT - 1)
    await house.flows.install(Keeping(NAME, start="latest"))
    await house.journal.append([event(5)])
    await turns()
    assert await kept(house) == {"gh-1": [0, 2, 3, 5], "gh-2": [1, 4]}


async def test_a_dry_run_begins_with_what_was_kept_then(house: House) -> None:
    await with_five(house)
    replay = Replay(Keeping(NAME), 0, house.journal, house.clock, limit=100)
    found = await replay.run(offset(house, 2), house.flows.feed.head)
    assert (found.events, found.same, found.changed, found.new) == (3, 3, 0, 0)
    assert await kept(house) == {"gh-1": [0, 2, 3], "gh-2": [1, 4]}


async def test_a_dry_run_does_not_see_what_the_live_flow_keeps_meanwhile(house: House) -> None:
    await with_five(house)
    head = house.flows.feed.head
    then = await states.ScratchStates.at(house.journal, NAME, offset(house, 2), head)
    await house.journal.append([event(5), event(6, "gh-2"), event(7, "gh-3")])
    await turns()
    found = await then.of(NAME, ["gh-1", "gh-2", "gh-3"])
    assert {key: json.loads(state["seen"][0]) for key, state in found.items()} == {"gh-1": [0, 2], "gh-2": [1]}
    then.apply(StateChange(NAME, "gh-2", {"seen": ("[9]", 0)}, {}))
    await house.journal.append([event(8, "gh-2")])
    await turns()
    assert (await then.of(NAME, ["gh-2"]))["gh-2"]["seen"] == ("[9]", 0)


async def test_what_has_no_place_in_memory_is_read_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "MAX_CACHED", 1)
    await with_five(house)
    await house.journal.append([event(5), event(6, "gh-2"), event(7)])
    await turns()
    await house.journal.append([event(8, "gh-2")])
    await turns()
    assert await kept(house) == {"gh-1": [0, 2, 3, 5, 7], "gh-2": [1, 4, 6, 8]}


async def test_a_second_rewind_waits_for_the_first(house: House) -> None:
    await with_five(house)
    await house.flows.rewind(NAME, -1, state="reset")
    house.journal.full = True
    await turns()
    with pytest.raises(EdgeError, match=r"'app\.f' is being rewound"):
        await house.flows.rewind(NAME, -1, state="restored")
    house.journal.full = False
    await house.time()
    await house.flows.rewind(NAME, offset(house, 2), state="restored")
    await turns()
    assert await kept(house) == {"gh-1": [0, 2, 3], "gh-2": [1, 4]}


async def test_state_that_the_journal_has_forgotten_is_not_remembered_here(house: House) -> None:
    await with_five(house)
    await house.flows.remove(NAME)
    house.clock.advance(REMOVED_KEPT + 1)
    house.journal._projection.states.clear()  # as the database removes it, without a record
    await house.flows.install(Keeping(NAME, start="latest"))
    await house.journal.append([event(5)])
    await turns()
    assert await kept(house) == {"gh-1": [5]}
