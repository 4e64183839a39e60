"""Dry runs: the same effects, others, new ones, missing ones; and nothing is left behind."""

from __future__ import annotations

import asyncio

import pytest

from edge_runtime.errors import EdgeError
from edge_runtime.flows import replay as module
from edge_runtime.flows.ports import Unavailable
from edge_runtime.flows.replay import PATIENCE, Replay, Replayed
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
