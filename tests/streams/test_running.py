"""Processing time by the journal alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.events import GATEWAY, TICK, Event
from edge_runtime.streams.running import STEP, RunningTime, WallTime

DAY = 86_400_000_000


def event(received: int) -> Event:
    return Event("d", b"8 bytes.", 0, "climate", received, received, {})


def tick(received: int, due: int) -> Event:
    return Event(GATEWAY, b"", 0, f"{TICK}app.f.stream", received, received, {"due": due})


def test_it_goes_with_the_events_and_with_the_ticks() -> None:
    time = RunningTime()
    assert time.at(event(DAY)) == DAY
    assert time.at(event(DAY + 5)) == DAY + 5
    assert time.at(tick(DAY + 100, DAY + 60)) == DAY + 60
    assert time.at(tick(DAY + 101, DAY + 20)) == DAY + 60, "an old tick changes nothing"
    assert time.at(event(DAY + 111)) == DAY + 70


def test_a_clock_that_jumps_moves_it_by_a_minute_at_most() -> None:
    time = RunningTime()
    time.at(event(DAY))
    assert time.at(event(400 * DAY)) == DAY + STEP
    assert time.at(event(DAY)) == DAY + STEP
    assert time.at(event(DAY + 7)) == DAY + STEP + 7


def test_wall_time_is_the_latest_that_was_seen() -> None:
    time = WallTime()
    assert [time.at(event(at)) for at in (5, 3, 9)] == [5, 5, 9]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1 << 52)), max_size=30), st.integers(0, 30))
def test_it_never_goes_back_and_survives_a_restart(steps: list[tuple[bool, int]], at: int) -> None:
    one, other = RunningTime(), RunningTime()
    before = 0
    for number, (is_tick, moment) in enumerate(steps):
        given_event = tick(before, moment) if is_tick else event(moment)
        if number == at:
            other = RunningTime.load(other.dump())
        now = one.at(given_event)
        assert now == other.at(given_event) >= before
        before = now
