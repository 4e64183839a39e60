"""All streams of the gateway: those of apps, and those of edge.toml. They share one worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from edge_runtime.clock import Clock
from edge_runtime.config import StreamSettings
from edge_runtime.errors import ConfigError, DeployError
from edge_runtime.flows.ports import Invoker
from edge_runtime.flows.timers import Timers
from edge_runtime.manifest import FunctionRef, StreamTrigger
from edge_runtime.streams.client import MEMORY, StreamWorker
from edge_runtime.streams.flow import StreamFlow
from edge_runtime.streams.folding import Folding
from edge_runtime.throttle import ThrottledLog

TABLE = "streams"
"""Stands for the app in the names of the flows of edge.toml: no app may be called so."""


class Streams:
    """Makes the flows. `tags` answers a device's tags; `memory`: bytes that state may take in the worker."""

    def __init__(
        self,
        clock: Clock,
        timers: Timers,
        tags: Callable[[str], Mapping[str, str]],
        invoker: Invoker,
        memory: int = MEMORY,
    ) -> None:
        self.worker = StreamWorker(memory)
        self._clock = clock
        self._timers = timers
        self._tags = tags
        self._invoker = invoker

    def of_trigger(self, app: str, version: str, trigger: StreamTrigger) -> StreamFlow:
        """The flow that computes what a function of an app's version takes. Raises DeployError."""
        from edge_runtime.streams.check import check  # not before there is a stream: it costs the daemon memory

        assert trigger.stream is not None
        try:
            check(trigger.stream)
        except ConfigError as error:
            raise DeployError(f"{app}.{trigger.name}: {error}", hint=error.hint) from error
        say = ThrottledLog(logging.getLogger(f"edge.app.{app}.{trigger.name}").info, self._clock)
        return StreamFlow(
            trigger.flow(app),
            trigger.kind,
            trigger.stream,
            worker=self.worker,
            clock=self._clock,
            timers=self._timers,
            start=trigger.start,
            late=trigger.late,
            tags=self._tags,
            folder=Folding(self._invoker, FunctionRef(app, version, trigger.name), self._clock, say),
        )

    def of_settings(self, tables: Mapping[str, StreamSettings]) -> list[StreamFlow]:
        """The flows of edge.toml. Raises ConfigError."""
        if not tables:
            return []
        from edge_runtime.streams.settings import stream_of

        return [
            StreamFlow(
                f"{TABLE}.{name}",
                settings.emit,
                stream_of(name, settings),
                worker=self.worker,
                clock=self._clock,
                timers=self._timers,
                start=settings.start,
                late=settings.late,
                plain=True,
                tags=self._tags,
            )
            for name, settings in tables.items()
        ]
