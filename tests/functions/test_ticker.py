from __future__ import annotations

import threading

import pytest

from edge_runtime.functions.sandbox import ticker
from edge_runtime.functions.sandbox.ticker import Ticker


class Counter:
    """An engine that counts its epochs."""

    def __init__(self) -> None:
        self.moved = threading.Event()

    def increment_epoch(self) -> None:
        self.moved.set()


def test_the_ticker_rests_when_nothing_runs_and_wakes_for_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker, "IDLE_TICKS", 2)
    engine = Counter()
    hand = Ticker(engine)  # type: ignore[arg-type]
    for _ in range(3):
        while not hand._resting:
            assert engine.moved.wait(10)
        engine.moved.clear()
        with hand:
            assert engine.moved.wait(10), "epochs move on while a call runs"
