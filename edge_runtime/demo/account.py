"""Holds the independent journals against each other: what boards sent, what the gateway and the cloud have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from edge_runtime.flows.stats import percentile
from edge_runtime.planes.messages import Line
from hil.journal import BoardJournal

SHOWN = 20


class Millis(msgspec.Struct):
    """A duration's percentiles, milliseconds."""

    p50: float
    p99: float
    samples: int


class Account(msgspec.Struct):
    """What `edge demo --json` prints. Counts are of this run."""

    published: int
    """Distinct events that the boards wrote down as sent."""
    acknowledged: int
    """Those of them that the boards wrote down as acknowledged."""
    logged: int
    """The acknowledged ones that the gateway's journal holds."""
    function_calls: int
    commands_issued: int
    """Commands in the gateway's journal."""
    commands_received_by_boards: int
    """Distinct commands that the boards wrote down."""
    cloud_received: int
    """Distinct ids that the cloud function wrote down."""
    cloud_duplicates: int
    """How many more times it wrote one down that it had already."""
    publish_to_puback_ms: Millis
    publish_to_command_ms: Millis
    cold_start_ms: Millis
    missing: dict[str, list[str]]
    """Acknowledged events, or commands, that somebody should have and has not (at most 20 each)."""
    doubled: list[str]
    """Events that the gateway took twice and commands that a board carried out twice (at most 20)."""

    @property
    def good(self) -> bool:
        """Nothing is missing and nothing happened twice inside the gateway."""
        return not self.missing and not self.doubled


def millis(micros: Iterable[int]) -> Millis:
    """Percentiles of durations in microseconds."""
    samples = list(micros)
    return Millis(percentile(samples, 0.5) / 1e3, percentile(samples, 0.99) / 1e3, len(samples))


def since(now: BoardJournal, before: BoardJournal) -> BoardJournal:
    """The part of a board's journal that was written after `before` was read."""
    return BoardJournal(
        starts=now.starts - before.starts,
        published=now.published - before.published,
        acknowledged=now.acknowledged - before.acknowledged,
        commands=now.commands[len(before.commands) :],
        ack_us=now.ack_us[len(before.ack_us) :],
        republished=now.republished - before.republished,
    )


def account(
    boards: Sequence[BoardJournal],
    lines: Iterable[Line],
    cloud: Iterable[str],
    cold_starts: Iterable[int],
    calls: int,
) -> Account:
    """Compare the journals of one run: the boards', the gateway's lines, the ids the cloud wrote down."""
    published: set[str] = set().union(*(board.published for board in boards))
    acknowledged: set[str] = set().union(*(board.acknowledged for board in boards))
    executed = Counter(command.id for board in boards for command in board.commands if not command.repeat)
    logged: Counter[str] = Counter()
    commands: set[str] = set()
    for line in lines:
        if line.type == "event":
            logged[line.id] += 1
        elif line.type == "command":
            commands.add(line.id)
    arrived = Counter(identity for identity in cloud if identity in published)
    missing = {
        "journal": acknowledged - logged.keys(),
        "cloud": acknowledged - arrived.keys(),
        "boards": commands - executed.keys(),
    }
    doubled = {identity for counts in (logged, executed) for identity, times in counts.items() if times > 1}
    return Account(
        published=len(published),
        acknowledged=len(acknowledged),
        logged=len(acknowledged & logged.keys()),
        function_calls=calls,
        commands_issued=len(commands),
        commands_received_by_boards=len(executed.keys() & commands),
        cloud_received=len(arrived),
        cloud_duplicates=sum(arrived.values()) - len(arrived),
        publish_to_puback_ms=millis(us for board in boards for us in board.ack_us),
        publish_to_command_ms=millis(us for board in boards for us in board.command_us),
        cold_start_ms=millis(cold_starts),
        missing={where: sorted(ids)[:SHOWN] for where, ids in missing.items() if ids},
        doubled=sorted(doubled)[:SHOWN],
    )
