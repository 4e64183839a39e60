"""The clock hand that deadlines in the guest are measured by."""

from __future__ import annotations

import threading
import time

from wasmtime import Engine

from edge_runtime.functions.sandbox.engine import TICK

IDLE_TICKS = 200
"""After a second without calls the ticker rests, so that an idle executor wakes nobody up."""


class Ticker:
    """Moves the engine's epoch on, in a thread of its own, while guests run."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wake = threading.Event()
        self._resting = False
        self._busy = False
        self._quiet = 0
        threading.Thread(target=self._tick, name="epochs", daemon=True).start()

    def __enter__(self) -> None:
        self._busy = True
        self._quiet = 0
        if self._resting:
            self._wake.set()

    def __exit__(self, *_: object) -> None:
        self._busy = False

    def _tick(self) -> None:
        while True:
            time.sleep(TICK)
            self._engine.increment_epoch()
            self._quiet += 1
            if self._quiet < IDLE_TICKS or self._busy:
                continue
            self._resting = True
            if not self._busy:  # looked at again: a call that began meanwhile saw us not resting
                self._wake.wait()
            self._wake.clear()
            self._resting = False
