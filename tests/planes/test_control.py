"""Verbs on flows: where they begin, what they answer, and what is refused with which words."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from edge_runtime.errors import EdgeError, NotFound
from edge_runtime.events import Event
from edge_runtime.flows.flow import Policy
from edge_runtime.flows.flows import SAVE_EVERY
from edge_runtime.flows.ports import Unavailable
from edge_runtime.flows.timeline import backwards, offset_at
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Command, FlowState, Progress, Record, Trimmed
from edge_runtime.planes.control import ReplayRequest, Rewind
from edge_runtime.planes.messages import FlowRow
from edge_runtime.planes.moments import EARLIEST, Moment, parse
from tests.planes.house import SECOND, Answers, House, reading, turns


async def busy(house: House, count: int = 10) -> Answers:
    """A flow that has taken one reading each second."""
    flow = Answers()
    flow.emits = ""
    await house.flows.install(flow)
    for seq in range(count):
        await house.journal.append([reading(seq, seq, received=house.clock.now())])
        await turns(20)
        house.clock.advance(SECOND)
    return flow


async def row(house: House, name: str = "app.f") -> FlowRow:
    return next(row for row in await house.control.all() if row.flow == name)


async def test_a_flow_at_the_head_runs_and_is_not_behind(house: House) -> None:
    await busy(house)
    found = await row(house)
    assert (found.state, found.lag, found.lag_us, found.events, found.effects) == ("running", 0, 0, 10, 10)


async def test_a_paused_flow_says_how_far_behind_it_is_in_records_and_in_time(house: House) -> None:
    await busy(house)
    assert (await house.control.pause("app.f")).state == "paused"
    await house.journal.append([reading(50, 1, kind="other", received=house.clock.now())])
    house.clock.advance(SECOND)
    await house.journal.append([reading(51, 1, received=house.clock.now())])
    house.clock.advance(3 * SECOND)
    found = await row(house)
    assert found.lag >= 2
    assert found.lag_us == 3 * SECOND, "since the first event arrived that it wants"
    assert (await house.control.resume("app.f")).state == "running"
    await turns()
    assert (await row(house)).lag_us == 0


async def test_a_flow_that_waits_says_for_what_and_since_when(house: House) -> None:
    flow = await busy(house)
    flow.away = [Unavailable("the sandbox starts")] * 50
    await house.journal.append([reading(50, 1, received=house.clock.now())])
    await turns()
    house.clock.advance(5_000)
    found = await row(house)
    assert (found.state, found.waiting, found.lag_us) == ("waiting", "the sandbox starts", 5_000)


async def test_the_rate_is_of_late(house: House) -> None:
    ticking = asyncio.create_task(house.flows.run())
    await turns()
    await busy(house, 60)
    assert 0.9 < (await row(house)).rate <= 1.01
    for _ in range(60):
        house.clock.advance(SAVE_EVERY)
        await turns()
    assert (await row(house)).rate < 0.01
    ticking.cancel()


async def test_counters_outlive_generations(house: House) -> None:
    await busy(house)
    await house.control.scale("app.f", 4)
    found = await house.control.limit("app.f", 100)
    assert (found.events, found.lanes, found.rate_limit) == (10, 4, 100)
    assert (await house.control.limit("app.f", None)).rate_limit is None


async def test_a_held_key_is_shown_and_released(house: House) -> None:
    flow = Answers(policy=Policy(retries=0, on_error="hold"))
    flow.broken = lambda event: True
    await house.flows.install(flow)
    await house.journal.append([reading(0, 1)])
    await turns()
    assert (await row(house)).held == {"gh-1": True}
    with pytest.raises(NotFound) as unknown:
        await house.control.release("app.f", "gh-11")
    assert unknown.value.hint == "Did you mean 'gh-1'?"
    flow.broken = lambda event: False
    await house.control.release("app.f", "gh-1")
    await turns()
    assert len(house.of(Command)) == 1


@pytest.mark.parametrize("send", [False, True])
async def test_a_rewind_to_an_offset_takes_that_record_again(house: House, send: bool) -> None:
    flow = await busy(house)
    flow.taken.clear()
    first = house.offset(reading(6, 6, received=_received(house, 6)))
    found = await house.control.rewind("app.f", Rewind(Moment(offset=first), send))
    assert (found.first, found.epoch, found.send) == (first, 1, send)
    await turns()
    assert [event.seq for event, _ in flow.taken] == [6, 7, 8, 9]
    assert len(house.of(Command)) == (14 if send else 10), "withheld unless asked for"
    await house.journal.append([reading(10, 10)])
    await turns()
    assert house.of(Command)[-1].origin.cause == reading(10, 10).id, "live again"


def _received(house: House, seq: int) -> int:
    return next(r.received for r in house.journal.records() if isinstance(r, Event) and r.seq == seq)


async def test_a_rewind_to_a_time_takes_what_arrived_since(house: House) -> None:
    flow = await busy(house)
    flow.taken.clear()
    await house.control.rewind("app.f", Rewind(Moment(time=_received(house, 7))))
    await turns()
    assert [event.seq for event, _ in flow.taken] == [7, 8, 9]


async def test_bootstrap_takes_everything_quietly(house: House) -> None:
    flow = await busy(house)
    flow.taken.clear()
    found = await house.control.bootstrap("app.f")
    await turns()
    assert (found.first, found.send, len(flow.taken), len(house.of(Command))) == (0, False, 10, 10)
    assert (await row(house)).quiet_until == -1


async def test_what_is_not_kept_any_more_is_refused_with_the_oldest_and_its_time(house: House) -> None:
    await busy(house)
    upto = house.offset(reading(4, 4, received=_received(house, 4)))
    await house.journal.append([Trimmed(upto, house.clock.now())])
    when = datetime.fromtimestamp(_received(house, 4) / 1e6).strftime("%Y-%m-%d %H:%M:%S")
    for start in (Moment(offset=upto), Moment(time=_received(house, 5) - 60 * SECOND)):
        with pytest.raises(EdgeError, match="not kept any more") as refused:
            await house.control.rewind("app.f", Rewind(start))
        assert f"record {upto + 1}, of {when}" in str(refused.value)
        assert f"--to {upto + 1}" in refused.value.hint
    assert (await house.control.rewind("app.f", Rewind(EARLIEST))).first == upto + 1


async def test_the_future_is_refused_or_empty(house: House) -> None:
    flow = await busy(house)
    with pytest.raises(EdgeError, match="no record 1000 yet"):
        await house.control.rewind("app.f", Rewind(Moment(offset=1000)))
    flow.taken.clear()
    await house.control.rewind("app.f", Rewind(Moment(time=house.clock.now() + SECOND)))
    await turns()
    assert flow.taken == []


async def test_a_rewind_never_skips_what_was_not_taken(house: House) -> None:
    await busy(house)
    await house.control.pause("app.f")
    stands = house.flows.find("app.f").position().lowest
    await house.journal.append([reading(50, 1), reading(51, 2)])
    with pytest.raises(EdgeError, match=f"stands at record {stands}") as refused:
        await house.control.rewind("app.f", Rewind(Moment(offset=house.flows.feed.head)))
    assert f"rewind it to {stands + 1}" in refused.value.hint
    assert (await house.control.rewind("app.f", Rewind(Moment(offset=stands + 1)))).first == stands + 1


@pytest.mark.parametrize("verb", ["pause", "resume", "bootstrap"])
async def test_a_name_that_is_not_there_is_answered_with_the_nearest(house: House, verb: str) -> None:
    await busy(house)
    with pytest.raises(NotFound) as unknown:
        await getattr(house.control, verb)("ap.f")
    assert unknown.value.hint == "Did you mean 'app.f'?"


async def test_a_dry_run_through_the_verb(house: House) -> None:
    await busy(house)
    found = await house.control.replay("app.f", ReplayRequest(EARLIEST))
    assert (found.events, found.same, found.changed, found.new, found.missing) == (10, 10, 0, 0, 0)
    for limit in (0, 10**6):
        with pytest.raises(EdgeError, match="1 to 100000"):
            await house.control.replay("app.f", ReplayRequest(EARLIEST, limit))


@pytest.mark.parametrize("undated", [0, 1, 700])
async def test_a_time_is_found_between_records_without_one(undated: int) -> None:
    records: list[Record] = [FlowState("app.f", 1, 0, -1)]
    where = {}
    for seq in range(20):
        where[seq * 10] = len(records)
        records.append(reading(seq, seq, received=seq * 10))
        records += [Progress("app.f", 1, 0)] * undated
    journal = MemoryJournal(records)
    for time in range(-5, 191):
        found = await offset_at(journal, time, 0, len(records) - 1)
        nearest = where[max(0, -(-time // 10) * 10)]
        assert found <= nearest
        assert not any(isinstance(records[offset], type(records[1])) for offset in range(found, nearest))
        assert found > where.get((-(-time // 10) - 1) * 10, -1)
    assert await offset_at(journal, 191, 0, len(records) - 1) > where[190]
    assert await offset_at(MemoryJournal(), 0, 0, -1) == 0


async def test_backwards_misses_nothing() -> None:
    journal = MemoryJournal([reading(seq, seq) for seq in range(1234)])
    found = [stored.offset async for stored in backwards(journal, 17, 1200)]
    assert found == list(range(1200, 16, -1))


@pytest.mark.parametrize(
    ("text", "before"), [("30s", 30), ("15m", 900), ("1h", 3600), ("2d", 172_800), ("1.5h", 5400), (" 1 h ", 3600)]
)
def test_a_moment_may_be_so_long_ago(text: str, before: int) -> None:
    assert parse(text, 10**15) == Moment(time=10**15 - before * SECOND)


def test_a_moment_may_be_a_date_in_local_time_or_with_its_zone() -> None:
    local = round(datetime(2026, 11, 22, 10).timestamp() * SECOND)
    assert parse("2026-11-22T10:00", 0) == Moment(time=local)
    assert parse("2026-11-22T10:00+00:00", 0) == Moment(time=1_795_341_600 * SECOND)
    assert parse("earliest", 0) == EARLIEST


@pytest.mark.parametrize("text", ["", "yesterday", "1w", "-1h", "99999999999-01-01"])
def test_what_is_no_moment_is_said_so(text: str) -> None:
    with pytest.raises(EdgeError, match="is not a moment") as refused:
        parse(text, 0)
    assert "earliest" in refused.value.hint
