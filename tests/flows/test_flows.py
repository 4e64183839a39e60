"""Flows over the restricted journal, in virtual time: order, once, back-off, hand-over, laziness."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from edge_runtime.errors import NotFound
from edge_runtime.events import Event
from edge_runtime.flows.feed import Feed
from edge_runtime.flows.flow import Taken, Turn
from edge_runtime.flows.flows import SAVE_EVERY
from edge_runtime.flows.runner import FIRST_WAIT, LONGEST_WAIT
from edge_runtime.journal.records import REMOVED_KEPT, Command, FlowState, Progress
from tests.flows.conftest import House, Orders, event, turns


async def test_every_event_has_its_effect_once_and_in_order(house: House) -> None:
    flow = Orders()
    await house.flows.install(flow)
    for start in range(0, 1000, 100):
        await house.journal.append([event(seq, device=f"gh-{seq % 7}") for seq in range(start, start + 100)])
        await turns(3)
    await turns()
    assert [item.seq for item in flow.taken] == list(range(1000))
    assert len(house.of(Command)) == 1000
    await house.flows.stop()


async def test_after_a_crash_nothing_is_missing_and_nothing_doubled(house: House) -> None:
    await house.flows.install(Orders())
    await house.journal.append([event(seq) for seq in range(10)])
    await turns()
    await house.journal.append([event(seq) for seq in range(10, 20)])
    after = await house.after_crash()
    await after.flows.install(Orders(), resume=True)
    await turns()
    commands = after.of(Command)
    assert len(commands) == len({command.id for command in commands}) == 20
    await after.flows.stop()


async def test_other_kinds_pass_without_a_call(house: House) -> None:
    flow = Orders(kind="door")
    await house.flows.install(flow)
    await house.journal.append([event(0), event(1, kind="door"), event(2)])
    await turns()
    assert [item.seq for item in flow.taken] == [1]
    assert house.flows.runners["app.f"].lag <= 1
    await house.flows.stop()


async def test_progress_without_effects_is_committed_lazily_and_only_once(house: House) -> None:
    one, other = Orders("app.one"), Orders("app.other")
    one.silent = other.silent = True
    await house.flows.install(one)
    await house.flows.install(other)
    for seq in range(100):
        await house.journal.append([event(seq)])
        await turns(3)

    def saved() -> int:
        return sum(isinstance(record, Progress) for record in house.journal.records())

    assert saved() == 0
    for runner in house.flows.runners.values():
        await runner.save()
    await turns()
    assert saved() == 2
    for runner in house.flows.runners.values():
        await runner.save()
    assert saved() == 2, "progress records of other flows must not count as news"
    await house.flows.stop()


async def test_put_off_progress_is_committed_as_time_passes(house: House) -> None:
    flow = Orders()
    flow.silent = True
    await house.flows.install(flow)
    ticking = asyncio.create_task(house.flows.run())
    await house.journal.append([event(0)])
    await turns()
    house.clock.advance(SAVE_EVERY)
    await turns()
    ticking.cancel()
    assert (await house.journal.tables()).flows["app.f"].cursor >= 1
    await house.flows.stop()


async def test_a_target_that_is_away_costs_nothing_but_time(house: House) -> None:
    flow = Orders()
    flow.out_of_reach = lambda item: item.seq >= 3
    await house.flows.install(flow)
    await house.journal.append([event(seq) for seq in range(6)])
    await turns()
    assert len(house.of(Command)) == 3, "what could be done is committed"
    assert "away" in house.flows.runners["app.f"].stats.waiting
    flow.out_of_reach = lambda item: False
    await turns()
    assert len(house.of(Command)) == 3, "it waits before it tries again"
    house.clock.advance(FIRST_WAIT)
    await turns()
    assert [item.seq for item in flow.taken] == [0, 1, 2, 3, 4, 5]
    assert house.flows.runners["app.f"].stats.waiting == ""
    await house.flows.stop()


async def test_the_wait_grows_to_its_limit(house: House) -> None:
    flow = Orders()
    tries: list[int] = []

    def away(_: Event) -> bool:
        tries.append(house.clock.monotonic())
        return True

    flow.out_of_reach = away
    await house.flows.install(flow)
    await house.journal.append([event(0)])
    await turns()
    for _ in range(4000):
        house.clock.advance(FIRST_WAIT // 2)
        await turns(4)
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps[0] <= FIRST_WAIT
    assert LONGEST_WAIT // 2 <= gaps[-1] <= LONGEST_WAIT + FIRST_WAIT
    await house.flows.stop()


async def test_a_full_journal_stops_the_effects_and_loses_none(house: House) -> None:
    flow = Orders()
    await house.journal.append([event(seq) for seq in range(3)])
    await house.flows.install(flow)
    house.journal.full = True
    await turns()
    assert house.of(Command) == []
    house.journal.full = False
    house.clock.advance(FIRST_WAIT)
    await turns()
    assert len(house.of(Command)) == 3
    await house.flows.stop()


async def test_a_replaced_flow_goes_on_where_the_old_one_stood(house: House) -> None:
    old, new = Orders(), Orders()
    await house.flows.install(old)
    await house.journal.append([event(0), event(1)])
    await turns()
    await house.flows.install(new)
    await house.journal.append([event(2)])
    await turns()
    assert ([e.seq for e in old.taken], [e.seq for e in new.taken]) == ([0, 1], [2])
    assert house.flows.runners["app.f"].state.generation == 2
    await house.flows.stop()


async def test_a_commit_of_an_old_generation_is_refused_and_its_runner_ends(house: House) -> None:
    flow = Orders()
    await house.flows.install(flow)
    state = house.flows.runners["app.f"].state
    await house.journal.append([FlowState(state.flow, state.generation + 1, state.epoch, state.cursor)])
    await house.journal.append([event(0)])
    await turns()
    assert house.of(Command) == []
    task = house.flows.runners["app.f"]._task
    assert task is not None
    assert task.done()


async def test_a_new_flow_starts_at_the_head_unless_it_says_otherwise(house: House) -> None:
    await house.journal.append([event(0)])
    latest, earliest = Orders("app.latest", start="latest"), Orders("app.earliest")
    await house.flows.install(latest)
    await house.flows.install(earliest)
    await house.journal.append([event(1)])
    await turns()
    assert ([e.seq for e in latest.taken], [e.seq for e in earliest.taken]) == ([1], [0, 1])
    await house.flows.stop()


async def test_a_removed_flow_that_comes_back_has_missed_nothing(house: House) -> None:
    await house.flows.install(Orders(start="latest"))
    await house.flows.remove("app.f")
    await house.journal.append([event(0)])
    back = Orders(start="latest")
    await house.flows.install(back)
    await turns()
    assert [e.seq for e in back.taken] == [0]
    await house.flows.stop()


async def test_a_defect_in_a_flow_is_seen_and_loses_nothing(house: House) -> None:
    flow = Orders()

    def defect(_: Event) -> bool:
        raise ZeroDivisionError

    flow.out_of_reach = defect
    await house.flows.install(flow)
    await house.journal.append([event(0)])
    await turns()
    assert "ZeroDivisionError" in house.flows.runners["app.f"].stats.waiting
    flow.out_of_reach = lambda item: False
    house.clock.advance(FIRST_WAIT)
    await turns()
    assert len(house.of(Command)) == 1
    await house.flows.stop()


async def test_who_is_behind_reads_from_the_journal(house: House) -> None:
    feed = Feed(house.journal, -1, capacity=10)
    await house.journal.append([event(seq) for seq in range(100)])
    seen: list[int] = []
    while len(seen) < 100:
        batch = await feed.after(len(seen) - 1, 7)
        assert [item.offset for item in batch] == list(range(len(seen), len(seen) + len(batch)))
        seen += [item.offset for item in batch]
    assert seen == list(range(100))


async def test_a_flow_that_comes_back_after_a_week_begins_anew_in_another_epoch(house: House) -> None:
    await house.flows.install(Orders(start="latest"))
    await house.flows.remove("app.f")
    assert (await house.journal.tables()).flows["app.f"].removed == house.clock.now()
    await house.journal.append([event(0)])
    house.clock.advance(REMOVED_KEPT + 1)
    back = Orders(start="latest")
    await house.flows.install(back)
    await house.journal.append([event(1)])
    await turns()
    assert [e.seq for e in back.taken] == [1]
    state = house.flows.runners["app.f"].state
    assert (state.epoch, state.removed) == (1, 0)
    await house.flows.stop()


async def test_a_flow_that_changes_is_seen_meanwhile(house: House) -> None:
    class Slow(Orders):
        async def take(self, events: Sequence[Event], turn: Turn) -> Taken:
            await release.wait()
            return await super().take(events, turn)

    release = asyncio.Event()
    await house.flows.install(Slow())
    await house.journal.append([event(0)])
    await turns()
    scaling = asyncio.ensure_future(house.flows.scale("app.f", 2))
    await turns()
    assert not scaling.done()
    assert house.flows.find("app.f").state.lanes == 1
    release.set()
    await scaling
    assert house.flows.find("app.f").state.lanes == 2
    await house.flows.remove("app.f")
    with pytest.raises(NotFound):
        house.flows.find("app.f")
