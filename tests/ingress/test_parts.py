"""The front door's small parts: the wheel, the meters, the throttles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.clock import ManualClock
from edge_runtime.ingress.meters import Histogram
from edge_runtime.ingress.throttle import FailedLogins
from edge_runtime.ingress.wheel import Wheel
from edge_runtime.throttle import ThrottledLog

SECOND = 1_000_000


class Item:
    def __init__(self, deadline: int) -> None:
        self.deadline = deadline
        self.slot = -1


@given(st.lists(st.tuples(st.integers(0, 30), st.one_of(st.none(), st.integers(0, 60))), max_size=20))
def test_the_wheel_turns_items_out_at_their_last_deadline(plan: list[tuple[int, int | None]]) -> None:
    wheel: Wheel[Item] = Wheel()
    items = [Item(first) for first, _ in plan]
    for item in items:
        wheel.put(item)
    for item, (_, moved) in zip(items, plan, strict=True):
        if moved is not None:
            item.deadline = moved
            wheel.put(item)
    came_out: dict[Item, int] = {}
    for tick in range(1, 70):
        for item in wheel.turn():
            assert item not in came_out
            came_out[item] = tick
    assert came_out == {item: max(item.deadline, 1) for item in items}
    assert not wheel._slots


def test_the_wheel_forgets_what_is_removed() -> None:
    wheel: Wheel[Item] = Wheel()
    item = Item(3)
    wheel.put(item)
    wheel.remove(item)
    wheel.remove(item)
    assert not wheel._slots
    assert [wheel.turn() for _ in range(5)] == [[]] * 5


@given(st.lists(st.integers(0, 10**9), min_size=1), st.floats(0, 1))
def test_quantiles_are_upper_bounds_within_an_eighth(durations: list[int], q: float) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.record(duration)
    rank = max(1, -int(-q * len(durations) // 1))
    exact = sorted(durations)[rank - 1]
    assert exact <= histogram.quantile(q) <= exact * 9 / 8
    assert histogram.count == len(durations)


def test_a_histogram_takes_anything() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.5) == 0
    histogram.record(-5)
    assert histogram.quantile(1) == 0
    histogram.record(2**60)
    assert histogram.quantile(1) >= 2**38


def test_a_throttled_log_says_what_it_left_out() -> None:
    clock, lines = ManualClock(), list[str]()
    log = ThrottledLog(lines.append, clock, burst=3, interval=SECOND)
    for number in range(10):
        log(f"line {number}")
    assert lines == ["line 0", "line 1", "line 2"]
    clock.advance(SECOND)
    log("later")
    assert lines[3:] == ["7 lines like the following were left out: too many at once", "later"]
    log("too soon")
    clock.advance(100 * SECOND)
    for number in range(5):
        log(f"rested {number}")
    assert lines[6:] == ["rested 0", "rested 1", "rested 2"]


def test_failed_logins_wait_longer_each_time_and_are_forgotten() -> None:
    clock = ManualClock()
    failures = FailedLogins(clock)
    assert [failures.delay("a") for _ in range(20)] == [0, 0, 0, 1, 2, 4, 8] + [10] * 13
    assert failures.delay("b") == 0
    clock.advance(61 * SECOND)
    assert failures.delay("a") == 0


def test_the_addresses_of_failed_logins_are_bounded() -> None:
    failures = FailedLogins(ManualClock())
    for _ in range(5):
        failures.delay("first")
    for number in range(FailedLogins.ADDRESSES):
        failures.delay(str(number))
    assert failures.delay("first") == 0
    assert len(failures._failures) == FailedLogins.ADDRESSES
