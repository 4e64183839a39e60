"""What goes, what stays, and what a flow is told: by age, by size, at the quota; what a step of the clock does not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import StorageFull
from edge_runtime.events import Event
from edge_runtime.journal.interface import Placed
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import (
    DeadLetter,
    Device,
    FlowState,
    Gap,
    Progress,
    Record,
    Retry,
    StateChange,
    Stored,
    Trimmed,
)
from edge_runtime.journal.retention import Follower, Limits, Old, Retention, lifted, plan
from edge_runtime.journal.sqlite.messages import Op
from edge_runtime.journal.sqlite.store import Store
from tests.journal.test_power_cut import BOOT, contents

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
YEAR = 365 * DAY
NOW = 1_800_000_000 * SECOND


def event(seq: int, received: int = NOW, size: int = 1000) -> Event:
    return Event("gh-1", BOOT, seq, "climate", received, received, "x" * size)


class House:
    """A store with a clock that is turned by hand."""

    def __init__(self, path: Path, retention: Retention, max_bytes: int = 0) -> None:
        self._path, self._retention, self._max_bytes = path, retention, max_bytes
        self.now, self.monotonic, self.trusted = NOW, 0, True
        self.seq = 0
        self.store = self._open()

    def _open(self) -> Store:
        store = Store(self._path, self._max_bytes, self._retention)
        self.monotonic = 0
        store.tick(self.now, self.monotonic, trusted=self.trusted)
        return store

    def restart(self) -> None:
        self.store.close()
        self.store = self._open()

    def put(self, count: int = 1, size: int = 1000) -> None:
        for _ in range(count):
            self.write([event(self.seq, self.now, size)])
            self.seq += 1

    def write(self, records: Sequence[Record], flow: str = "", generation: int = 0) -> None:
        (done,) = self.store.write([Op(list(records), flow, generation)])
        assert not done.stale
        if done.full:
            raise StorageFull("full")

    def pass_time(self, microseconds: int, step: int = HOUR) -> list[Stored]:
        """Let time go by, telling the store now and then, as the gateway does."""
        stored = []
        for _ in range(microseconds // step):
            self.now += step
            self.monotonic += step
            self.store.tick(self.now, self.monotonic, trusted=self.trusted)
            stored += self.idle()
        return stored

    def idle(self) -> list[Stored]:
        stored: list[Stored] = []
        while True:
            more, new = self.store.maintain(idle=True)
            stored += new
            if not more:
                return stored

    @property
    def first(self) -> int:
        return self.store.tables().first


@pytest.fixture
def make(tmp_path: Path) -> Iterator[list[House]]:
    made: list[House] = []
    yield made
    for house in made:
        house.store.close()


def house(made: list[House], path: Path, retention: Retention, max_bytes: int = 0) -> House:
    made.append(House(path / "journal.db", retention, max_bytes))
    return made[-1]


def test_what_has_been_here_for_its_time_goes(make: list[House], tmp_path: Path) -> None:
    at = house(make, tmp_path, Retention(max_age=7 * DAY))
    at.put(50)
    assert at.pass_time(6 * DAY) == []
    at.put(50)
    stored = at.pass_time(2 * DAY)
    assert isinstance(stored[-1].record, Trimmed)
    assert at.first == 50
    assert contents(at.store)[0].offset == 50


def test_restarts_do_not_begin_the_time_anew(make: list[House], tmp_path: Path) -> None:
    at = house(make, tmp_path, Retention(max_age=7 * DAY))
    at.put(10)
    for _ in range(9):
        at.pass_time(DAY)
        at.restart()
    assert at.first >= 10


@pytest.mark.parametrize("step", [YEAR, -YEAR])
def test_a_clock_that_steps_a_year_trims_nothing(step: int, make: list[House], tmp_path: Path) -> None:
    at = house(make, tmp_path, Retention(max_age=7 * DAY))
    at.put(10)
    at.pass_time(DAY)
    at.now += step
    assert at.pass_time(5 * DAY) == []
    at.restart()
    assert at.idle() == []
    assert at.first == 0


def test_what_a_wrong_clock_dated_goes_when_its_time_has_passed(make: list[House], tmp_path: Path) -> None:
    at = house(make, tmp_path, Retention(max_age=7 * DAY))
    at.now += YEAR
    at.put(10)
    at.now -= YEAR
    at.pass_time(8 * DAY)
    assert at.first >= 10


def test_without_a_trusted_clock_nothing_goes_by_age(make: list[House], tmp_path: Path) -> None:
    at = house(make, tmp_path, Retention(max_age=DAY))
    at.trusted = False
    at.put(10)
    assert at.pass_time(3 * DAY) == []
    at.trusted = True
    assert at.pass_time(HOUR) != []


def test_size_is_bounded_and_pages_are_used_again(make: list[House], tmp_path: Path) -> None:
    at = house(make, tmp_path, Retention(max_bytes=1 << 20))
    sizes = []
    for _ in range(10):
        at.put(500)
        at.idle()
        at.restart()
        sizes.append((tmp_path / "journal.db").stat().st_size)
    assert max(sizes) < 1.8 * (1 << 20)
    assert at.first > 3000
    # Identities outlive their events.
    (done,) = at.store.write([Op([event(seq) for seq in range(0, 5000, 100)])])
    assert [placed for _, placed in done.others] == [Placed.DUPLICATE] * 50


def test_under_load_trimming_keeps_up_in_slices(make: list[House], tmp_path: Path) -> None:
    at = house(make, tmp_path, Retention(max_bytes=1 << 20))
    for _ in range(5000):
        at.put()
        at.store.maintain(idle=False)
    assert at.store.usage().bytes < 1.5 * (1 << 20)


def test_a_flow_holds_back_up_to_its_budget_then_it_is_told(make: list[House], tmp_path: Path) -> None:
    at = house(make, tmp_path, Retention(max_bytes=1 << 20, flow_budget=2 << 20))
    at.write([FlowState("app.quick", 1, 0, -1), FlowState("app.slow", 1, 0, -1)])
    at.put(100)
    at.write([Progress("app.slow", 1, 40)], "app.slow", 1)
    for _ in range(15):
        at.put(100)
        at.write([Progress("app.quick", 1, at.store.head)], "app.quick", 1)
        at.idle()
    assert at.first <= 41, "within its budget the slow flow keeps what it has not dealt with"
    stored: list[Stored] = []
    for _ in range(20):
        at.put(100)
        at.write([Progress("app.quick", 1, at.store.head)], "app.quick", 1)
        stored += at.idle()
    gaps = [item.record for item in stored if isinstance(item.record, Gap)]
    assert {gap.flow for gap in gaps} == {"app.slow"}
    assert gaps[0].first == 41
    assert all(gap.last < later.first for gap, later in itertools.pairwise(gaps))
    assert gaps[-1].last < at.first
    state = at.store.tables().flows["app.slow"]
    assert state.cursor == gaps[-1].last
    at.restart()
    assert at.store.tables().flows["app.slow"] == state


def test_near_the_quota_no_flow_holds_anything_back(make: list[House], tmp_path: Path) -> None:
    quota = 4 << 20
    at = house(make, tmp_path, Retention(max_bytes=1 << 20, flow_budget=1 << 40), max_bytes=quota)
    at.write([FlowState("app.paused", 1, 0, -1, paused=True)])
    for _ in range(8000):
        at.put()
        at.store.maintain(idle=False)
    assert at.store.usage().bytes <= quota
    assert at.first > 4000


def test_at_the_quota_events_stop_and_the_rest_goes_on(make: list[House], tmp_path: Path) -> None:
    at = house(make, tmp_path, Retention(), max_bytes=1 << 20)
    at.write([FlowState("app.flow", 1, 0, -1), Device("gh-1", b"digest", 1)])
    with pytest.raises(StorageFull):
        at.put(10_000)
    assert at.store.usage().full
    head = at.store.head
    with pytest.raises(StorageFull):
        at.write([DeadLetter("ingress", "invalid", "", NOW, "gh-1", payload=b"x" * 1000)])
    with pytest.raises(StorageFull):
        at.write([StateChange("$broker", "r:topic", {"m": ("x" * 1000, 0)}, {})])
    at.write([StateChange("$broker", "r:topic", {"m": None}, {})])
    head = at.store.head
    # A mixed group: what may use the reserve does, what may not is refused alone.
    refused, done = at.store.write(
        [Op([event(20_000)]), Op([event(30_000), Progress("app.flow", 1, head)], "app.flow", 1)]
    )
    assert refused.full
    assert (done.full, done.first) == (False, head + 1)
    at.restart()
    with pytest.raises(StorageFull):
        at.put()
    with pytest.raises(StorageFull, match="no room"):
        exhaust(at, head)
    assert contents(at.store)[-1].offset == at.store.head


def exhaust(at: House, cursor: int) -> None:
    """Use up the reserve too."""
    for number in range(100_000):
        at.write([event(40_000 + number), Progress("app.flow", 1, cursor)], "app.flow", 1)


def test_the_system_works_itself_free(make: list[House], tmp_path: Path) -> None:
    path = tmp_path
    at = house(make, path, Retention(), max_bytes=1 << 20)
    with pytest.raises(StorageFull):
        at.put(10_000)
    at.store.close()
    again = house(make, path, Retention(max_bytes=256 << 10), max_bytes=1 << 20)
    again.seq = at.seq
    make.remove(at)
    again.idle()
    again.put(100)
    assert not again.store.usage().full


def test_progress_that_was_under_way_cannot_hide_a_gap(make: list[House], tmp_path: Path) -> None:
    """A runner commits what it had in memory while its events were being removed."""
    at = house(make, tmp_path, Retention(max_bytes=1 << 18, flow_budget=0))
    at.write([FlowState("app.slow", 1, 0, -1)])
    at.put(500)
    stored = at.idle()
    last = max(item.record.last for item in stored if isinstance(item.record, Gap))
    at.write([Progress("app.slow", 1, 20)], "app.slow", 1)
    at.put(500)
    gaps = [item.record for item in at.idle() if isinstance(item.record, Gap)]
    assert gaps[0].first == last + 1, "what was reported is not reported again, and nothing between is left out"


offsets = st.integers(-1, 60)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=10),
    states=st.lists(st.tuples(offsets, st.integers(0, 200)), max_size=4),
    surplus=st.integers(-50, 400),
    urgent=st.integers(-50, 400),
    budget=st.integers(0, 200),
)
def test_nothing_goes_unseen(
    sizes: list[int], states: list[tuple[int, int]], surplus: int, urgent: int, budget: int
) -> None:
    batches, first = [], 0
    for size in sizes:
        batches.append(Old.of(first, [event(first + number) for number in range(size)], size * 10))
        first += size
    flows = [Follower(f"f{number}", at, behind) for number, (at, behind) in enumerate(states)]
    upto, losses = plan(batches, flows, Limits(surplus, urgent, -1, None, NOW), budget)
    assert upto in {-1, *(batch.last for batch in batches)}
    lost = {name: (start, last) for name, start, last in losses}
    for flow in flows:
        if flow.dealt < upto:
            assert lost[flow.flow] == (flow.dealt + 1, upto)
            assert urgent > 0 or flow.behind > budget
        else:
            assert flow.flow not in lost


def test_an_event_that_is_tried_again_is_needed_by_its_flow_alone() -> None:
    batch = Old.of(10, [Progress("f", 1, 3), Retry("f", 4, event(1), NOW), Trimmed(2, NOW)], 100)
    flows = [Follower("f", 3, 1 << 20), Follower("g", 3, 1 << 20)]
    assert plan([batch], flows, Limits(1, 0, -1, None, NOW), 0) == (12, [("f", 11, 11)])


def test_a_gap_lifts_what_is_behind_it_and_nothing_else() -> None:
    state = FlowState("f", 1, 0, 100, {3: 20, 4: 90}, {"a": 10, "b": 80})
    after = lifted(state, Gap("f", 11, 50, 0))
    assert (after.cursor, after.slots, after.held) == (100, {3: 50, 4: 90}, {"a": 50, "b": 80})
    beyond = lifted(state, Gap("f", 11, 200, 0))
    assert (beyond.cursor, beyond.slots) == (200, {})


async def test_a_trimmed_journal_in_memory() -> None:
    journal = MemoryJournal()
    await journal.append([FlowState("f", 1, 0, -1)])
    await journal.append([event(seq) for seq in range(10)])
    heard: list[Stored] = []
    journal.listen(heard.extend)
    journal.trim(5, 7)
    assert [item.record for item in heard] == [Gap("f", 1, 5, 7), Trimmed(5, 7)]
    for now in (journal, MemoryJournal(journal.records())):
        assert (await now.read(-1, 3))[0].offset == 6
        assert (await now.tables()).first == 6
        assert (await now.append([event(2)])).placed == [Placed.DUPLICATE]
