"""Lineage: from any event or command back to the device's event, and on to everything that has come of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from edge_runtime.errors import EdgeError, NotFound
from edge_runtime.events import OPERATOR, Event, Origin
from edge_runtime.flows.flows import Flows
from edge_runtime.flows.runner import Runner
from edge_runtime.flows.timeline import backwards, pages
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import Command, CommandEnd, DeadLetter, Dropped, Retry, Stored

MAX_RECORDS = 2_000_000
"""Records that a search reads at most, in each direction."""
MAX_NODES = 1_000

ENDS = ("done", "failed", "unknown", "expired", "replaced")
"""How a command ends, by its status."""

_HEX = re.compile(r"[0-9a-f]{32}")
_DEVICE_EVENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,127})/([0-9a-f]{16})/([0-9]{1,19})")


class Step(msgspec.Struct):
    """A flow that wants an event, as it is now deployed, and what became of the event there."""

    flow: str
    type: str
    """`function` or `route`."""
    state: str
    """`delivered` (a route) or `done` (a function): its progress has passed the event; `waiting`; `dead letter`."""


class Node(msgspec.Struct):
    """One record of the tree, with what it has caused."""

    type: str
    """`event`, `command`, `dead-letter`, or `unknown` for one that the journal does not keep any more."""
    id: str
    offset: int = -1
    time: int = 0
    device: str = ""
    name: str = ""
    data: Any = None
    flow: str = ""
    """Which flow has made it."""
    epoch: int = 0
    asked: bool = False
    """This is the one that was asked for."""
    state: str = ""
    """Of a command: `under way`, or how it ended. Of a dead letter: `open`, `retried` or `dropped`."""
    result: Any = None
    steps: list[Step] = []
    effects: list[Node] = []


class Trace(msgspec.Struct):
    """The tree around an event or a command; its root is the device's event, if that is still kept."""

    root: Node
    first: int
    """The records that were searched."""
    last: int
    complete: bool
    """False if there was more than the limits allow."""


class Lineage:
    """Answers where things have come from and what has come of them."""

    def __init__(self, journal: Journal, flows: Flows, is_route: Callable[[Runner], bool]) -> None:
        self._journal = journal
        self._flows = flows
        self._is_route = is_route

    async def trace(self, identity: str, since: int | None = None) -> Trace:
        """The tree around the event `device/boot/seq`, or the event or command of 32 hex digits.

        `since`: the oldest record that is searched. Raises EdgeError for what is no id, NotFound for what is not there.
        """
        head = self._flows.feed.head
        oldest = max(self._flows.first, head + 1 - MAX_RECORDS)
        first = oldest if since is None else max(since, oldest)
        asked = await self._find(identity, first, head)
        if asked is None:
            kept = "" if oldest == 0 else f" from record {oldest} on"
            raise NotFound(
                f"there is no event or command '{identity}' in the journal{kept}"
                + ("" if first == oldest else f" since record {first}"),
                hint="Ids are shown by: edge tail",
            )
        node = _node(asked)
        node.asked = True
        growth = _Growth(node, asked, self)
        last = min(head, asked.offset + MAX_RECORDS)
        async for page in pages(self._journal, asked.offset, last):
            for stored in page:
                growth.hear(stored)
        root, start = await self._causes(node, asked, oldest)
        return Trace(root, start, last, growth.complete and last == head)

    async def _causes(self, node: Node, stored: Stored, oldest: int) -> tuple[Node, int]:
        origin = _origin(stored)
        start = stored.offset
        while origin is not None and origin.flow != OPERATOR:
            cause = await self._find(origin.cause, oldest, stored.offset)
            if cause is None:
                return Node("unknown", origin.cause, effects=[node]), start
            parent = _node(cause)
            if isinstance(cause.record, Event):
                parent.steps = self.steps(cause.offset, cause.record)
            parent.effects = [node]
            node, stored, origin, start = parent, cause, _origin(cause), cause.offset
        return node, start

    async def _find(self, identity: str, first: int, last: int) -> Stored | None:
        """The newest record with this id; recent ones are found soonest."""
        matches = _matcher(identity)
        async for stored in backwards(self._journal, first, last):
            if matches(stored):
                return stored
        return None

    def steps(self, offset: int, event: Event) -> list[Step]:
        """The flows that want an event, and whether they have dealt with it."""
        found = []
        for name, runner in sorted(self._flows.runners.items()):
            if runner.flow.wants(event):
                route = self._is_route(runner)
                passed = "delivered" if route else "done"
                done = runner.position().done(offset, runner.flow.key(event))
                found.append(Step(name, "route" if route else "function", passed if done else "waiting"))
        return found


class _Growth:
    """The tree below a node, while the journal is read on from there."""

    def __init__(self, root: Node, stored: Stored, lineage: Lineage) -> None:
        self._lineage = lineage
        self._nodes: dict[str, Node] = {}
        self._letters: dict[int, tuple[Node, Node]] = {}
        """Dead letters and the nodes of their events."""
        self.complete = True
        self._add(root, stored)

    def _add(self, node: Node, stored: Stored) -> None:
        self._nodes[node.id] = node
        if isinstance(stored.record, Event):
            node.steps = self._lineage.steps(stored.offset, stored.record)

    def hear(self, stored: Stored) -> None:
        """Put a record where it belongs, if it does."""
        record = stored.record
        if isinstance(record, Event | Command):
            origin = record.origin
            parent = None if origin is None else self._nodes.get(origin.cause)
            if parent is not None and self._room():
                node = _node(stored)
                parent.effects.append(node)
                self._add(node, stored)
        elif isinstance(record, CommandEnd):
            command = self._nodes.get(record.command.hex())
            if command is not None:
                command.state, command.result = ENDS[record.status], record.result
        elif isinstance(record, DeadLetter):
            parent = None if record.event is None else self._nodes.get(record.event.id)
            if parent is not None and self._room():
                node = _node(stored)
                parent.effects.append(node)
                self._letters[stored.offset] = (node, parent)
                for step in parent.steps:
                    if step.flow == record.flow:
                        step.state = "dead letter"
        elif isinstance(record, Retry | Dropped):
            letter, parent = self._letters.get(record.letter, (None, None))
            if letter is not None and parent is not None:
                letter.state = "retried" if isinstance(record, Retry) else "dropped"
                if isinstance(record, Retry):
                    again = {step.flow: step for step in self._lineage.steps(stored.offset, record.event)}
                    parent.steps = [again.get(s.flow, s) if s.flow == record.flow else s for s in parent.steps]

    def _room(self) -> bool:
        self.complete = self.complete and len(self._nodes) + len(self._letters) < MAX_NODES
        return self.complete


def _matcher(identity: str) -> Callable[[Stored], bool]:
    """Whether a record has the id; raises EdgeError where it cannot be one."""
    found = _DEVICE_EVENT.fullmatch(identity)
    if found is not None:
        device, boot, seq = found[1], bytes.fromhex(found[2]), int(found[3])

        def is_event(stored: Stored) -> bool:
            r = stored.record
            return type(r) is Event and r.seq == seq and r.device == device and r.boot == boot and r.origin is None

        return is_event
    if _HEX.fullmatch(identity) is None:
        raise EdgeError(
            f"'{identity}' is not the id of an event or a command",
            hint="Ids look like gh-1/f00d000102030405/17 or are 32 hex digits; edge tail --json shows them.",
        )
    wanted = bytes.fromhex(identity)

    def is_effect(stored: Stored) -> bool:
        origin = _origin(stored)
        return origin is not None and origin.id() == wanted

    return is_effect


def _origin(stored: Stored) -> Origin | None:
    return stored.record.origin if isinstance(stored.record, Event | Command) else None


def _node(stored: Stored) -> Node:
    record, offset = stored.record, stored.offset
    match record:
        case Event() as e:
            node = Node("event", e.id, offset, e.time, e.device, e.kind, e.data)
        case Command() as c:
            node = Node("command", c.id.hex(), offset, c.created, c.device, c.name, c.args, state="under way")
        case DeadLetter() as d:
            return Node("dead-letter", str(offset), offset, d.time, d.device, d.reason, d.detail, d.flow, state="open")
        case _:
            raise TypeError(f"a {type(record).__name__} has no place in a lineage")
    origin = _origin(stored)
    if origin is not None:
        node.flow, node.epoch = origin.flow, origin.epoch
    return node
