"""Dry runs: the same effects, others, new ones, missing ones; and nothing is left behind."""

from __future__ import annotations

import asyncio

import pytest

from edge_runtime.errors import EdgeError
from edge_runtime.flows import replay as module
from edge_runtime.flows.flow import Flow
from edge_runtime.flows.ports import Unavailable
from edge_runtime.flows.replay import PATIENCE, Absent, Replay, Replayed, first_of_last
from edge_runtime.journal.records import Command
from tests.planes.house import Answers, House, reading, turns


@pytest.fixture
async def done(house: House) -> House:
    """Ten readings have gone through `app.f`, which fails on the last."""
    flow = Answers()
    flow.broken = lambda event: event.seq == 9
    await house.flows.install(flow)
    await house.journal.append([reading(seq, seq) for seq in range(10)])
    await turns()
    return house


async def replay(house: House, flow: Answers, first: int = 0, limit: int = 1000) -> Replayed:
    before = house.journal.records()
    found = await Replay(flow, 0, house.journal, house.clock, limit=limit).run(first, house.flows.feed.head)
    assert house.journal.records() == before, "a dry run leaves nothing behind"
    assert all(turn.dry and turn.quiet for _, turn in flow.taken)
    return found


def like_the_live_one() -> Answers:
    flow = Answers()
    flow.broken = lambda event: event.seq == 9
    return flow


def counts(found: Replayed) -> tuple[int, int, int, int]:
    return found.same, found.changed, found.new, found.missing


async def test_the_same_version_does_the_same(done: House) -> None:
    found = await replay(done, like_the_live_one())
    assert (found.events, found.failed, found.complete) == (10, 1, True)
    assert counts(found) == (19, 0, 0, 0)
    assert found.differences == []


async def test_other_arguments_are_changes(done: House) -> None:
    flow = like_the_live_one()
    flow.args = lambda event: {"value": 7 if event.seq == 3 else event.data["value"]}
    found = await replay(done, flow)
    assert counts(found) == (18, 1, 0, 0)
    (difference,) = found.differences
    assert (difference.what, difference.event, difference.index) == ("changed", reading(3, 3).id, 0)
    assert (difference.before["args"], difference.now["args"]) == ({"value": 3}, {"value": 7})


async def test_what_is_not_done_any_more_is_missing(done: House) -> None:
    flow = like_the_live_one()
    flow.emits = ""
    flow.wanted = lambda event: event.seq != 2
    found = await replay(done, flow)
    assert counts(found) == (9, 0, 0, 10)
    assert {(d.what, d.index) for d in found.differences} == {("missing", 0), ("missing", 1)}


async def test_an_event_that_failed_and_would_not_is_a_missing_letter_and_new_effects(done: House) -> None:
    found = await replay(done, Answers())
    assert counts(found) == (18, 0, 2, 1)
    assert [d.before["dead letter"] for d in found.differences if d.what == "missing"] == ["error"]


async def test_effects_of_events_before_the_range_do_not_count(done: House) -> None:
    found = await replay(done, like_the_live_one(), first=done.offset(reading(5, 5)))
    assert (found.events, counts(found)) == (5, (9, 0, 0, 0))


async def test_the_newest_epoch_counts_and_what_it_withheld_does_not(done: House) -> None:
    await done.flows.rewind("app.f", -1)
    await turns()
    assert len(done.of(Command)) == 9
    assert counts(await replay(done, like_the_live_one())) == (19, 0, 0, 0)


async def test_the_limit_is_kept_and_said(done: House) -> None:
    found = await replay(done, like_the_live_one(), limit=4)
    assert (found.events, found.complete, counts(found)) == (4, False, (8, 0, 0, 0))
    assert found.last == done.offset(reading(3, 3))
    assert (await replay(done, like_the_live_one(), limit=10)).complete


async def test_effects_that_do_not_fit_in_memory_end_it_early(done: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 2_000)
    monkeypatch.setattr(module, "BATCH", 2)
    found = await replay(done, like_the_live_one())
    assert not found.complete
    assert 0 < found.events < 10
    assert counts(found) == (2 * found.events, 0, 0, 0)
    assert found.last == done.offset(reading(found.events - 1, 0.0 + found.events - 1))


async def test_a_sandbox_out_of_reach_is_waited_for_and_then_given_up(done: House) -> None:
    flow = like_the_live_one()

    async def turned() -> None:
        for pause in PATIENCE:
            await turns()
            done.clock.advance(pause)

    flow.away = [Unavailable("it starts")] * 2
    found, _ = await asyncio.gather(replay(done, flow), turned())
    assert counts(found) == (19, 0, 0, 0)
    flow.away = [Unavailable("it starts")] * 9
    helper = asyncio.create_task(turned())
    with pytest.raises(EdgeError, match="cannot be run just now: it starts"):
        await replay(done, flow)
    await helper


async def against(house: House, flow: Answers, other: Flow, limit: int = 1000) -> Replayed:
    before = house.journal.records()
    head = house.flows.feed.head
    found = await Replay(flow, 0, house.journal, house.clock, limit=limit, against=other).run(0, head)
    assert house.journal.records() == before, "a dry run leaves nothing behind"
    return found


async def test_two_versions_are_held_against_each_other_whatever_was_done(done: House) -> None:
    same = await against(done, Answers(), Answers())
    assert (same.events, same.failed, counts(same)) == (10, 0, (20, 0, 0, 0))
    other = Answers()
    other.args = lambda event: {"value": 7 if event.seq == 3 else event.data["value"]}
    found = await against(done, Answers(), other)
    assert counts(found) == (19, 1, 0, 0)
    [difference] = found.differences
    assert (difference.before["args"], difference.now["args"]) == ({"value": 7}, {"value": 3})


async def test_versions_may_want_other_events(done: House) -> None:
    some, rest = Answers(), Answers()
    some.wanted = lambda event: event.seq < 4
    rest.wanted = lambda event: event.seq >= 2
    found = await against(done, some, rest)
    assert (found.events, counts(found)) == (10, (4, 0, 4, 12))
    assert [event.seq for event, _ in some.taken] == [0, 1, 2, 3]
    assert (await against(done, some, rest, limit=3)).events == 3


async def test_a_function_that_one_version_does_not_have(done: House) -> None:
    assert counts(await against(done, Answers(), Absent("app.f"))) == (0, 0, 20, 0)
    head = done.flows.feed.head
    gone = await Replay(Absent("app.f"), 0, done.journal, done.clock, limit=9, against=Answers()).run(0, head)
    assert (gone.events, gone.missing, gone.complete) == (9, 18, False)
    nothing = await Replay(Absent("app.f"), 0, done.journal, done.clock, limit=9).run(0, head)
    assert (nothing.events, nothing.missing) == (0, 19)


async def test_the_first_failures_are_told(done: House) -> None:
    flow = Answers()
    flow.broken = lambda event: event.seq % 2 == 0
    found = await replay(done, flow)
    assert (found.failed, len(found.faults)) == (5, 5)
    assert found.faults[1].event == reading(2, 2).id
    assert found.faults[1].detail == f"error: {reading(2, 2).data} is too much\nline 3"


async def test_the_last_events_that_a_flow_wants(done: House) -> None:
    flow, head = Answers(), done.flows.feed.head
    flow.wanted = lambda event: event.seq % 2 == 0
    assert await first_of_last(flow, done.journal, 2, 0, head) == done.offset(reading(6, 6))
    assert await first_of_last(flow, done.journal, 99, 0, head) == done.offset(reading(0, 0))
    assert await first_of_last(Absent("x"), done.journal, 2, 0, head) == head + 1


async def test_the_last_events_are_not_looked_for_without_end(done: House, monkeypatch: pytest.MonkeyPatch) -> None:
    head = done.flows.feed.head
    monkeypatch.setattr(module, "MAX_LOOKED_AT", head - 2)
    assert await first_of_last(Answers(), done.journal, 99, 0, head) == 3
