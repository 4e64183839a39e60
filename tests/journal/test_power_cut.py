"""The power goes at every write of a recorded workload: what was acknowledged is there, nothing is half there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_runtime.events import Event, Origin
from edge_runtime.journal.interface import Placed
from edge_runtime.journal.records import Command, Entry, FlowState, Gap, Progress, Record, StateChange, Stored, Trimmed
from edge_runtime.journal.retention import Retention
from edge_runtime.journal.sqlite import database, store
from edge_runtime.journal.sqlite.messages import Op
from edge_runtime.journal.sqlite.rows import decode_records
from edge_runtime.journal.sqlite.store import Store
from tests.journal.power import Disk, Files, Replay

BOOT = b"8 bytes."
FLOW = "app.flow"
SLOW = "app.slow"
"""A flow that never gets anywhere: beyond its budget it loses events, and is told."""
PATH = Path("journal.db")


def event(seq: int) -> Event:
    return Event("gh-1", BOOT, seq, "climate", seq, seq, {"n": seq, "pad": "x" * (seq % 7 * 90)})


def effect(seq: int, index: int) -> Command:
    return Command("gh-1", "fan", index, seq, 10**9, Origin(FLOW, 0, event(seq).id, index))


class Workload:
    """Appends, commits with effects, snapshots, checkpoints, trimming and restarts; notes what was acknowledged."""

    RETENTION = Retention(max_bytes=40 << 10, flow_budget=8 << 10)

    def __init__(self) -> None:
        self.disk = Disk()
        self._seq = 0
        self._commits = 0
        self._open()
        self._do([FlowState(FLOW, 1, 0, -1), FlowState(SLOW, 1, 0, -1)])

    def run(self, rounds: int) -> None:
        for number in range(rounds):
            first = self._seq
            self._seq += 1 + number % 4
            self._do([event(seq) for seq in range(first, self._seq)])
            if number % 2:
                self._do(
                    [self._counted(), effect(first, 0), effect(first, 1), Progress(FLOW, 1, self._store.head)], FLOW, 1
                )
            self._store.maintain(idle=number % 5 == 0)
            if number % 17 == 16:
                self._store.close()
                self._open()
        self._store.close()

    def _counted(self) -> StateChange:
        before: Entry | None = (str(self._commits), 0) if self._commits else None
        self._commits += 1
        return StateChange(FLOW, "gh-1", {"commits": (str(self._commits), 0)}, {"commits": before})

    def _open(self) -> None:
        self._store = Store(PATH, retention=self.RETENTION, vfs=self.disk.vfs)

    def _do(self, records: list[Record], flow: str = "", generation: int = 0) -> None:
        (done,) = self._store.write([Op(records, flow, generation)])
        assert not done.stale
        assert not done.others
        tables = self._store.tables()
        self.disk.note(f"{self._store.head} {self._seq} {tables.flows[FLOW].cursor} {len(tables.outbox)}")


def contents(store: Store) -> list[Stored]:
    found: list[Stored] = []
    while rows := store.read(found[-1].offset if found else -1, 1000):
        for first, blob in rows:
            found += [Stored(offset, record) for offset, record in enumerate(decode_records(blob), first)]
    return found


def check(files: Files, notes: Sequence[str]) -> None:
    """A journal opened on what the disk holds after the cut keeps every promise made before it."""
    head, seqs, cursor, orders = map(int, notes[-1].split()) if notes else (-1, 0, -1, 0)
    disk = Disk(files)
    store = Store(PATH, vfs=disk.vfs)
    found = contents(store)
    tables = store.tables()
    offsets = [item.offset for item in found]
    assert offsets == list(range(tables.first, tables.head + 1)), "a hole"
    assert tables.head >= head, f"records up to {head} were acknowledged, {tables.head} is the last"
    for index, item in enumerate(found):
        match item.record:
            case Command() if item.record.args == 0:
                both = found[index + 1].record, found[index + 2].record
                assert isinstance(both[0], Command), "half of a commit"
                assert isinstance(both[1], Progress), "effects without their progress"
            case Trimmed(upto):
                assert upto < tables.first
            case Gap(flow, first, last):
                assert flow == SLOW
                assert first <= last < tables.first
                assert tables.flows[SLOW].cursor >= last
            case _:
                pass
    outbox = len({command.id for command in tables.outbox})
    assert outbox in (orders, orders + 2), "commands lost, or half of a commit"
    kept = store.states(FLOW, ["gh-1"]).get("gh-1", {}).get("commits", ("0", 0))
    assert int(kept[0]) == outbox // 2, "what is kept is not what was committed"
    if notes:
        position = tables.flows[FLOW].cursor
        assert position >= cursor
        assert outbox == orders or position > cursor, "effects without their progress"
    if seqs:
        (done,) = store.write([Op([event(seq) for seq in range(seqs)])])
        assert len(done.others) == seqs, "something acknowledged was taken for new"
        assert {placed for _, placed in done.others} <= {Placed.DUPLICATE}
    (done,) = store.write([Op([event(10**6)])])
    assert done.others == []
    assert contents(store)[-1].record == event(10**6)
    store.close()


def suite(rounds: int) -> int:
    """Record the workload, cut the power at each of its changes; returns how many cuts were survived."""
    workload = Workload()
    workload.run(rounds)
    end = Disk(workload.disk.contents())
    last = Store(PATH, vfs=end.vfs)
    kinds = {type(item.record) for item in contents(last)}
    last.close()
    assert {Event, Command, Progress, Trimmed, Gap} <= kinds
    replay = Replay(workload.disk.changes)
    rng = random.Random(20_261_122)
    checked: set[tuple[int, int]] = set()
    cuts = 0
    for _change in replay:
        for files in (replay.dropped(), replay.torn(rng)):
            state = (hash(tuple(sorted(files.items()))), len(replay.notes))
            if state not in checked:
                checked.add(state)
                check(files, replay.notes)
            cuts += 1
    return cuts


def restarts(rounds: int) -> int:
    """Kill the writer after each of its writes; the power goes when the next one has acknowledged what it found."""
    workload = Workload()
    workload.run(rounds)
    replay = Replay(workload.disk.changes)
    rng = random.Random(20_261_122)
    killed = 0
    for what, name, _, _ in replay:
        if what != "write":
            continue
        killed += 1
        disk = Disk(replay.cached())
        store = Store(PATH, vfs=disk.vfs)
        tables = store.tables()
        seqs = 1 + max((item.record.seq for item in contents(store) if isinstance(item.record, Event)), default=-1)
        (done,) = store.write([Op([event(seq) for seq in range(seqs)])])
        assert [placed for _, placed in done.others] == [Placed.DUPLICATE] * seqs
        if FLOW in tables.flows:
            disk.note(f"{tables.head} {seqs} {tables.flows[FLOW].cursor} {len(tables.outbox)}")
        # Killed only, or killed because its fsync had failed.
        for failed in ("", name):
            after = replay.continued(list(disk.changes), failed)
            check(after.dropped(), after.notes)
            check(after.torn(rng), after.notes)
    return killed


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots and checkpoints every few records, so that a short workload meets them all."""
    monkeypatch.setattr(store, "SNAPSHOT_EVERY", 40)
    monkeypatch.setattr(store, "WAL_RESTART_PAGES", 60)
    monkeypatch.setattr(store, "WAL_IDLE_PAGES", 20)


def test_the_power_may_go_at_any_write() -> None:
    assert suite(70) > 1000


def test_what_a_restart_finds_is_durable_before_it_is_acknowledged() -> None:
    assert restarts(25) > 200


def test_the_suite_finds_what_only_the_page_cache_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_make_durable", lambda path, vfs: None)
    with pytest.raises(AssertionError, match="were acknowledged"):
        restarts(25)


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_the_suite_finds_what_is_not_durable(synchronous: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SYNCHRONOUS", synchronous)
    with pytest.raises(AssertionError, match="were acknowledged"):
        suite(70)
