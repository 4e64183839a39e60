"""Any interleaving of appends, repeats, commits, redeploys, trimming, restarts and cuts of power, against a model."""

from __future__ import annotations

import contextlib

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_runtime.events import Event, Origin
from edge_runtime.flows.states import changed
from edge_runtime.journal.interface import Placed
from edge_runtime.journal.records import (
    Command,
    CommandEnd,
    Entry,
    FlowState,
    Gap,
    Progress,
    Record,
    State,
    StateChange,
    Trimmed,
)
from edge_runtime.journal.retention import Retention
from edge_runtime.journal.sqlite import store as store_module
from edge_runtime.journal.sqlite.messages import Op
from edge_runtime.journal.sqlite.store import Store
from tests.journal.power import Disk, Replay
from tests.journal.test_power_cut import BOOT, PATH, contents

FLOWS = ("app.one", "app.two")
devices = st.sampled_from(["gh-1", "gh-2"])
flows = st.sampled_from(FLOWS)


def event(device: str, seq: int, content: int) -> Event:
    return Event(device, BOOT, seq, "climate", seq, seq, {"n": content, "pad": "x" * 700})


class Journal(RuleBasedStateMachine):
    """The model: every record that was acknowledged, in order, and what follows from them by definition."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.log: list[Record] = []
        self.identities: dict[tuple[str, int], int] = {}
        self.generations: dict[str, int] = {}
        self.outbox: dict[bytes, Command] = {}
        self.effects = 0
        self.kept: dict[tuple[str, str], State] = {}
        self.retention = Retention()
        self.store = Store(PATH, vfs=self.disk.vfs)
        self.restores = contextlib.ExitStack()
        before = store_module.SNAPSHOT_EVERY
        store_module.SNAPSHOT_EVERY = 7
        self.restores.callback(setattr, store_module, "SNAPSHOT_EVERY", before)

    def teardown(self) -> None:
        self.store.close()
        self.restores.close()

    @initialize(limit=st.sampled_from([0, 16 << 10]), budget=st.sampled_from([0, 4 << 10]))
    def begin(self, limit: int, budget: int) -> None:
        self.retention = Retention(max_bytes=limit, flow_budget=budget)
        self.restart()

    @rule(device=devices, seqs=st.lists(st.integers(0, 100), min_size=1, max_size=8), content=st.integers(0, 1))
    def append(self, device: str, seqs: list[int], content: int) -> None:
        records: list[Record] = [event(device, seq, content) for seq in seqs]
        (done,) = self.store.write([Op(records)])
        placed = [Placed.STORED] * len(records)
        for number, verdict in done.others:
            placed[number] = verdict
        for seq, record, verdict in zip(seqs, records, placed, strict=True):
            known = self.identities.get((device, seq))
            if known is None:
                assert verdict is Placed.STORED
                self.identities[device, seq] = content
                self.log.append(record)
            elif known == content:
                assert verdict is Placed.DUPLICATE
            else:
                # After a restart the content of what has been trimmed is not known any more.
                assert verdict in (Placed.CONFLICT, Placed.DUPLICATE)
                if verdict is Placed.CONFLICT:
                    self.log.append(contents(self.store)[len(self.log) - self.first].record)

    @rule(device=devices, start=st.integers(0, 5))
    def burst(self, device: str, start: int) -> None:
        self.append(device, list(range(start * 20, start * 20 + 20)), 0)

    @rule(flow=flows)
    def deploy(self, flow: str) -> None:
        generation = self.generations.get(flow, 0) + 1
        cursor = self.store.tables().flows[flow].cursor if flow in self.generations else -1
        state = FlowState(flow, generation, 0, cursor)
        self.store.write([Op([state])])
        self.generations[flow] = generation
        self.log.append(state)

    @rule(flow=flows, behind=st.integers(0, 10), stale=st.booleans(), count=st.integers(0, 2))
    def commit(self, flow: str, behind: int, stale: bool, count: int) -> None:
        generation = self.generations.get(flow, 0) - stale
        orders = [
            Command("gh-1", "fan", None, 0, 9, Origin(flow, 0, "cause", self.effects + number))
            for number in range(count)
        ]
        progress = Progress(flow, generation, max(self.store.head - behind, -1))
        (done,) = self.store.write([Op([*orders, progress], flow, generation)])
        if flow not in self.generations or stale:
            assert done.stale
            return
        self.effects += count
        self.log += [*orders, progress]
        self.outbox.update((order.id, order) for order in orders)

    @rule(flow=flows, device=devices, names=st.sets(st.sampled_from(["a", "b", "c"]), min_size=1), gone=st.booleans())
    def keep(self, flow: str, device: str, names: set[str], gone: bool) -> None:
        if flow not in self.generations:
            return
        self.effects += 1
        state = self.kept.get((flow, device), {})
        entries: dict[str, Entry | None] = dict.fromkeys(names, None if gone else (str(self.effects), 0))
        change = StateChange(flow, device, entries, {name: state.get(name) for name in names})
        progress = Progress(flow, self.generations[flow], self.store.head)
        self.store.write([Op([change, progress], flow, self.generations[flow])])
        self.log += [change, progress]
        self.kept[flow, device] = changed(state, entries)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if not self.outbox:
            return
        ended = CommandEnd(data.draw(st.sampled_from(sorted(self.outbox))), "gh-1", 0, None, 1)
        (done,) = self.store.write([Op([ended, ended])])
        assert done.others == [(1, Placed.DUPLICATE)]
        del self.outbox[ended.command]
        self.log.append(ended)

    @rule()
    def trim(self) -> None:
        while stored := self.store.maintain(idle=True)[1]:
            assert [item.offset for item in stored] == list(range(len(self.log), len(self.log) + len(stored)))
            self.log += [item.record for item in stored]

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = Store(PATH, retention=self.retention, vfs=self.disk.vfs)

    @rule()
    def cut_the_power(self) -> None:
        replay = Replay(self.disk.changes)
        for _ in replay:
            pass
        survived = Disk(replay.dropped())
        survived.changes = list(self.disk.changes)
        self.store.close()
        self.disk = survived
        # What survived is all there is: the record goes on from it.
        self.disk.changes = [
            change
            for name, data in replay.dropped().items()
            for change in (("create", name, 0, b""), ("write", name, 0, data), ("sync", name, 0, b""))
        ]
        self.store = Store(PATH, retention=self.retention, vfs=self.disk.vfs)

    @property
    def first(self) -> int:
        return self.store.tables().first

    @invariant()
    def everything_acknowledged_is_there(self) -> None:
        tables = self.store.tables()
        found = contents(self.store)
        assert [item.offset for item in found] == list(range(tables.first, len(self.log)))
        assert [item.record for item in found] == self.log[tables.first :]
        assert {order.id for order in tables.outbox} == set(self.outbox)
        assert {name: state.generation for name, state in tables.flows.items()} == self.generations

    @invariant()
    def functions_find_what_they_keep(self) -> None:
        for flow in FLOWS:
            kept = {key: state for (name, key), state in self.kept.items() if name == flow and state}
            assert self.store.states(flow, ["gh-1", "gh-2"]) == kept
            first = self.store.state_keys(flow, "", 1)
            assert first == sorted(kept)[:1]
            assert first + self.store.state_keys(flow, first[0] if first else "", 9) == sorted(kept)

    @invariant()
    def what_is_gone_was_announced(self) -> None:
        upto = max((record.upto for record in self.log if isinstance(record, Trimmed)), default=-1)
        assert self.first == upto + 1

    @invariant()
    def no_flow_loses_an_event_unseen(self) -> None:
        """Whatever was removed had been dealt with when it was, or stands in a gap."""
        positions: dict[str, int] = {}
        gone = 0
        for offset, record in enumerate(self.log):
            match record:
                case FlowState() | Progress():
                    positions[record.flow] = record.cursor
                case Gap(flow, _, last):
                    positions[flow] = max(positions[flow], last)
                case Trimmed(upto):
                    for flow, position in positions.items():
                        for lost in range(max(gone, position + 1), upto + 1):
                            assert not isinstance(self.log[lost], Event), f"{flow} lost {lost} at {offset}"
                    gone = upto + 1
                case _:
                    pass


TestJournal = Journal.TestCase
TestJournal.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
