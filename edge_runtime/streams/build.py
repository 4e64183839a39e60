"""Machines from specifications. Imported in the worker alone: what computes, and the sketches, stay out of the daemon."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.streams.machine import Machine
from edge_runtime.streams.steps import Steps, Tags
from edge_runtime.streamspec import Absent, Join, Latest, Step, Stream, Window
from edge_runtime.streamspec import Sequence as InSequence


def steps_of(steps: Sequence[Step], tags: Tags) -> Steps:
    """Steps, ready to run."""
    return Steps(list(steps), tags)


def machine_of(stream: Stream) -> Machine | None:
    """What computes; None where the steps are all."""
    match stream.computation:
        case Window() as window:
            from edge_runtime.streams.engine import Windows

            return Windows(window)
    return None
