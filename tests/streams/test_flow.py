"""A stream as a flow over the journal: through crashes, lost workers, full disks, redeploys, rewinds and dry runs."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import EdgeError
from edge_runtime.events import MAX_HOPS, TICK, Event
from edge_runtime.flows.flows import SAVE_EVERY
from edge_runtime.flows.replay import Replay
from edge_runtime.journal.records import DeadLetter, Progress, StateChange
from edge_runtime.streams.flow import StreamFlow
from edge_runtime.streams.machine import MOST, Late, Pane, Result
from edge_runtime.streams.running import STEP, RunningTime
from edge_runtime.streams.trial import Trial
from edge_runtime.streamspec import Aggregate, Fixed, Map, Source, Stream, Window
from tests.flows.conftest import BOOT, House, turns
from tests.streams import transcripts
from tests.streams.local import LocalWorker

NAME = "app.f.stream"
KIND = "$stream.app.f"
SECOND = 1_000_000
DAY = 86_400 * SECOND
SUMS = Stream([Source("climate")], Window(Fixed(10 * SECOND), {"n": Aggregate("count"), "sum": Aggregate("sum", "v")}))


def event(seq: int, at: int, device: str = "gh-1") -> Event:
    """At a second of event time; it arrives at once."""
    return Event(device, BOOT, seq, "climate", DAY + at * SECOND, DAY + at * SECOND, {"v": seq})


def made(house: House, worker: LocalWorker, stream: Stream = SUMS) -> StreamFlow:
    return StreamFlow(NAME, KIND, stream, worker=worker.as_worker(), clock=house.clock, start="earliest")


def panes(house: House) -> list[tuple[str, int, int, int]]:
    """Key, start in seconds, count, sum."""
    return [
        (e.device, (e.data["start"] - DAY) // SECOND, e.data["values"]["n"], e.data["values"]["sum"])
        for e in house.of(Event)
        if e.kind == KIND
    ]


def expected(events: list[Event], stream: Stream = SUMS) -> list[tuple[str, int, int, int]]:
    """What comes of them without any journal, and without ticks."""
    trial = Trial(stream, {})
    for one in events:
        trial._take(one)
    return [
        (pane.key, (pane.start - DAY) // SECOND, pane.values["n"], pane.values["sum"])
        for pane in trial.results
        if isinstance(pane, Pane)
    ]


async def saved(house: House) -> None:
    """Let the progress that was put off be committed."""
    for runner in house.flows.runners.values():
        await runner.save()


@pytest.fixture
async def house() -> House:
    return await House().open()


async def test_a_pane_is_an_event_with_its_cause_and_its_identity(house: House) -> None:
    await house.flows.install(made(house, LocalWorker()))
    events = [event(0, 1), event(1, 5), event(2, 12)]
    await house.journal.append(events)
    await turns()
    assert panes(house) == [("gh-1", 0, 2, 1)] == expected(events)
    [pane] = [e for e in house.of(Event) if e.kind == KIND]
    assert pane.origin is not None
    assert (pane.origin.flow, pane.origin.cause, pane.hops, pane.time) == (NAME, events[2].id, 1, DAY + 10 * SECOND)
    assert pane.data["timing"] == "on_time"


async def test_progress_without_results_takes_the_state_with_it(house: House) -> None:
    worker = LocalWorker()
    await house.flows.install(made(house, worker))
    await house.journal.append([event(0, 1), event(1, 5)])
    await turns()
    await saved(house)
    records = house.journal.records()
    kept = [record for record in records if isinstance(record, StateChange)]
    assert kept
    assert isinstance(records[-1], Progress), "they are one commit"
    assert records[-1].cursor == 2
    again = await house.after_crash()
    await again.flows.install(made(again, LocalWorker()), resume=True)
    await again.journal.append([event(2, 12)])
    await turns()
    assert panes(again) == [("gh-1", 0, 2, 1)]


async def test_a_worker_that_dies_costs_nothing(house: House) -> None:
    worker = LocalWorker()
    await house.flows.install(made(house, worker))
    running = asyncio.create_task(house.flows.run())
    await house.journal.append([event(0, 1), event(1, 5)])
    await turns()
    worker.die()
    await house.journal.append([event(2, 7), event(3, 12)])
    await turns()
    assert house.flows.runners[NAME].lost
    house.clock.advance(SAVE_EVERY)
    await turns(100)
    assert panes(house) == [("gh-1", 0, 3, 3)]
    assert house.flows.runners[NAME].state.generation == 2
    running.cancel()


async def test_an_event_that_breaks_the_computation_is_a_dead_letter(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(self: RunningTime, one: Event) -> int:
        assert one.data != {"v": 3}, "a defect of ours"
        return at(self, one)

    at = RunningTime.at
    monkeypatch.setattr(RunningTime, "at", breaks)
    await house.flows.install(made(house, LocalWorker()))
    running = asyncio.create_task(house.flows.run())
    await house.journal.append([event(n, n) for n in range(7)] + [event(7, 12)])
    await turns()
    for _ in range(8):
        house.clock.advance(SAVE_EVERY)
        await turns(100)
    assert panes(house) == [("gh-1", 0, 6, 18)], "all but that one"
    [letter] = house.of(DeadLetter)
    assert (letter.reason, letter.event) == ("crash", event(3, 3))
    running.cancel()


async def test_a_full_disk_is_waited_out(house: House) -> None:
    await house.flows.install(made(house, LocalWorker()))
    await house.journal.append([event(0, 1), event(1, 5), event(2, 12)])
    house.journal.full = True
    await turns()
    assert panes(house) == []
    house.journal.full = False
    await house.time(3)
    assert panes(house) == [("gh-1", 0, 2, 1)]


async def test_more_results_than_a_commit_takes_come_in_several(house: House) -> None:
    await house.flows.install(made(house, LocalWorker()))
    count = 3 * MOST
    events = [event(0, 1, f"d{number:04}") for number in range(count)]
    events += [event(1, 30, f"d{number:04}") for number in range(count)]
    for at in range(0, len(events), 500):
        await house.journal.append(events[at : at + 500])
    await turns(400)
    # Windows of thousands of keys end with one event; what is left over comes with those after it.
    await house.journal.append([event(2 + n, 31 + n) for n in range(6)])
    await house.time()
    await turns(400)
    found = Counter(panes(house))
    assert len(found) == count
    assert set(found.values()) == {1}


async def test_a_stream_that_answers_itself_comes_to_an_end(house: House) -> None:
    flow = StreamFlow(
        "app.loop.stream",
        "climate",
        Stream([Source("climate")], None, [Map({"v": "v + 1"})]),
        worker=LocalWorker().as_worker(),
        clock=house.clock,
        start="earliest",
        plain=True,
    )
    await house.flows.install(flow)
    await house.journal.append([event(0, 1)])
    await turns(300)
    [letter] = house.of(DeadLetter)
    assert letter.reason == "hops"
    assert max(e.data["v"] for e in house.of(Event)) == MAX_HOPS


async def test_late_events_are_dead_letters_or_events(house: House) -> None:
    await house.flows.install(made(house, LocalWorker()))
    named = StreamFlow(
        "app.g.stream",
        "$stream.app.g",
        SUMS,
        worker=LocalWorker().as_worker(),
        clock=house.clock,
        start="earliest",
        late="climate.late",
    )
    await house.flows.install(named)
    await house.journal.append([event(0, 1), event(1, 25), event(2, 3)])
    await turns()
    [letter] = house.of(DeadLetter)
    assert (letter.flow, letter.reason, letter.event) == (NAME, "late", event(2, 3))
    assert "too late" in letter.detail
    [late] = [e for e in house.of(Event) if e.kind == "climate.late"]
    assert late.data == {"v": 2}
    assert late.origin is not None
    assert late.origin.flow == "app.g.stream"


async def test_a_changed_specification_begins_anew_and_a_rollback_finds_the_old(house: House) -> None:
    worker = LocalWorker()
    await house.flows.install(made(house, worker))
    await house.journal.append([event(0, 1), event(1, 2)])
    await turns()
    other = Stream([Source("climate")], Window(Fixed(20 * SECOND), SUMS.computation.compute))  # type: ignore[union-attr]
    await house.flows.install(made(house, worker, other))
    await house.journal.append([event(2, 3)])
    await turns()
    await house.flows.install(made(house, worker))
    await house.journal.append([event(3, 12)])
    await turns()
    assert panes(house) == [("gh-1", 0, 2, 1)], "what the other has taken is not in it"


async def test_a_rewind_restores_what_it_held(house: House) -> None:
    await house.flows.install(made(house, LocalWorker()))
    for number in range(4):
        await house.journal.append([event(number, 1 + number)])
        await turns()
        await saved(house)
    before = house.journal.records().index(event(1, 2))
    with pytest.raises(EdgeError, match="keeps state"):
        await house.flows.rewind(NAME, before)
    await house.flows.rewind(NAME, before, state="restored")
    await turns()
    await house.journal.append([event(4, 12)])
    await turns()
    assert panes(house) == [("gh-1", 0, 4, 6)], "as if nothing had been"


@pytest.mark.parametrize("first", [0, 3, 4, 9])
async def test_a_dry_run_gives_the_same_panes(house: House, first: int) -> None:
    flow = made(house, LocalWorker())
    await house.flows.install(flow)
    for number in range(12):
        await house.journal.append([event(number, 4 * number)])
        await turns()
        if number % 3 == 0:
            await saved(house)
    offset = house.journal.records().index(event(first, 4 * first))
    found = await Replay(flow, 0, house.journal, house.clock, limit=1000).run(offset, house.flows.feed.head)
    assert (found.changed, found.new, found.missing) == (0, 0, 0), found.differences
    assert found.same > 0
    await house.journal.append([event(12, 48), event(13, 60)])
    await turns()
    events = [e for e in house.of(Event) if e.kind == "climate"]
    assert panes(house) == expected(events), "and the live one goes on"


def told(house: House, since: int) -> list[str]:
    """What has come of it in the words of a transcript, from a record on."""
    found: list[Result] = []
    for record in house.journal.records()[since:]:
        if isinstance(record, Event) and record.kind == KIND:
            found.append(msgspec.convert({"index": 0, **record.data}, Shown).pane())
        elif isinstance(record, DeadLetter):
            late = re.match(r"it came ([0-9.]+) s too late", record.detail)
            found.append(Late(0, round(float(late[1]) * SECOND) if late else 0))
    return [transcripts.spoken(result) for result in found]


class Shown(msgspec.Struct):
    index: int
    key: str
    start: int
    end: int
    values: dict[str, Any]
    timing: str
    number: int
    retraction: bool

    def pane(self) -> Pane:
        return Pane(*msgspec.structs.astuple(self))


def _passes(path: Path) -> bool:
    """A flow takes events of its sources alone, and believes no clock that jumps by more than a minute."""
    transcript = transcripts.read(path)
    kinds = {source.kind for source in transcript.sources}
    times = [step.now for step in transcript.steps]
    steady = all(later - now <= STEP for now, later in pairwise(times))
    return (
        steady and not transcript.fails and all(step.event.kind in kinds or _ticks(step) for step in transcript.steps)
    )


def _ticks(step: transcripts.Step) -> bool:
    return step.event.kind.startswith(TICK)


TRANSCRIPTS = sorted(filter(_passes, transcripts.FOLDER.glob("*.txt")))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
async def test_transcripts_hold_in_the_journal(house: House, path: Path) -> None:
    """Through the runner, the messages of the worker, and commits; with a crash in the middle."""
    transcript = transcripts.read(path)
    stream = Stream(transcript.sources, transcript.computation)
    await house.flows.install(made(house, LocalWorker(), stream))
    tick = f"$tick.{NAME}"
    for number, step in enumerate(transcript.steps):
        if number == len(transcript.steps) // 2:
            await saved(house)
            house = await house.after_crash()
            await house.flows.install(made(house, LocalWorker(), stream), resume=True)
        since = len(house.journal.records())
        await house.journal.append([msgspec.structs.replace(step.event, kind=tick) if _ticks(step) else step.event])
        await turns()
        expected = [line for line in step.expected if not line.startswith("note")]
        tenths = [re.sub(r"^late ([0-9]+)(\.[1-9])?.*", r"late \1\2", line) for line in expected]
        assert told(house, since) == [re.sub("^late 0$", "late", line) for line in tenths], f"line {step.line}"


READINGS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 25)), min_size=1, max_size=5)
STEPS = st.lists(
    st.one_of(READINGS, st.sampled_from(["save", "crash", "restart", "die", "deploy", "pause", "full", "replay"])),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_any_history_gives_what_there_is_in_the_journal(steps: list[list[tuple[int, int]] | str]) -> None:
    asyncio.run(_history(steps))


async def _history(steps: list[list[tuple[int, int]] | str]) -> None:
    house = await House().open()
    worker = LocalWorker()
    flow = made(house, worker)
    await house.flows.install(flow)
    running = asyncio.create_task(house.flows.run())
    seq = clock = 0
    for step in steps:
        match step:
            case "save":
                await saved(house)
            case "crash" | "restart":
                running.cancel()
                house = await (house.after_crash() if step == "crash" else house.after_restart())
                worker = LocalWorker()
                flow = made(house, worker)
                await house.flows.install(flow, resume=True)
                running = asyncio.create_task(house.flows.run())
            case "die":
                worker.die()
            case "deploy":
                flow = made(house, worker)
                await house.flows.install(flow)
            case "pause":
                await house.flows.pause(NAME)
                await house.flows.resume(NAME)
            case "full":
                house.journal.full = True
                await turns()
                house.journal.full = False
            case "replay":
                await Replay(flow, 0, house.journal, house.clock, limit=1000).run(0, house.flows.feed.head)
            case list():
                for device, ahead in step:
                    clock += 1
                    await house.journal.append([event(seq, clock + ahead, f"d{device}")])
                    seq += 1
                await turns()
    for _ in range(4):
        await house.time()
        await turns()
    taken = [e for e in house.of(Event) if e.kind == "climate"]
    assert panes(house) == expected(taken)
    running.cancel()
    await house.flows.stop()
