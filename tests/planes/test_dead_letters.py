"""Dead letters: which are open, what can be done about them, and what cannot."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import EdgeError, NotFound
from edge_runtime.events import Event
from edge_runtime.flows.deadletters import Selection
from edge_runtime.flows.flow import Policy
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Command, DeadLetter, Dropped, Retry, Trimmed
from edge_runtime.planes.control import Rewind
from edge_runtime.planes.moments import Moment
from tests.planes.house import Answers, House, reading, turns

EVERY = Selection(all=True)


async def failed(house: House, values: list[float], flow: Answers | None = None) -> Answers:
    """A flow that fails on values above 10, and has taken these."""
    flow = flow or Answers()
    flow.broken = lambda event: event.data["value"] > 10 and not event.late
    await house.flows.install(flow)
    await house.journal.append([reading(seq, value) for seq, value in enumerate(values)])
    await turns()
    return flow


async def offsets(house: House, selection: Selection = EVERY) -> list[int]:
    return [letter.offset for letter in (await house.letters.newest(selection)).letters]


async def test_open_letters_are_listed_with_what_a_person_needs_first(house: House) -> None:
    await failed(house, [1, 20, 3, 40])
    found = await house.letters.newest(EVERY)
    assert (found.open, found.older) == (2, 0)
    first = found.letters[0]
    assert (first.flow, first.reason, first.device, first.kind, first.attempts) == (
        "app.f",
        "error",
        "gh-1",
        "climate",
        1,
    )
    assert first.event == reading(1, 20).id
    assert first.summary == "{'value': 20} is too much"
    detail = await house.letters.show(first.offset)
    assert (detail.data, detail.state) == ({"value": 20}, "open")
    assert detail.detail.endswith("line 3")


async def test_a_retried_event_goes_to_its_flow_marked_late_and_its_letter_is_settled(house: House) -> None:
    flow = await failed(house, [20])
    (letter,) = await offsets(house)
    assert (await house.letters.retry(Selection([letter]))).letters == [letter]
    await turns()
    assert flow.taken[-1][0].late
    assert len(house.of(Command)) == 1
    assert await offsets(house) == []
    assert (await house.letters.show(letter)).state == "settled"


async def test_an_event_that_fails_again_is_a_new_letter(house: House) -> None:
    flow = await failed(house, [20])
    flow.broken = lambda event: True
    (letter,) = await offsets(house)
    await house.letters.retry(EVERY)
    await turns()
    (again,) = await offsets(house)
    assert again > letter


@pytest.mark.parametrize("verb", ["retry", "drop"])
async def test_a_settled_letter_is_refused(house: House, verb: str) -> None:
    await failed(house, [20, 30])
    one, other = await offsets(house)
    await getattr(house.letters, verb)(Selection([one]))
    before = len(house.of(Retry) + house.of(Dropped))
    for selection in (Selection([one]), Selection([other, one])):
        with pytest.raises(EdgeError, match=f"{one} is settled already"):
            await house.letters.retry(selection)
        with pytest.raises(EdgeError, match="already"):
            await house.letters.drop(selection)
    assert len(house.of(Retry) + house.of(Dropped)) == before, "of letters that are named, all are settled or none"


async def test_what_never_reached_a_flow_cannot_be_retried_but_dropped(house: House) -> None:
    await failed(house, [20])
    await house.journal.append([DeadLetter("ingress", "invalid", "no CBOR", 5, "gh-1", topic="t", payload=b"\1")])
    letter, invalid = await offsets(house)
    with pytest.raises(EdgeError, match="never reached a flow"):
        await house.letters.retry(Selection([invalid]))
    done = await house.letters.retry(EVERY)
    assert (done.letters, list(done.skipped.values())) == ([letter], [1])
    assert (await house.letters.drop(Selection([invalid]))).letters == [invalid]
    assert await offsets(house) == []


async def test_a_letter_of_a_flow_that_is_gone_names_the_nearest(house: House) -> None:
    await failed(house, [20])
    await house.flows.install(Answers("app.g", kind="other"))
    await house.flows.remove("app.f")
    (letter,) = await offsets(house)
    with pytest.raises(EdgeError, match=r"no flow 'app.f' any more") as refused:
        await house.letters.retry(Selection([letter]))
    assert "app.g" in refused.value.hint


async def test_a_flow_that_waits_at_the_event_is_released_instead(house: House) -> None:
    await failed(house, [20], Answers(policy=Policy(retries=0, on_error="hold")))
    (letter,) = await offsets(house)
    with pytest.raises(EdgeError, match="held back") as refused:
        await house.letters.retry(Selection([letter]))
    assert "edge flow release app.f gh-1" in refused.value.hint


async def test_a_rewind_settles_the_letters_of_events_that_are_taken_again(house: House) -> None:
    flow = await failed(house, [20, 30])
    await failed(house, [], Answers("app.g"))
    await turns()
    flow.broken = lambda event: event.seq == 1
    one, two, *others = await offsets(house)
    await house.flows.rewind("app.f", house.offset(reading(0, 20)), quiet=False)
    await turns()
    again = await offsets(house)
    assert again[:-1] == [one, *others], "the second event was taken again, the first and the other flow's were not"
    with pytest.raises(EdgeError, match="taken again by a rewind"):
        await house.letters.retry(Selection([two]))
    after = await House(MemoryJournal(house.journal.records())).open()
    assert await offsets(after) == again, "found the same way by looking back"
    flow.broken = lambda event: False
    await house.letters.retry(Selection([one]))
    await turns()
    await house.flows.rewind("app.f", -1, quiet=False)
    await turns()
    assert len({command.id for command in house.of(Command)}) == len(house.of(Command)) == 3


async def test_a_chain_that_was_cut_is_not_retried(house: House) -> None:
    await failed(house, [])
    await house.journal.append([DeadLetter("app.f", "hops", "cut", 5, "gh-1", reading(0, 1))])
    with pytest.raises(EdgeError, match="was dealt with"):
        await house.letters.retry(Selection(await offsets(house)))


STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 4)),
    st.tuples(st.just("break"), st.integers(1, 4)),
    st.tuples(st.just("retry"), st.integers(0, 3)),
    st.tuples(st.just("rewind"), st.integers(0, 10)),
    st.tuples(st.just("redeploy"), st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=25))
@example([("break", 1), *[("append", 1)] * 4, ("retry", 1), ("rewind", 2), ("rewind", 2)])
def test_whatever_is_retried_and_rewound_each_event_takes_effect_once_per_epoch(steps: list[tuple[str, int]]) -> None:
    asyncio.run(_history(steps))


async def _history(steps: list[tuple[str, int]]) -> None:
    house = await House().open()
    flow = Answers()
    every = 0
    flow.broken = lambda event: every > 0 and event.seq % every == 0
    await house.flows.install(flow)
    count = 0
    for what, number in steps:
        if what == "append":
            await house.journal.append([reading(count + i, count + i, device=f"d{i % 2}") for i in range(number)])
            count += number
        elif what == "break":
            every = number
        elif what == "retry":
            open_ones = await offsets(house)
            if open_ones:
                await house.letters.retry(Selection(open_ones[: number + 1]))
        elif what == "rewind":
            with contextlib.suppress(EdgeError):  # it may not have come so far
                start = Moment(offset=house.flows.feed.head * number // 10)
                await house.control.rewind("app.f", Rewind(start, send=True))
        else:
            await house.flows.install(flow)
        await turns(20 if number % 2 else 0)
    every = 0
    await turns()
    await house.letters.retry(EVERY)
    await turns()
    assert await offsets(house) == []
    for effects in (house.of(Command), [event.origin for event in house.of(Event) if event.origin is not None]):
        ids = [effect.id if isinstance(effect, Command) else effect.id() for effect in effects]
        assert len(ids) == len(set(ids)), "once per epoch"
    caused = {command.origin.cause for command in house.of(Command)}
    assert caused == {event.id for event in house.of(Event) if event.origin is None}, "and at least once"
    epoch = house.flows.find("app.f").state
    retaken = {
        event.id
        for offset, event in enumerate(house.journal.records())
        if isinstance(event, Event) and event.origin is None and offset > epoch.again_after
    }
    assert retaken <= {command.origin.cause for command in house.of(Command) if command.origin.epoch == epoch.epoch}
    await house.stop()


async def test_selections(house: House) -> None:
    await failed(house, [20])
    await failed(house, [], Answers("app.g"))
    await turns()
    await house.journal.append([reading(9, 50, device="gh-2")])
    await turns()
    assert len(await offsets(house)) == 4
    assert len(await offsets(house, Selection(all=True, flow="app.g"))) == 2
    assert len(await offsets(house, Selection(all=True, device="gh-2", flow="app.f"))) == 1
    assert await offsets(house, Selection(all=True, reason="timeout")) == []
    assert len((await house.letters.newest(EVERY, 1)).letters) == 1
    assert await offsets(house, Selection(all=True, flow="ingress")) == []
    with pytest.raises(NotFound) as unknown:
        await house.letters.newest(Selection(all=True, flow="app.ff"))
    assert unknown.value.hint == "Did you mean 'app.f'?"
    for nothing in (Selection(), Selection([1], all=True)):
        with pytest.raises(EdgeError, match="say which"):
            await house.letters.drop(nothing)
    exported = [detail.letter.offset async for detail in house.letters.export(Selection(all=True, flow="app.f"))]
    assert exported == await offsets(house, Selection(all=True, flow="app.f"))


@pytest.mark.parametrize("offset", [0, 10**6, -1])
async def test_what_is_no_letter_is_not_found(house: House, offset: int) -> None:
    await failed(house, [20])
    with pytest.raises(NotFound, match=f"no dead letter at {offset}"):
        await house.letters.show(offset)


async def test_they_are_found_again_after_a_restart(house: House) -> None:
    await failed(house, [20, 30, 40])
    one, two, three = await offsets(house)
    await house.letters.drop(Selection([two]))
    after = await House(MemoryJournal(house.journal.records())).open()
    assert await offsets(after) == [one, three]


async def test_letters_that_come_while_they_are_looked_for_are_not_missed(house: House) -> None:
    await failed(house, [20.0] * 600)
    read = house.journal.read
    late: list[int] = []

    async def slow(after: int, limit: int) -> list:  # type: ignore[type-arg]
        page = await read(after, limit)
        if not late:
            late.append(0)
            known = [house.offset(letter) for letter in house.of(DeadLetter)]
            await house.journal.append([Dropped(known[0], 1), DeadLetter("app.f", "error", "late", 1, "gh-1")])
        return page

    house.journal.read = slow  # type: ignore[method-assign]
    found = await house.letters.newest(EVERY, 1000)
    assert found.open == 600
    assert found.letters[-1].summary == "late"
    assert found.letters[0].event == reading(1, 0).id


async def test_beyond_the_bound_the_newest_are_known_and_the_older_come_up_later() -> None:
    house = await House().open(letters=4)
    await failed(house, [20.0] * 7)
    letters = [house.offset(letter) for letter in house.of(DeadLetter)]
    found = await house.letters.newest(EVERY)
    assert [letter.offset for letter in found.letters] == letters[3:]
    assert (found.open, found.older) == (7, 3)
    with pytest.raises(EdgeError, match="older than the 4"):
        await house.letters.drop(Selection([letters[0]]))
    await house.letters.drop(Selection(letters[5:]))
    assert await offsets(house) == letters[1:5]
    assert (await house.letters.newest(EVERY)).older == 1
    await house.letters.drop(EVERY)
    assert await offsets(house) == letters[:1]
    await house.stop()


async def test_letters_that_retention_has_removed_are_gone(house: House) -> None:
    await failed(house, [20, 30])
    one, two = await offsets(house)
    await house.journal.append([Trimmed(one, 5)])
    assert await offsets(house) == [two]
