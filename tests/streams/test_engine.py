"""The machine itself: specifications that cannot be, state that cannot be read, when it wants to be woken."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.events import TICK, Event
from edge_runtime.streams.engine import HEAD, Windows, machine
from edge_runtime.streams.machine import Machine
from edge_runtime.streamspec import SECOND, Aggregate, Fixed, Global, Session, Sliding, Trigger, Window
from tests.streams.transcripts import Store

COUNT = {"n": Aggregate("count")}
GOOD = Window(Fixed(10), COUNT)


def event(time: int, now: int, device: str = "a") -> Event:
    return Event(device, b"12345678", time, "e", time, now, None)


def test_it_is_a_machine() -> None:
    made: Machine = machine(GOOD)
    assert isinstance(made, Windows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": Fixed(0)}, "The size of a window is 0 microseconds"),
        ({"shape": Session(-1)}, "The gap of sessions is -1 microseconds"),
        ({"shape": Sliding(10, 0)}, "The time from one window to the next is 0 microseconds"),
        ({"shape": Sliding(100_000, 1)}, "Each event would belong to 100000 windows"),
        ({"shape": Sliding(300, 1), "lateness": 5}, "Each event would belong to 300 windows"),
        ({"shape": Global()}, "A global window without an early trigger never says anything"),
        ({"compute": {}}, "A window computes nothing"),
        ({"compute": {"n": Aggregate("cuont")}}, "There is no aggregate 'cuont'"),
        ({"compute": {"n": Aggregate("sum", "a..b")}}, "'a..b' is no path to a field"),
        ({"by": "zone"}, "'zone' is no partition key"),
        ({"time": "evnt"}, "There is no time 'evnt'"),
        ({"accumulation": "retract"}, "There is no accumulation 'retract'"),
        ({"lateness": -1}, "A length of time is less than it can be"),
        ({"idle": 0}, "A length of time is less than it can be"),
        ({"trigger": Trigger(early_count=-1)}, "A trigger counts or waits for less than nothing"),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Windows(msgspec.structs.replace(GOOD, **changes))
    assert str(raised.value) == words
    assert raised.value.hint


def test_state_that_cannot_be_read() -> None:
    store, first = Store(), Windows(GOOD)
    store.take(first, [event(3, 3)], [3])
    store.save(first)
    newer = msgspec.msgpack.decode(store.kept[HEAD])
    newer[0] += 1
    with pytest.raises(StorageError, match="of version 3"):
        Windows(GOOD).load({HEAD: msgspec.msgpack.encode(newer)})
    del store.kept["~marks.0"]
    with pytest.raises(StorageError, match=r"lacks '~marks\.0'"):
        store.provide(Windows(GOOD), [], [])


def test_it_takes_nothing_until_it_has_what_it_needs() -> None:
    store, first = Store(), Windows(GOOD)
    assert first.take([event(3, 3)], [3]) == (0, [])
    store.take(first, [event(3, 3)], [3])
    store.save(first)
    again = Windows(GOOD)
    rounds = 0
    while not again.take([event(12, 12)], [12])[0]:
        names = again.needs([event(12, 12)], [12])
        again.load({name: store.kept.get(name) for name in names})
        rounds += 1
    assert 1 < rounds < 5


def test_when_it_wants_to_be_woken() -> None:
    store, windows = Store(), Windows(msgspec.structs.replace(GOOD, idle=100))
    assert windows.wakes() is None
    store.take(windows, [event(3, 50)], [50])
    assert windows.wakes() == 150  # when the device is idle; what is next is seen then
    store.take(windows, [event(4, 60, "b")], [60])
    assert windows.wakes() == 150
    store.take(windows, [event(4, 70)], [70])
    woken = []
    while (at := windows.wakes()) is not None:
        tick = Event("gateway", b"", 0, TICK + "t", at, at, None)
        woken.append((at, len(store.take(windows, [tick], [at]))))
    assert woken == [(170, 0), (176, 2)]  # all are idle at 170, with an event of 4: 6 to the end


def test_it_is_woken_for_what_is_not_in_memory() -> None:
    store, windows = Store(), Windows(Window(Fixed(60 * SECOND), COUNT, by="data.zone", ahead=1000 * SECOND))

    def taken(device: str, time: int, now: int, zone: str) -> int:
        made = Event(device, b"12345678", now, "e", time * SECOND, now * SECOND, {"zone": zone})
        results = store.take(windows, [made], [now * SECOND])
        store.save(windows)
        windows.shrink(0)
        return len(results)

    for now in range(10, 40):
        assert taken("a", now, now, f"z{now}") == 0
    assert taken("b", 200, 40, "far") == 0
    assert taken("a", 130, 41, "near") == 30  # what ends at 60; what ends at 180 and 240 is there
    panes = ticks = 0
    while (at := windows.wakes()) is not None:
        panes += len(store.take(windows, [Event("gateway", b"", 0, TICK + "t", at, at, None)], [at]))
        ticks += 1
        assert ticks < 10
    assert panes == 2


def test_nothing_is_left_when_all_has_ended() -> None:
    """Of windows; the devices' watermarks stay."""
    store, windows = Store(), Windows(msgspec.structs.replace(GOOD, lateness=20, trigger=Trigger(late_every=5)))
    for time in range(0, 1000, 7):
        store.take(windows, [event(time, time)], [time])
        store.save(windows)
    assert any(name.startswith("=") for name in store.kept)
    at = 10**12
    store.take(windows, [Event("gateway", b"", 0, TICK + "t", at, at, None)], [at])
    store.save(windows)
    assert {name.partition(".")[0] for name in store.kept} == {HEAD, "~marks"}
    assert len(store.kept) == 2
    assert len(store.kept[HEAD]) < 200


def test_a_dump_is_of_what_has_changed() -> None:
    store, windows = Store(), Windows(msgspec.structs.replace(GOOD, shape=Fixed(10**6)))
    many = [event(n, n, f"d{n}") for n in range(1000)]
    store.take(windows, many, [item.time for item in many])
    store.save(windows)
    assert windows.dump() == {}
    store.take(windows, [event(1001, 1001, "d5")], [1001])
    changed = windows.dump()
    assert set(changed) == {"=d5", "~marks.4", HEAD}
    assert sum(len(value) for value in changed.values() if value) < 1000


def test_it_asks_again_for_what_was_let_go_of() -> None:
    store, windows = Store(), Windows(GOOD)
    store.take(windows, [event(3, 3), event(4, 4, "b")], [3, 4])
    store.save(windows)
    windows.shrink(0)
    assert windows.take([event(5, 5)], [5]) == (0, [])
    panes = store.take(windows, [event(12, 12), event(12, 13, "b")], [12, 13])
    assert [getattr(pane, "values", None) for pane in panes] == [{"n": 1}, {"n": 1}]
