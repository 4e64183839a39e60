"""The windows engine alone: events a second on one core, memory of an open window, and what a checkpoint costs.

Devices send a number each second and are keys; each pane has the count, the mean and the maximum. For 1 and 1,000 keys,
windows are a minute long (sliding ones every ten seconds; sessions of 20 readings, with gaps of 30 s): 60 readings in a
window. For 100,000 keys they are ten seconds long, with ten readings, and all end at the same time. Events are made in
memory, outside of the time that counts, which is processor time; state is in memory too, and dumped once per case.

The peers do the tumbling case with one key: bytewax (one worker, in this process) and Apache Beam's DirectRunner, where
they are installed; by wall clock time, since they have threads.

    python bench/streams.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import gc
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec

from report import Report, Result, compared, machine, show

from edge_runtime.events import Event
from edge_runtime.streams.engine import Windows
from edge_runtime.streams.machine import CELL, GROWN, Pane
from edge_runtime.streamspec import SECOND, Aggregate, Fixed, Session, Shape, Sliding, Window

COMPUTE = {"n": Aggregate("count"), "mean": Aggregate("mean", "temperature"), "max": Aggregate("max", "temperature")}
BASE = 1_700_000_040 * SECOND
"""The beginning of a minute."""
BATCH = 1000
EVENTS = {1: 300_000, 1000: 600_000, 100_000: 1_000_000}
SHAPES: dict[str, dict[int, Shape]] = {
    "tumbling": {1: Fixed(60 * SECOND), 1000: Fixed(60 * SECOND), 100_000: Fixed(10 * SECOND)},
    "session": {1: Session(30 * SECOND), 1000: Session(30 * SECOND), 100_000: Session(5 * SECOND)},
    "sliding": {
        1: Sliding(60 * SECOND, 10 * SECOND),
        1000: Sliding(60 * SECOND, 10 * SECOND),
        100_000: Sliding(10 * SECOND, 5 * SECOND),
    },
}
PEER_EVENTS = {"bytewax": 50_000, "Beam": 20_000}


def batches(keys: int, number: int, pauses: bool) -> Iterator[tuple[list[Event], list[int]]]:
    """Readings of all devices in turn; with `pauses` each is silent for 40 s after twenty of them."""
    names = [f"dev-{key}" for key in range(keys)]
    made: list[Event] = []
    for index in range(number):
        second, key = divmod(index, keys)
        if pauses:
            second += second // 20 * 40
        moment = BASE + second * SECOND + key * SECOND // keys
        data = {"temperature": 20.25 + index % 7, "humidity": 40.25, "n": index}
        made.append(Event(names[key], b"8 bytes.", second, "climate", moment, moment, data))
        if len(made) == BATCH:
            yield made, [event.received for event in made]
            made = []


def begun(shape: Shape) -> Windows:
    windows = Windows(Window(shape, COMPUTE))
    while names := windows.needs([], []):
        windows.load(dict.fromkeys(names))
    return windows


def fed(windows: Windows, events: list[Event], times: list[int]) -> int:
    """How many panes came."""
    panes = done = 0
    while done < len(events):
        rest = (events[done:], times[done:]) if done else (events, times)
        windows.needs(*rest)
        taken, results = windows.take(*rest)
        panes += sum(isinstance(result, Pane) for result in results)
        done += taken
    return panes


def measured(name: str, keys: int, number: int) -> list[Result]:
    windows = begun(SHAPES[name][keys])
    spent, panes = 0.0, 0
    gc.collect()
    gc.freeze()
    for events, times in batches(keys, number, name == "session" and keys < 100_000):
        start = time.process_time()
        panes += fed(windows, events, times)
        spent += time.process_time() - start
    case = f"{name}, {keys:,} keys" if keys > 1 else f"{name}, 1 key"
    results = [Result(case, round(number / spent), "events/s")]
    if keys == 1:
        gc.unfreeze()
        return results
    start = time.process_time()
    stored = windows.dump()
    took = time.process_time() - start
    size = sum(len(value) for value in stored.values() if value is not None)
    results.append(Result(f"{case}: dump of all", round(took * 1e3, 2), "ms"))
    results.append(Result(f"{case}: bytes of that, by key", round(size / keys), "B"))
    if keys == 100_000:
        results.append(ended(case, windows, number))
    gc.unfreeze()
    return results


def ended(case: str, windows: Windows, number: int) -> Result:
    """All windows that are open end at once: with a tick, and as many more as it takes."""
    now = BASE + number * SECOND + 10**6 * SECOND
    panes, start = 0, time.process_time()
    for seq in range(100_000):
        panes += fed(windows, [Event("gateway", b"", seq, "$tick.bench", now, now, None)], [now])
        if windows.wakes() != now:
            break
    return Result(f"{case}: panes when all end", round(panes / (time.process_time() - start)), "panes/s")


def memory(name: str, keys: int = 10_000) -> Result:
    """Of a key with a window that is open (of a sliding one: all that are), without the events."""
    windows = begun(SHAPES[name][1])
    made = list(batches(keys, keys, False))
    gc.collect()
    tracemalloc.start()
    for events, times in made:
        fed(windows, events, times)
    windows.dump()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Result(f"{name}: memory of a key, its device and its open windows", round(size / keys), "B")


def spilled(keys: int = 20_000, kept: int = 1000) -> list[Result]:
    """Most state is not in memory: each event's key has to be loaded, dumped and let go of."""
    windows, store = begun(SHAPES["tumbling"][1]), dict[str, bytes]()
    spent, number = 0.0, keys * 3
    for events, times in batches(keys, number, False):
        start = time.process_time()
        done = 0
        while done < len(events):
            while names := windows.needs(events[done:], times[done:]):
                windows.load({name: store.get(name) for name in names})
            done += windows.take(events[done:], times[done:])[0]
        for name, value in windows.dump().items():
            if value is None:
                store.pop(name, None)
            else:
                store[name] = value
        windows.shrink(kept * (CELL + 150 * GROWN))
        spent += time.process_time() - start
    return [Result(f"tumbling, {keys:,} keys of which {kept:,} are in memory", round(number / spent), "events/s")]


def bytewax(number: int) -> float | None:
    """Events a second; None where it is not installed."""
    if find_spec("bytewax") is None:
        return None
    op, win = import_module("bytewax.operators"), import_module("bytewax.operators.windowing")
    testing = import_module("bytewax.testing")
    first = datetime.fromtimestamp(BASE / SECOND, UTC)
    source = [(first + timedelta(seconds=index), 20.25 + index % 7) for index in range(number)]
    panes: list[object] = []
    flow = import_module("bytewax.dataflow").Dataflow("bench")
    keyed = op.key_on(
        "key", op.input("in", flow, testing.TestingSource(source, batch_size=BATCH)), lambda item: "dev-0"
    )
    folded = win.fold_window(
        "fold",
        keyed,
        win.EventClock(lambda item: item[0], wait_for_system_duration=timedelta(0)),
        win.TumblingWindower(length=timedelta(minutes=1), align_to=first),
        lambda: (0, 0.0, 0.0),
        lambda state, item: (state[0] + 1, state[1] + item[1], max(state[2], item[1])),
        lambda one, other: (one[0] + other[0], one[1] + other[1], max(one[2], other[2])),
    )
    op.output("out", folded.down, testing.TestingSink(panes))
    start = time.perf_counter()
    testing.run_main(flow)
    assert panes
    return round(number / (time.perf_counter() - start))


def beam(number: int) -> float | None:
    """Events a second; None where it is not installed."""
    if find_spec("apache_beam") is None:
        return None
    apache_beam, window = import_module("apache_beam"), import_module("apache_beam.transforms.window")
    source = [(index, 20.25 + index % 7) for index in range(number)]
    start = time.perf_counter()
    with apache_beam.Pipeline("DirectRunner") as pipeline:
        (
            pipeline
            | apache_beam.Create(source)
            | apache_beam.Map(lambda item: window.TimestampedValue(("dev-0", item[1]), item[0]))
            | apache_beam.WindowInto(window.FixedWindows(60))
            | apache_beam.CombinePerKey(apache_beam.combiners.MeanCombineFn())
        )
    return round(number / (time.perf_counter() - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--quick", action="store_true", help="a tenth of the events")
    given = parser.parse_args()
    by = 10 if given.quick else 1
    at = machine()
    results: list[Result] = []
    notes: list[str] = []
    for keys, number in EVENTS.items():
        for name in SHAPES:
            results += measured(name, keys, number // by)
    results += [memory(name) for name in SHAPES]
    results += spilled()
    ours = results[0].value
    for peer, run in (("bytewax", bytewax), ("Beam", beam)):
        theirs = run(PEER_EVENTS[peer] // by)
        if theirs is None:
            notes.append(f"{peer} is not installed.")
        else:
            results.append(compared(f"{results[0].name} beside {peer}", ours, "events/s", peer, theirs))
    show(Report("streams", at, results, notes), given.json)


if __name__ == "__main__":
    main()
