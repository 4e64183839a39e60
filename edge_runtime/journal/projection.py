"""The rules of the journal, free of storage: what a record may do, and what the tables look like after it.

Both journals decide with this class; they differ only in where the records and the snapshots of it lie.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from edge_runtime.errors import StaleGeneration
from edge_runtime.events import Event
from edge_runtime.journal import seen
from edge_runtime.journal.interface import Placed, Tables
from edge_runtime.journal.records import (
    AppToken,
    AppVersion,
    ClockSet,
    Command,
    CommandEnd,
    DeadLetter,
    Device,
    Entry,
    FlowState,
    Gap,
    Progress,
    Record,
    StateChange,
    Timer,
    TimerCancelled,
    TimerFired,
    Trimmed,
)
from edge_runtime.journal.retention import lifted
from edge_runtime.journal.timers import Pending, Placing

BootKey = tuple[str, bytes]
StateKey = tuple[str, str]
"""A flow and a partition key."""
EventKey = tuple[str, bytes, int]
RECENT = 65_536
"""How many newest events are remembered with a digest of their content, to tell a repeat from a conflict."""

MAX_BOOTS = 20_000
"""How many boots' intervals are held in memory before the saved ones are let go."""

_STORED = Placed.STORED
_encode = msgspec.msgpack.Encoder().encode


class Projection:
    """The tables, and the rules by which records change them."""

    def __init__(self, load_boot: Callable[[BootKey], seen.Intervals] | None = None) -> None:
        """`load_boot` brings a boot's intervals from where they are kept, when it is not at hand."""
        self.head = -1
        self.first = 0
        self.flows: dict[str, FlowState] = {}
        self.devices: dict[str, Device] = {}
        self.apps: dict[str, AppVersion] = {}
        self.outbox: dict[bytes, Command] = {}
        self.pending = Pending()
        self.tokens: dict[str, AppToken] = {}
        self.boots: dict[BootKey, seen.Intervals] = {}
        """Intervals of the boots at hand; a journal with a disk keeps the rest there."""
        self.dirty: set[BootKey] = set()
        """The boots whose intervals have changed; whoever saves them empties it."""
        self.stateful: set[str] = set()
        self.states: dict[StateKey, dict[str, Entry | None]] = {}
        """Entries that functions have changed, None for removed ones; whoever saves them empties it."""
        self._load_boot = load_boot
        self._digests: OrderedDict[EventKey, int] = OrderedDict()
        self._fresh: dict[EventKey, int] = {}
        """Digests of what was placed last, which `apply` is most likely about."""

    def tables(self) -> Tables:
        """A copy that later changes do not reach."""
        return Tables(
            self.first,
            self.head,
            dict(self.flows),
            dict(self.devices),
            dict(self.apps),
            list(self.outbox.values()),
            set(self.stateful),
            list(self.pending.timers.values()),
            dict(self.pending.ticks),
            dict(self.tokens),
        )

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
        fresh = self._fresh = {}
        ended: set[bytes] = set()
        timers = Placing(self.pending)
        digests, boots = self._digests, self.boots
        for record in records:
            verdict = _STORED
            if type(record) is Event and record.origin is None:
                device, boot, seq = record.device, record.boot, record.seq
                key = (device, boot, seq)
                known = fresh.get(key)
                if known is None:
                    known = digests.get(key)
                intervals = boots.get((device, boot))
                if intervals is None:
                    intervals = self._intervals((device, boot))
                if known is None and intervals and seq == intervals[-1][1] + 1:
                    fresh[key] = content_digest(record)  # a board that counts: nearly always
                elif known is not None or seen.contains(intervals, seq):
                    same = known is None or known == content_digest(record)
                    verdict = Placed.DUPLICATE if same else Placed.CONFLICT
                elif seen.scatters(intervals, seq):
                    verdict = Placed.SCATTERED
                else:
                    fresh[key] = content_digest(record)
            elif type(record) is CommandEnd:
                if record.command not in self.outbox or record.command in ended:
                    verdict = Placed.DUPLICATE
                ended.add(record.command)
            elif isinstance(record, Timer | TimerFired | TimerCancelled):
                verdict = Placed.STORED if timers.place(record) else Placed.DUPLICATE
            if timers.void and type(record) is Event and record.id in timers.void:
                verdict = Placed.DUPLICATE
            placed.append(verdict)
            if verdict is _STORED:
                stored.append(record)
            elif verdict is not Placed.DUPLICATE and type(record) is Event:
                stored.append(instead(record, verdict))
        return placed, stored

    def apply_all(self, records: Sequence[Record]) -> None:
        """Let stored records take effect, one after the other."""
        digests, fresh, boots, dirty = self._digests, self._fresh, self.boots, self.dirty
        for record in records:
            if type(record) is not Event or record.origin is not None:
                self.apply(record)
                continue
            # As `apply` does it, without its detours: this is most of what a gateway stores.
            self.head += 1
            device, boot, seq = record.device, record.boot, record.seq
            key = (device, boot)
            intervals = boots.get(key)
            if intervals is None:
                intervals = self._intervals(key)
            if intervals and seq == intervals[-1][1] + 1:
                intervals[-1][1] = seq
                dirty.add(key)
            elif not seen.contains(intervals, seq):
                seen.add(intervals, seq)
                dirty.add(key)
            identity = (device, boot, seq)
            digest = fresh.get(identity)
            digests[identity] = content_digest(record) if digest is None else digest
        self._forget_digests()

    def apply(self, record: Record) -> None:
        """Let one stored record take effect; it stands at offset `head + 1`."""
        if type(record) is Event and record.origin is None:
            self.apply_all((record,))
            return
        self.head += 1
        match record:
            case Progress():
                state = self.flows[record.flow]
                self.flows[record.flow] = msgspec.structs.replace(
                    state, cursor=record.cursor, slots=record.slots, held=record.held
                )
            case Command():
                self.outbox[record.id] = record
            case CommandEnd():
                self.outbox.pop(record.command, None)
            case StateChange():
                self.stateful.add(record.flow)
                self.states.setdefault((record.flow, record.key), {}).update(record.entries)
            case FlowState():
                self.flows[record.flow] = record
                self.pending.apply(record, self.head)
            case Timer() | TimerFired() | TimerCancelled() | ClockSet():
                self.pending.apply(record, self.head)
            case Trimmed():
                self.first = max(self.first, record.upto + 1)
            case Gap() if record.flow in self.flows:
                self.flows[record.flow] = lifted(self.flows[record.flow], record)
            case Device(removed=0):
                self.devices[record.id] = record
            case Device():
                self.devices.pop(record.id, None)
            case AppVersion():
                self.apps[record.app] = record
            case AppToken():
                self.tokens[record.app] = record
            case _:
                pass

    def remember(self, records: Sequence[Record]) -> None:
        """Keep the digests of events, to tell a repeat from a conflict; the oldest make room."""
        for record in records:
            if type(record) is Event and record.origin is None:
                key = (record.device, record.boot, record.seq)
                digest = self._fresh.get(key)
                self._digests[key] = content_digest(record) if digest is None else digest
        self._forget_digests()

    def _forget_digests(self) -> None:
        while len(self._digests) > RECENT:
            self._digests.popitem(last=False)

    def forget(self, saved: Sequence[BootKey]) -> None:
        """The intervals of these boots are saved as they are: they need not be held in memory for ever."""
        self.dirty.difference_update(saved)
        if len(self.boots) > MAX_BOOTS:
            self.boots = {key: self.boots[key] for key in self.dirty}

    def _intervals(self, key: BootKey) -> seen.Intervals:
        intervals = self.boots.get(key)
        if intervals is None:
            intervals = self.boots[key] = [] if self._load_boot is None else self._load_boot(key)
        return intervals


def content_digest(event: Event) -> int:
    """64 bits over what makes two events with one identity the same: kind and data.

    Python's own hash (SipHash with a key that this process has drawn): nobody outside can make two contents collide.
    It is never stored.
    """
    return hash((event.kind, _encode(event.data)))


def instead(record: Event, verdict: Placed) -> DeadLetter:
    """The dead letter that is stored in place of an event that was placed as CONFLICT or SCATTERED."""
    if verdict is Placed.CONFLICT:
        detail = f"event {record.id} is in the log already with other content; the first one stands"
    else:
        detail = (
            f"event {record.id} leaves a gap, and the sequences of its boot have {seen.MAX_INTERVALS} gaps already: "
            "a device numbers its events one after the other, or draws a new boot"
        )
    return DeadLetter(
        flow="ingress",
        reason="conflict" if verdict is Placed.CONFLICT else "sequence",
        detail=detail,
        time=record.received,
        device=record.device,
        event=record,
    )
