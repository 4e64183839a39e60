"""What one commit takes is bounded, and a stream that makes more of its events does not stand still for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.clock import ManualClock
from edge_runtime.events import Event
from edge_runtime.flows.flows import SAVE_EVERY, Flows
from edge_runtime.flows.timeline import pages
from edge_runtime.journal.records import DeadLetter, Progress, Record
from edge_runtime.journal.sqlite import client
from edge_runtime.journal.sqlite.client import SqliteJournal
from edge_runtime.streams import engine, flow, machine, ordered, session
from edge_runtime.streams.aggregates import make
from edge_runtime.streams.flow import StreamFlow
from edge_runtime.streams.machine import MOST_OF_ONE, Note, Pane
from edge_runtime.streams.trial import Trial
from edge_runtime.streamspec import Aggregate, Fixed, Flatten, Join, Source, Stream, Window
from edge_runtime.streamspec import Sequence as Spec
from tests.flows.conftest import BOOT, turns
from tests.streams.local import LocalWorker

NAME, KIND = "app.f.stream", "$stream.app.f"
SECOND = 1_000_000
DAY = 86_400 * SECOND
COLLECT = Stream([Source("climate")], Window(Fixed(60 * SECOND), {"all": Aggregate("collect", "v", {"limit": 1000})}))


def event(seq: int, at: int, data: Any, device: str = "gh-1", kind: str = "climate") -> Event:
    return Event(device, BOOT, seq, kind, DAY + at * SECOND, DAY + at * SECOND, data)


class Site:
    """A stream over a journal with a writer process; its worker is in this one."""

    def __init__(self, journal: SqliteJournal) -> None:
        self.journal = journal
        self.clock = ManualClock()

    async def run(self, stream: Stream) -> None:
        self.flows = Flows(self.journal, await self.journal.tables(), self.clock, random.Random(1))
        made = StreamFlow(
            NAME, KIND, stream, worker=LocalWorker().as_worker(), clock=self.clock, start="earliest", plain=True
        )
        await self.flows.install(made)
        self._running = asyncio.create_task(self.flows.run())

    async def stop(self) -> None:
        self._running.cancel()
        await self.flows.stop()

    async def records(self) -> list[Record]:
        found: list[Record] = []
        async for page in pages(self.journal, -1, (await self.journal.tables()).head):
            found += [stored.record for stored in page]
        return found

    async def until(self, there: Callable[[list[Record]], bool]) -> list[Record]:
        """The records, once it is so; time goes on meanwhile."""
        for _ in range(600):
            found = await self.records()
            if there(found):
                return found
            self.clock.advance(SAVE_EVERY)
            await turns(50)
            await asyncio.sleep(0.05)  # the writer is another process
        raise AssertionError(f"it stands still: {self.flows.runners[NAME].stats.waiting}")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    found = Site(journal)
    yield found
    await found.stop()
    await journal.close()


def small(monkeypatch: pytest.MonkeyPatch, many: int, most: int) -> None:
    """A machine stops after so many bytes, and the journal takes so many in one append."""
    for module in (engine, session, machine):
        monkeypatch.setattr(module, "MANY", many)
    monkeypatch.setattr(session, "LARGEST", 2 * many)
    monkeypatch.setattr(client, "MAX_WAITING_BYTES", most)
    monkeypatch.setattr(flow, "MAX_COMMIT", most // 2)


def panes(records: Sequence[Record]) -> list[Event]:
    return [record for record in records if isinstance(record, Event) and record.kind == KIND]


def first_minute(records: Sequence[Record]) -> list[Event]:
    return [pane for pane in panes(records) if pane.time == DAY + 60 * SECOND]


def commits(records: Sequence[Record]) -> list[list[Record]]:
    """What was stored with each progress of the stream."""
    found: list[list[Record]] = []
    part: list[Record] = []
    for record in records:
        if isinstance(record, Progress):
            found.append(part)
            part = []
        elif not isinstance(record, Event) or record.kind == KIND:
            part.append(record)
    return found


async def test_much_state_and_many_large_panes_are_divided_over_commits(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 keys collect 20 kB each: 0.8 MB of state and as much of panes, where the journal takes 0.6 MB."""
    small(monkeypatch, 60_000, 600_000)
    await site.run(COLLECT)
    events = [event(number // 40, number // 40, {"v": "x" * 1000}, f"d{number % 40:02}") for number in range(40 * 20)]
    events += [event(20, 70 + n, {"v": "last"}, f"d{n:02}") for n in range(40)]
    for at in range(0, len(events), 100):
        await site.journal.append(events[at : at + 100])
    await site.journal.append([event(21 + n, 120 + n, {"v": "on"}) for n in range(80)])
    records = await site.until(lambda found: len(first_minute(found)) == 40)
    first = first_minute(records)
    assert sorted(pane.device for pane in first) == [f"d{number:02}" for number in range(40)]
    assert all(len(pane.data["all"]["items"]) == 20 for pane in first)
    sizes = [len(msgspec.msgpack.encode(commit)) for commit in commits(records)]
    assert len(sizes) > 10
    assert max(sizes) < 600_000
    assert not [record for record in records if isinstance(record, DeadLetter)]


async def test_an_event_that_makes_too_much_is_a_dead_letter_and_the_others_go_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, 10_000, 100_000)
    await site.run(COLLECT)
    events = [event(0, 1, {"v": 1}), event(1, 2, {"v": "x" * 40_000}), event(2, 3, {"v": 3}), event(3, 70, {"v": 4})]
    await site.journal.append(events)
    records = await site.until(lambda found: bool(panes(found)))
    [pane] = panes(records)
    assert pane.data["all"] == {"items": [1, 3], "left_out": 0}
    [letter] = [record for record in records if isinstance(record, DeadLetter)]
    assert (letter.reason, letter.event) == ("size", events[1])
    assert "at once" in letter.detail


async def test_what_follows_from_one_event_has_an_end(site: Site) -> None:
    """A list of 1,000, and each of them 5 times: a commit takes 1,000 records."""
    await site.run(Stream([Source("climate")], None, [Flatten("v"), Flatten("w")]))
    events = [event(n, n, {"v": [n] * (1000 if n == 1 else 1), "w": [1] * 5}) for n in range(3)]
    await site.journal.append(events)
    records = await site.until(lambda found: any(pane.data == {"v": 2, "w": 1} for pane in panes(found)))
    found = [pane.data["v"] for pane in panes(records)]
    assert found == [0] * 5 + [1] * MOST_OF_ONE + [2] * 5
    [letter] = [record for record in records if isinstance(record, DeadLetter)]
    assert (letter.reason, letter.event) == ("size", events[1])
    assert f"the other {5000 - MOST_OF_ONE} are lost" in letter.detail


async def test_panes_that_are_too_large_together_come_one_after_the_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of 30 keys end with one event: 0.6 MB of panes, of which 40 kB are made at a time."""
    small(monkeypatch, 40_000, 2_000_000)
    await site.run(COLLECT)
    await site.journal.append([event(n, n % 60, {"v": "x" * 20_000}, f"d{n:02}") for n in range(30)])
    await site.journal.append([event(100, 200, {"v": 1})])
    await site.journal.append([event(200 + n, 201 + n, {"v": 1}, "gh-2") for n in range(60)])
    records = await site.until(lambda found: len(first_minute(found)) >= 30)
    causes = [pane.origin.cause for pane in first_minute(records) if pane.origin]
    assert len(causes) == 30
    assert max(map(causes.count, causes)) <= 4
    assert not [record for record in records if isinstance(record, DeadLetter)]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_is_collected_is_bounded_in_bytes_in_any_order_and_any_parts(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=12))
    events = [event(n, n, None) for n in range(len(sizes))]
    values = ["x" * size for size in sizes]
    before, ordered.MAX_BYTES = ordered.MAX_BYTES, 100
    try:
        part = make(Aggregate("collect", "v", {"limit": 6}))
        expected: list[str] = []
        for value in values:
            if len(expected) == 6 or sum(len(msgspec.msgpack.encode(one)) for one in [*expected, value]) > 100:
                break
            expected.append(value)
        states = [part.zero() for _ in range(3)]
        for number in data.draw(st.permutations(range(len(sizes)))):
            at = data.draw(st.integers(0, 2))
            part.add(states[at], values[number], events[number], events[number].time)
            if data.draw(st.booleans()):
                states[at] = part.load(msgspec.msgpack.decode(msgspec.msgpack.encode(part.dump(states[at]))))
        whole = part.zero()
        for number in data.draw(st.permutations(range(3))):
            part.merge(whole, states[number])
        assert part.result(whole, 0, 1) == {"items": expected, "left_out": len(sizes) - len(expected)}
    finally:
        ordered.MAX_BYTES = before


def test_a_join_holds_so_many_bytes_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.streams.joins.MAX_HELD", 5_000)
    trial = Trial(Stream([Source("a"), Source("b")], Join(within=60 * SECOND)), {})
    for number in range(10):
        trial.event(event(number, number, "x" * 1000, kind="a"))
    trial.event(event(10, 11, "y", kind="b"))
    found = [result.start for result in trial.results if isinstance(result, Pane)]
    assert found == [DAY + number * SECOND for number in (6, 7, 8, 9)]
    assert [note.about for note in trial.results if isinstance(note, Note)] == ["overflow"]


def test_a_sequence_holds_so_many_bytes_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.streams.sequences.MAX_HELD", 5_000)
    trial = Trial(Stream([Source("a"), Source("b")], Spec(within=60 * SECOND, lateness=30 * SECOND)), {})
    for number in range(10):
        trial.event(event(number, number, "x" * 1000, kind="ab"[number % 2]))
    found = [(result.start, result.end) for result in trial.results if isinstance(result, Pane)]
    assert found == [(DAY, DAY + SECOND), (DAY + 2 * SECOND, DAY + 3 * SECOND), (DAY + 4 * SECOND, DAY + 5 * SECOND)]
    assert [note.about for note in trial.results if isinstance(note, Note)] == ["overflow"]
