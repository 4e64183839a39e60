"""What retention removes: the oldest batches, by age and size, held back by flows up to their budget. Pure values.

Which records go is decided here; that they go is itself a record (`Trimmed`), and so is what a flow loses (`Gap`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from edge_runtime.events import Event
from edge_runtime.journal.records import REMOVED_KEPT, FlowState, Gap, Record, Retry


class Retention(msgspec.Struct, frozen=True, array_like=True):
    """What is kept, and for how long."""

    max_age: int = 0
    """Microseconds that a record is kept at least; then it may go (ADR 0007). 0: age removes nothing."""
    max_bytes: int = 0
    """Size on disk beyond which the oldest records go. 0: size removes nothing, and at the quota writing stops."""
    flow_budget: int = 64 << 20
    """Bytes of records that a flow which is behind may keep from being removed."""


KEEP_ALL = Retention()
"""Nothing is ever removed."""


class Old(msgspec.Struct, frozen=True):
    """One of the oldest batches."""

    first: int
    last: int
    size: int
    """Bytes that removing it frees, about."""
    events: list[int]
    """Offsets of its events."""
    newest: int
    """The latest time of arrival among its events; 0 if it has none."""
    retries: list[tuple[str, int]] = []
    """Dead letters' events that are handed to a flow once more: the flow, and the offset."""

    @classmethod
    def of(cls, first: int, records: Sequence[Record], size: int) -> Old:
        """A batch as it was stored."""
        events = [(offset, r) for offset, r in enumerate(records, first) if type(r) is Event]
        return cls(
            first,
            first + len(records) - 1,
            size,
            [offset for offset, _ in events],
            max((event.received for _, event in events), default=0),
            [(record.flow, offset) for offset, record in enumerate(records, first) if type(record) is Retry],
        )

    def needed(self, flow: str, dealt: int) -> list[int]:
        """What there is in it for a flow that has dealt with everything up to `dealt`."""
        if dealt >= self.last:
            return []
        retries = [offset for name, offset in self.retries if name == flow]
        return sorted(offset for offset in (*self.events, *retries) if offset > dealt)


class Follower(msgspec.Struct):
    """A flow, as retention sees it."""

    flow: str
    dealt: int
    """Every record up to here has been dealt with, whatever its key."""
    behind: int
    """Bytes of records after that."""


def followers(
    flows: Mapping[str, FlowState], first: int, now: int, behind: Callable[[int], int] = lambda _: 0
) -> list[Follower]:
    """The flows of a journal that keeps records from `first` on; `behind` counts the bytes after an offset.

    A flow whose trigger was removed longer ago than its progress is kept does not count any more.
    """
    return [
        Follower(name, max(at, first - 1), behind(at))
        for name, state in flows.items()
        for at in (dealt(state),)
        if not state.removed or now - state.removed <= REMOVED_KEPT
    ]


class Limits(msgspec.Struct, frozen=True):
    """How things stand at this moment."""

    surplus: int
    """Bytes beyond `Retention.max_bytes`; 0 or less when there are none."""
    urgent: int
    """Bytes beyond what leaves a margin to the quota: while there are any, no flow holds anything back."""
    old: int
    """The newest record that has been here for `max_age` of the gateway's running time; -1 for none."""
    horizon: int | None
    """What arrived before is older than `max_age` by the clock; None while the clock is not to be trusted."""
    now: int


def trim_now(upto: int) -> Limits:
    """Everything up to `upto` goes, whoever is behind."""
    return Limits(surplus=1 << 62, urgent=1 << 62, old=upto, horizon=None, now=0)


def dealt(state: FlowState) -> int:
    """Everything up to here has been dealt with by the flow, whatever its key."""
    return min(state.cursor, *state.slots.values(), *state.held.values(), state.cursor)


def plan(
    batches: Iterable[Old], followers: Iterable[Follower], limits: Limits, budget: int
) -> tuple[int, list[tuple[str, int, int]]]:
    """Which of the oldest batches, in order, go now.

    Returns the offset up to which records go (-1: none), and for each flow that loses events its name and the first
    and the last event it loses.
    """
    flows = [Follower(f.flow, f.dealt, f.behind) for f in followers]
    surplus, urgent, upto = limits.surplus, limits.urgent, -1
    lost: dict[str, tuple[int, int]] = {}
    for batch in batches:
        if surplus <= 0 and not _aged(batch, limits):
            break
        losers = [(flow, needed) for flow in flows if (needed := batch.needed(flow.flow, flow.dealt))]
        if urgent <= 0 and any(flow.behind <= budget for flow, _ in losers):
            break
        for flow, needed in losers:
            lost[flow.flow] = (lost.get(flow.flow, (needed[0], 0))[0], needed[-1])
            flow.behind -= batch.size
        upto = batch.last
        surplus -= batch.size
        urgent -= batch.size
    return upto, [(flow, first, last) for flow, (first, last) in lost.items()]


def _aged(batch: Old, limits: Limits) -> bool:
    if limits.horizon is None or batch.last > limits.old:
        return False
    # Dated later than now by a clock that is trusted: the date is wrong, and running time alone counts.
    return batch.newest <= limits.horizon or batch.newest > limits.now


def lifted(state: FlowState, gap: Gap) -> FlowState:
    """A flow's position once a gap is known: what is gone needs no more work, and is not reported again."""
    cursor = max(state.cursor, gap.last)
    slots = {slot: max(at, gap.last) for slot, at in state.slots.items()}
    return msgspec.structs.replace(
        state,
        cursor=cursor,
        slots={slot: at for slot, at in slots.items() if at < cursor},
        held={key: max(at, gap.last) for key, at in state.held.items()},
    )
