"""User-defined aggregates that merge: bounded state, right results whenever they are folded, and failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from edge._app import _folded, joined
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.events import Event
from edge_runtime.flows.flow import StateLost, Turn
from edge_runtime.flows.states import NoStates
from edge_runtime.streams import combined
from edge_runtime.streams.check import check
from edge_runtime.streams.flow import StreamFlow
from edge_runtime.streams.machine import Pane, Result
from edge_runtime.streams.messages import Fold, Folded
from edge_runtime.streams.session import Session
from edge_runtime.streamspec import Aggregate, Fixed, Sliding, Source, Stream, Trigger, Window
from edge_runtime.streamspec import Session as Gap
from tests.flows.conftest import House
from tests.streams.local import LocalWorker

SECOND = 1_000_000
DAY = 86_400 * SECOND


class Spread:
    """The sum, the number and the extremes: independent of the order."""

    def __init__(self) -> None:
        self.n = 0
        self.total = 0
        self.ends: list[int] = []

    def add(self, value: int) -> None:
        self.n += 1
        self.total += value
        self.ends = [min([*self.ends, value]), max([*self.ends, value])]

    def merge(self, other: Spread) -> None:
        self.n += other.n
        self.total += other.total
        both = [*self.ends, *other.ends]
        self.ends = [min(both), max(both)] if both else []

    def result(self) -> list[int]:
        return [self.n, self.total, *self.ends]


COMPUTE = {
    "own": Aggregate("combine", "v", {"of": "Spread"}),
    "n": Aggregate("count", "v"),
    "sum": Aggregate("sum", "v"),
    "min": Aggregate("min", "v"),
    "max": Aggregate("max", "v"),
}
Fails = Callable[[Fold], str]


class Bench:
    """A session whose state lies outside it, so that it can be lost; and an app that folds."""

    def __init__(self, window: Window, fails: Fails = lambda fold: "") -> None:
        self._stream = Stream([Source("climate")], window)
        check(self._stream)
        self._fails = fails
        self.stored: dict[str, bytes] = {}
        self.folds = 0
        self._session = Session(self._stream, lambda device: {})

    def crash(self) -> None:
        """Begin again from what is stored."""
        self._session = Session(self._stream, lambda device: {})

    def save(self) -> None:
        for name, value in self._session.dump().items():
            if value is None:
                self.stored.pop(name, None)
            else:
                self.stored[name] = value

    def take(self, events: list[Event]) -> list[Result]:
        found: list[Result] = []
        while events:
            taking = self._session.take(events)
            answer: Any = None
            try:
                while True:
                    needs = taking.send(answer)
                    if isinstance(needs[0], str):
                        answer = {name: self.stored.get(str(name)) for name in needs}
                    else:
                        answer = [self._fold(fold) for fold in needs if isinstance(fold, Fold)]
            except StopIteration as ended:
                found += ended.value.results
                events = events[ended.value.events :]
        return found

    def _fold(self, fold: Fold) -> Folded:
        self.folds += 1
        failed = self._fails(fold)
        if failed:
            return Folded(failed=failed)
        return Folded(json.loads(json.dumps(vars(joined(Spread, fold.parts, fold.values)))))


def event(seq: int, at: float, value: Any, device: str = "d") -> Event:
    moment = DAY + round(at * SECOND)
    return Event(device, b"bootboot", seq, "climate", moment, moment, {"v": value})


def end(seq: int, device: str = "d") -> Event:
    """So late that all windows before it come to their ends."""
    return event(seq, 9000, None, device)


def agrees(result: Result) -> bool:
    assert isinstance(result, Pane)
    values = result.values
    own = _folded("own", Spread, values["own"])
    return bool(own == [values["n"], values["sum"], *([values["min"], values["max"]] if values["n"] else [])])


shapes = st.sampled_from([Fixed(60 * SECOND), Gap(20 * SECOND), Sliding(60 * SECOND, 20 * SECOND)])


@settings(max_examples=60)
@given(
    shape=shapes,
    accumulation=st.sampled_from(["discarding", "accumulating", "retracting"]),
    early=st.sampled_from([0, 1, 7]),
    values=st.lists(st.tuples(st.integers(0, 600), st.integers(-50, 50)), min_size=1, max_size=120),
    cuts=st.lists(st.sampled_from(["save", "crash", "go on"]), min_size=8, max_size=8),
)
def test_whatever_is_folded_when_a_pane_is_of_all_its_values(
    shape: Any, accumulation: str, early: int, values: list[tuple[int, int]], cuts: list[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, small in (("VALUES", 4), ("PARTS", 2), ("MERGED", 3)):
            patch.setattr(combined, name, small)
        window = Window(
            shape, COMPUTE, trigger=Trigger(early_count=early), accumulation=accumulation, lateness=900 * SECOND
        )
        bench = Bench(window)
        events = [*(event(seq, at, value) for seq, (at, value) in enumerate(values)), end(len(values))]
        size = -(-len(events) // len(cuts))
        for number, what in enumerate(cuts):
            for result in bench.take(events[number * size : (number + 1) * size]):
                assert agrees(result)
            if what != "go on":
                bench.save()
            if what == "crash":
                bench.crash()


def test_the_state_is_bounded_whatever_the_number_of_events() -> None:
    bench = Bench(Window(Fixed(3600 * SECOND), COMPUTE))
    sizes = []
    for first in range(0, 20_000, 500):
        assert bench.take([event(seq, seq / 10, seq) for seq in range(first, first + 500)]) == []
        bench.save()
        sizes.append(sum(map(len, bench.stored.values())))
    assert max(sizes[20:]) <= max(sizes[:20]) + 200
    [pane] = bench.take([end(20_000)])[:1]
    assert isinstance(pane, Pane)
    assert pane.values["n"] == 20_000
    assert agrees(pane)
    assert len(pane.values["own"]["values"]) < combined.VALUES
    assert 70 < bench.folds < 100, "one for each 256 values, and a few merges"


@pytest.mark.parametrize("accumulation", ["accumulating", "retracting", "discarding"])
def test_the_state_is_bounded_where_each_event_makes_a_pane(accumulation: str) -> None:
    bench = Bench(Window(Fixed(3600 * SECOND), COMPUTE, trigger=Trigger(early_count=1), accumulation=accumulation))
    for first in range(0, 2000, 100):
        found = [bench.take([event(seq, seq / 10, 7)]) for seq in range(first, first + 100)]
        assert all(agrees(result) for results in found for result in results)
        bench.save()
        assert sum(map(len, bench.stored.values())) < 5000
    assert bench.folds < 1000


async def test_a_batch_that_is_given_up_while_it_is_folded_is_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combined, "VALUES", 4)
    house = await House().open()
    folding = asyncio.Event()

    async def hangs(folds: Sequence[Fold]) -> list[Folded]:
        folding.set()
        await asyncio.Event().wait()
        raise AssertionError

    stream = Stream([Source("climate")], Window(Fixed(3600 * SECOND), COMPUTE))
    flow = StreamFlow(
        "app.f.stream", "$stream.app.f", stream, worker=LocalWorker().as_worker(), clock=house.clock, folder=hangs
    )
    turn = Turn(0, False, False, NoStates())
    assert (await flow.take([event(0, 0, 1)], turn)).results
    flow.settled([event(0, 0, 1)], turn)
    assert await flow.checkpoint([], 1)
    taking = asyncio.ensure_future(flow.take([event(seq, seq, 1) for seq in range(1, 9)], turn))
    await folding.wait()
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    with pytest.raises(StateLost):
        await flow.checkpoint([], 1)
    with pytest.raises(StateLost):
        await flow.take([event(1, 1, 1)], turn)


def test_a_pane_of_many_slices_is_folded_before_it_leaves() -> None:
    bench = Bench(Window(Sliding(3600 * SECOND, 60 * SECOND), COMPUTE, lateness=SECOND))
    bench.take([event(seq, seq, seq) for seq in range(3600)])
    panes = [pane for pane in bench.take([event(3600, 3660, 0)]) if isinstance(pane, Pane)]
    assert panes
    assert max(pane.values["n"] for pane in panes) > 3000
    for pane in panes:
        assert agrees(pane)
        assert len(pane.values["own"]["values"]) < combined.VALUES
        assert len(pane.values["own"]["parts"]) <= combined.PARTS


def test_what_cannot_be_folded_costs_its_own_window_alone() -> None:
    bench = Bench(Window(Fixed(100 * SECOND), COMPUTE), lambda fold: "error: too odd" if 666 in fold.values else "")
    events = [event(seq, seq / 10, 666 if seq == 3 else 1, "a" if seq % 2 else "b") for seq in range(900)]
    found = {pane.key: pane for pane in bench.take([*events, end(900, "a"), end(901, "b")]) if isinstance(pane, Pane)}
    assert agrees(found["b"])
    spoilt = found["a"].values["own"]
    assert spoilt == {"failed": "error: too odd", "left_out": 450}
    with pytest.raises(RuntimeError, match="'own' could not be folded, and 450 values are left out: error: too odd"):
        _folded("own", Spread, spoilt)
    assert found["a"].values["n"] == 450, "the others do not mind"


def test_a_part_that_is_too_large_is_a_failure_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combined, "MAX_PART", 10)
    bench = Bench(Window(Fixed(100 * SECOND), COMPUTE))
    [pane] = [
        pane
        for pane in bench.take([*(event(seq, seq / 10, 1) for seq in range(300)), end(300)])
        if isinstance(pane, Pane)
    ]
    assert pane.values["own"]["failed"].startswith("what it keeps takes more than")


def test_large_values_are_folded_by_their_bytes() -> None:
    bench = Bench(Window(Fixed(100 * SECOND), {"own": COMPUTE["own"], "n": Aggregate("count")}), lambda fold: "seen")
    bench.take([event(seq, seq / 10, "x" * 20_000) for seq in range(4)])
    assert bench.folds == 1


def test_it_is_for_classes_of_an_app() -> None:
    stream = Stream([Source("climate")], Window(Fixed(SECOND), {"own": Aggregate("combine", "v")}))
    with pytest.raises(ConfigError, match="combine is for classes of an app"):
        check(stream)
