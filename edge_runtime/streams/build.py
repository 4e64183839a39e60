"""Machines from specifications. For the worker alone: what computes, and the sketches, stay out of the daemon."""

from __future__ import annotations

from edge_runtime.streams.machine import Machine
from edge_runtime.streamspec import Absent, Join, Latest, Sequence, Source, Stream, Window


def machine_of(stream: Stream) -> Machine | None:
    """What computes; None where the steps are all. Raises `ConfigError`."""
    match stream.computation:
        case Window() as window:
            from edge_runtime.streams.engine import machine

            return machine(window)
        case Join() as join:
            from edge_runtime.streams.joins import Joining

            return Joining(join, _sources(stream))
        case Latest() as latest:
            from edge_runtime.streams.joins import WithLatest

            return WithLatest(latest, _sources(stream))
        case Absent() as absent:
            from edge_runtime.streams.absence import Absence

            return Absence(absent)
        case Sequence() as sequence:
            from edge_runtime.streams.sequences import Sequences

            return Sequences(sequence, _sources(stream))
        case None:
            return None


def _sources(stream: Stream) -> list[Source]:
    """By which a machine tells which is which: steps may have changed what the conditions were for, so they count
    only where two sources are of one kind."""
    kinds = [source.kind for source in stream.sources]
    return [
        Source(source.kind) if stream.steps and kinds.count(source.kind) == 1 else source for source in stream.sources
    ]
