"""Machines from specifications. For the worker alone: what computes, and the sketches, stay out of the daemon."""

from __future__ import annotations

from edge_runtime.streams.machine import Machine
from edge_runtime.streamspec import Stream, Window


def machine_of(stream: Stream) -> Machine | None:
    """What computes; None where the steps are all. Raises `ConfigError`."""
    match stream.computation:
        case Window() as window:
            from edge_runtime.streams.engine import machine

            return machine(window)
    return None
