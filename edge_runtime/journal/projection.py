"""The rules of the journal, free of storage: what a record may do, and what the tables look like after it.

Both journals decide with this class; they differ only in where the records and the snapshots of it lie.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from edge_runtime.errors import StaleGeneration
from edge_runtime.events import Event
from edge_runtime.journal import seen
from edge_runtime.journal.interface import Placed, Tables
from edge_runtime.journal.records import (
    AppVersion,
    Command,
    CommandEnd,
    DeadLetter,
    Device,
    FlowState,
    Progress,
    Record,
)

BootKey = tuple[str, bytes]
RECENT = 65_536
"""How many newest events are remembered with a digest of their content, to tell a repeat from a conflict."""

_encode = msgspec.msgpack.Encoder().encode


class Projection:
    """The tables, and the rules by which records change them."""

    def __init__(self) -> None:
        self.head = -1
        self.flows: dict[str, FlowState] = {}
        self.devices: dict[str, Device] = {}
        self.apps: dict[str, AppVersion] = {}
        self.outbox: dict[bytes, Command] = {}
        self.boots: dict[BootKey, seen.Intervals] = {}
        """Intervals of the boots at hand; a journal with a disk may keep the rest there."""
        self._digests: OrderedDict[tuple[str, bytes, int], bytes] = OrderedDict()

    def tables(self) -> Tables:
        """A copy that later changes do not reach."""
        return Tables(self.head, dict(self.flows), dict(self.devices), dict(self.apps), list(self.outbox.values()))

    def check(self, flow: str, generation: int) -> None:
        """Raise StaleGeneration unless `generation` is the flow's current one."""
        state = self.flows.get(flow)
        if state is None or state.generation != generation:
            now = "unknown" if state is None else f"at generation {state.generation}"
            raise StaleGeneration(f"flow '{flow}' is {now}; a commit of generation {generation} was refused")

    def place(self, records: Sequence[Record]) -> tuple[list[Placed], list[Record]]:
        """Decide which records are to be stored, as if one after the other; nothing is changed yet.

        Returns what becomes of each, and the records to store (a conflict is stored as a dead letter).
        """
        placed: list[Placed] = []
        stored: list[Record] = []
        fresh: dict[tuple[str, bytes, int], bytes] = {}
        ended: set[bytes] = set()
        for record in records:
            verdict = Placed.STORED
            if type(record) is Event and record.origin is None:
                key = (record.device, record.boot, record.seq)
                known = fresh.get(key) or self._digests.get(key)
                if known is not None or seen.contains(self.boots.get(key[:2], []), record.seq):
                    same = known is None or known == content_digest(record)
                    verdict = Placed.DUPLICATE if same else Placed.CONFLICT
                else:
                    fresh[key] = content_digest(record)
            elif type(record) is CommandEnd:
                if record.command not in self.outbox or record.command in ended:
                    verdict = Placed.DUPLICATE
                ended.add(record.command)
            placed.append(verdict)
            if verdict is Placed.STORED:
                stored.append(record)
            elif verdict is Placed.CONFLICT:
                stored.append(_conflict(record))
        return placed, stored

    def apply(self, record: Record) -> None:
        """Let one stored record take effect; it stands at offset `head + 1`."""
        self.head += 1
        match record:
            case Event(origin=None):
                key = (record.device, record.boot)
                intervals = self.boots.setdefault(key, [])
                if not seen.contains(intervals, record.seq):
                    seen.add(intervals, record.seq)
                self._digests[record.device, record.boot, record.seq] = content_digest(record)
                if len(self._digests) > RECENT:
                    self._digests.popitem(last=False)
            case Progress():
                state = self.flows[record.flow]
                self.flows[record.flow] = msgspec.structs.replace(state, cursor=record.cursor)
            case Command():
                self.outbox[record.id] = record
            case CommandEnd():
                self.outbox.pop(record.command, None)
            case FlowState():
                self.flows[record.flow] = record
            case Device():
                self.devices[record.id] = record
            case AppVersion():
                self.apps[record.app] = record
            case _:
                pass


def content_digest(event: Event) -> bytes:
    """8 bytes over what makes two events with one identity the same: kind and data."""
    return blake2b(_encode((event.kind, event.data)), digest_size=8).digest()


def _conflict(record: Record) -> DeadLetter:
    assert isinstance(record, Event)
    return DeadLetter(
        flow="ingress",
        reason="conflict",
        detail=f"event {record.id} is in the log already with other content; the first one stands",
        time=record.received,
        device=record.device,
        event=record,
    )
