"""An event on which a flow fails: who waits for it, how long, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from edge_runtime.errors import EdgeError, NotFound, StorageError
from edge_runtime.events import Event
from edge_runtime.flows.flow import Policy, Taken, Turn
from edge_runtime.flows.flows import SAVE_EVERY
from edge_runtime.flows.lane import MAX_PENDING
from edge_runtime.flows.runner import MAX_HELD
from edge_runtime.journal.records import Command, DeadLetter, Retry, Stored
from tests.flows.conftest import House, Orders, event, turns


def two_devices(count: int) -> list[Event]:
    return [event(seq, device) for seq in range(count) for device in ("good", "bad")]


async def test_only_the_device_concerned_waits_while_it_is_tried_again(house: House) -> None:
    flow = Orders(policy=Policy(retries=2))
    flow.broken = lambda item: item.device == "bad" and item.seq == 1
    await house.flows.install(flow)
    await house.journal.append(two_devices(5))
    await turns()
    assert [c.origin.cause for c in house.of(Command) if c.device == "good"] == [event(s, "good").id for s in range(5)]
    assert [c.origin.cause for c in house.of(Command) if c.device == "bad"] == [event(0, "bad").id]
    assert house.flows.runners["app.f"].held == {"bad": False}
    flow.broken = lambda item: False
    await house.time()
    assert [c.origin.cause for c in house.of(Command) if c.device == "bad"] == [event(s, "bad").id for s in range(5)]
    assert house.of(DeadLetter) == []
    await house.journal.append([event(9, "bad")])
    await turns()
    assert house.flows.runners["app.f"].held == {}
    await house.flows.stop()


async def test_after_its_retries_it_is_skipped_to_the_dead_letters(house: House) -> None:
    flow = Orders(policy=Policy(retries=2))
    flow.broken = lambda item: item.device == "bad" and item.seq == 1
    await house.flows.install(flow)
    await house.journal.append(two_devices(4))
    await turns()
    await house.time(4)
    (letter,) = house.of(DeadLetter)
    assert (letter.event, letter.attempts, letter.reason) == (event(1, "bad"), 3, "error")
    bad = [c.origin.cause for c in house.of(Command) if c.device == "bad"]
    assert bad == [event(seq, "bad").id for seq in (0, 2, 3)]
    assert sum(item.id == event(1, "bad").id for item in flow.taken) == 3
    await house.flows.stop()


async def test_where_everything_fails_the_flow_keeps_up_without_its_retries(house: House) -> None:
    flow = Orders(policy=Policy(retries=3))
    flow.broken = lambda item: True
    await house.flows.install(flow)
    await house.journal.append([event(seq) for seq in range(200)])
    await turns()
    await house.time(4)
    letters = house.of(DeadLetter)
    assert [letter.event.seq for letter in letters if letter.event] == list(range(200))
    assert [letter.attempts for letter in letters[:2]] == [4, 1]
    flow.broken = lambda item: item.seq == 202
    await house.journal.append([event(seq) for seq in range(200, 204)])
    await turns()
    assert house.flows.runners["app.f"].held == {"gh-1": False}, "after a success there are retries again"
    await house.time(4)
    assert house.causes() == [event(seq).id for seq in (200, 201, 203)]
    await house.flows.stop()


async def test_large_events_are_taken_in_small_batches_and_bound_the_queue(house: House) -> None:
    flow = Orders()
    sizes: list[int] = []
    take = flow.take

    async def measured(events: Sequence[Event], turn: Turn) -> Taken:
        sizes.append(len(events))
        return await take(events, turn)

    flow.take = measured  # type: ignore[method-assign]
    await house.flows.install(flow)
    large = [Event("gh-1", event(0).boot, seq, "climate", 0, 0, {"blob": b"x" * 200_000}) for seq in range(100)]
    await house.journal.append(large)
    await turns(200)
    assert len(house.causes()) == 100
    assert max(sizes) <= 12
    await house.flows.stop()


async def test_hold_keeps_the_device_back_over_restarts_until_it_is_released(house: House) -> None:
    flow = Orders(policy=Policy(retries=0, on_error="hold"))
    flow.broken = lambda item: item.device == "bad" and item.seq == 1
    await house.flows.install(flow)
    await house.journal.append(two_devices(3))
    await turns()
    assert len(house.of(DeadLetter)) == 1
    assert house.flows.runners["app.f"].held == {"bad": True}
    again = await house.after_restart()
    flow = Orders(policy=Policy(retries=0, on_error="hold"))
    flow.broken = lambda item: item.device == "bad" and item.seq == 1
    await again.flows.install(flow, resume=True)
    await again.journal.append([event(7, "good"), event(7, "bad")])
    await turns()
    bad = [c.origin.cause for c in again.of(Command) if c.device == "bad"]
    assert bad == [event(0, "bad").id]
    assert again.causes()[-1] == event(7, "good").id
    flow.broken = lambda item: False
    again.flows.release("app.f", "bad")
    await again.time(2)
    bad = [c.origin.cause for c in again.of(Command) if c.device == "bad"]
    assert bad == [event(seq, "bad").id for seq in (0, 1, 2, 7)]
    assert len(again.causes()) == len(set(again.causes()))
    with pytest.raises(NotFound):
        again.flows.release("app.f", "nobody")
    await again.flows.stop()


async def test_stop_pauses_the_flow_and_resume_goes_on(house: House) -> None:
    flow = Orders(policy=Policy(retries=0, on_error="stop"))
    flow.broken = lambda item: item.seq == 2
    await house.flows.install(flow)
    await house.journal.append([event(seq) for seq in range(5)])
    await turns()
    await house.journal.append([event(5, "other")])
    await turns()
    assert house.causes() == [event(0).id, event(1).id]
    runner = house.flows.runners["app.f"]
    assert runner.halted
    flow.broken = lambda item: False
    await house.flows.pause("app.f")
    await house.flows.resume("app.f")
    house.flows.release("app.f", "gh-1")
    await house.time(2)
    assert sorted(house.causes()) == sorted([event(seq).id for seq in range(5)] + [event(5, "other").id])
    await house.flows.stop()


async def test_a_flow_that_stopped_itself_stays_paused_over_a_restart(house: House) -> None:
    flow = Orders(policy=Policy(retries=0, on_error="stop"))
    flow.broken = lambda item: True
    await house.flows.install(flow)
    running = asyncio.create_task(house.flows.run())
    await house.journal.append([event(0)])
    await turns()
    house.clock.advance(SAVE_EVERY)
    await turns()
    running.cancel()
    assert house.flows.runners["app.f"].state.paused
    assert (await house.journal.tables()).flows["app.f"].paused
    await house.flows.stop()


async def test_a_held_device_with_very_many_events_loses_none(house: House) -> None:
    flow = Orders(policy=Policy(retries=1))
    flow.broken = lambda item: item.device == "bad"
    await house.flows.install(flow)
    total = 3 * MAX_PENDING
    await house.journal.append([event(0, "bad")])
    await turns()
    for start in range(1, total, 500):
        await house.journal.append([event(seq, "bad") for seq in range(start, min(start + 500, total))])
        await turns(5)
    flow.broken = lambda item: False
    await house.time(30)
    assert house.causes() == [event(seq, "bad").id for seq in range(total)]
    await house.flows.stop()


async def test_a_dead_letter_that_is_retried_is_taken_once_more_by_its_flow_alone(house: House) -> None:
    flow, other = Orders("app.f", policy=Policy(retries=0)), Orders("app.other")
    flow.broken = lambda item: not item.late
    await house.flows.install(flow)
    await house.flows.install(other)
    await house.journal.append([event(0)])
    await turns()
    (letter,) = house.of(DeadLetter)
    late = Event("gh-1", event(0).boot, 0, "climate", 1_000, 2_000, {"n": 0}, late=True)
    await house.journal.append([Retry(letter.flow, 1, late, 5)])
    await turns()
    assert [c.origin.flow for c in house.of(Command)] == ["app.other", "app.f"]
    assert len(other.taken) == 1
    await house.flows.stop()


async def test_pause_takes_nothing_and_resume_misses_nothing(house: House) -> None:
    await house.flows.install(Orders())
    await house.flows.pause("app.f")
    await house.journal.append([event(0)])
    await turns()
    assert house.causes() == []
    again = await house.after_restart()
    await again.flows.install(Orders(), resume=True)
    await turns()
    assert again.causes() == []
    await again.flows.resume("app.f")
    await turns()
    assert again.causes() == [event(0).id]
    await again.flows.stop()


async def test_a_rewind_takes_everything_again_in_a_new_epoch_and_withholds_commands(house: House) -> None:
    flow = Orders()
    await house.flows.install(flow)
    await house.journal.append([event(seq) for seq in range(3)])
    await turns()
    await house.flows.rewind("app.f", -1)
    await turns()
    assert len(flow.taken) == 6
    assert len(house.of(Command)) == 3
    await house.journal.append([event(3)])
    await turns()
    assert house.causes()[-1] == event(3).id, "live again"
    assert house.of(Command)[-1].origin.epoch == 1
    await house.flows.rewind("app.f", -1, quiet=False)
    await turns()
    assert len(house.of(Command)) == 4 + 4
    assert len({command.id for command in house.of(Command)}) == 8
    await house.flows.stop()


@pytest.mark.parametrize(("behind", "again"), [("the start", [0, 1]), ("the failing event", []), ("all", [])])
async def test_each_event_takes_effect_once_after_a_rewind_though_it_was_retried(
    house: House, behind: str, again: list[int]
) -> None:
    flow = Orders(policy=Policy(retries=0))
    await house.flows.install(flow)
    flow.broken = lambda item: item.seq == 1 and not item.late
    await house.journal.append([event(0), event(1)])
    await turns()
    (letter,) = house.of(DeadLetter)
    at = house.journal.records().index(letter)
    assert house.journal.records()[letter.at] == letter.event == event(1)
    late = msgspec.structs.replace(event(1), late=True)
    await house.journal.append([Retry("app.f", at, late, 5, letter.at)])
    await turns()
    assert house.causes() == [event(0).id, event(1).id]
    flow.broken = lambda item: False
    cursor = {"the start": -1, "the failing event": letter.at, "all": house.flows.feed.head}[behind]
    await house.flows.rewind("app.f", cursor, quiet=False)
    await turns()
    assert house.causes()[2:] == [event(seq).id for seq in again]
    await house.flows.stop()


async def test_a_rewind_beyond_what_is_kept_is_refused_with_the_oldest(house: House) -> None:
    await house.flows.install(Orders())
    house.flows.first = 10
    with pytest.raises(EdgeError, match="oldest is 10"):
        await house.flows.rewind("app.f", 3)
    with pytest.raises(EdgeError, match="ends at"):
        await house.flows.rewind("app.f", 10_000)
    await house.flows.stop()


async def test_a_name_that_does_not_exist_is_answered_with_the_nearest(house: House) -> None:
    await house.flows.install(Orders("greenhouse.overheat"))
    with pytest.raises(NotFound) as refused:
        await house.flows.pause("greenhouse.overhaet")
    assert "greenhouse.overheat" in refused.value.hint
    await house.flows.stop()


@pytest.mark.parametrize("lanes", [1, 2, 7, 64])
async def test_order_per_device_holds_at_any_parallelism(house: House, lanes: int) -> None:
    flow = Orders()
    await house.flows.install(flow)
    await house.flows.scale("app.f", lanes)
    events = [event(seq, f"gh-{seq % 13}") for seq in range(700)]
    for start in range(0, 700, 70):
        await house.journal.append(events[start : start + 70])
        await turns(3)
    await turns(200)
    causes = house.causes()
    for device in range(13):
        mine = [cause for cause in causes if cause.startswith(f"gh-{device}/")]
        assert mine == [item.id for item in events if item.device == f"gh-{device}"]
    assert len(causes) == 700
    again = await house.after_restart()
    await again.flows.install(Orders(), resume=True)
    await turns()
    assert len(again.causes()) == 700
    await again.flows.stop()


async def test_a_rate_limit_holds_the_flow_to_it(house: House) -> None:
    flow = Orders()
    await house.flows.install(flow)
    await house.flows.limit("app.f", 100)
    for start in range(0, 1000, 50):
        await house.journal.append([event(seq) for seq in range(start, start + 50)])
        await turns(3)
    for second in range(5):
        taken = len(flow.taken)
        assert taken <= (second + 2) * 100 + 256
        for _ in range(10):
            house.clock.advance(100_000)
            await turns(10)
    await house.flows.limit("app.f", None)
    await house.time(2)
    assert len(house.causes()) == 1000
    await house.flows.stop()


async def test_a_held_device_survives_a_read_that_fails(house: House) -> None:
    flow = Orders(policy=Policy(retries=1))
    flow.broken = lambda item: item.device == "bad"
    await house.flows.install(flow)
    await house.journal.append([event(0, "bad")])
    await turns()
    total = 2 * MAX_PENDING
    for start in range(1, total, 500):
        await house.journal.append([event(seq, "bad") for seq in range(start, min(start + 500, total))])
        await turns(5)
    flow.broken = lambda item: False
    read, failures = house.journal.read, iter([True, True])

    async def failing(after: int, limit: int) -> list[Stored]:
        if next(failures, False):
            raise StorageError("the disk is gone for a moment")
        return await read(after, limit)

    house.journal.read = failing  # type: ignore[method-assign]
    await house.time(40)
    assert next(failures, None) is None, "it was read again"
    assert house.causes() == [event(seq, "bad").id for seq in range(total)]
    await house.flows.stop()


async def test_a_condition_that_fails_ends_no_flow(house: House) -> None:
    flow = Orders()
    wants, failures = flow.wants, iter([True])

    def failing(item: Event) -> bool:
        if next(failures, False):
            raise ZeroDivisionError
        return wants(item)

    flow.wants = failing  # type: ignore[method-assign, assignment]
    await house.flows.install(flow)
    await house.journal.append([event(0), event(1)])
    await turns()
    assert "ZeroDivisionError" in house.flows.runners["app.f"].stats.waiting
    await house.time(2)
    assert house.causes() == [event(0).id, event(1).id]
    await house.flows.stop()


async def test_many_held_devices_are_bounded_together_and_lose_nothing(house: House) -> None:
    flow = Orders(policy=Policy(retries=0, on_error="hold"))
    flow.broken = lambda item: True
    await house.flows.install(flow)
    devices = [f"d{number}" for number in range(60)]
    for seq in range(0, 300, 10):
        await house.journal.append([event(seq + n, device) for device in devices for n in range(10)])
        await turns(5)
    runner = house.flows.runners["app.f"]
    assert len(runner.held) == 60
    assert sum(len(lane.pending) for lane in runner._held.values()) <= MAX_HELD + 600
    flow.broken = lambda item: False
    for device in devices:
        house.flows.release("app.f", device)
    await house.time(40)
    causes = house.causes()
    assert len(causes) == 60 * 300
    for device in devices[:5]:
        assert [cause for cause in causes if cause.startswith(f"{device}/")] == [
            event(s, device).id for s in range(300)
        ]
    await house.flows.stop()


async def test_a_flow_whose_replacement_cannot_be_stored_goes_on(house: House) -> None:
    flow = Orders()
    await house.flows.install(flow)
    house.journal.full = True
    with pytest.raises(StorageError):
        await house.flows.install(Orders())
    house.journal.full = False
    await house.journal.append([event(0)])
    await turns()
    assert house.causes() == [event(0).id]
    await house.flows.stop()


async def test_a_halted_flow_that_is_removed_ends_nobody_else(house: House) -> None:
    flow = Orders(policy=Policy(retries=0, on_error="stop"))
    flow.broken = lambda item: True
    await house.flows.install(flow)
    running = asyncio.create_task(house.flows.run())
    await house.journal.append([event(0)])
    await turns()
    removing = asyncio.create_task(house.flows.remove("app.f"))
    house.clock.advance(SAVE_EVERY)
    await turns()
    await house.time(2)
    await removing
    assert not running.done()
    running.cancel()
    assert house.flows.known("app") == []
    await house.flows.stop()
