"""How many instances, and why: observations in, decisions out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.functions.scaling import ALERT, BUSY, CALM, KEPT, PAUSE, Observation, Scaler, ScaleSettings

S = 1_000_000
FOUR = ScaleSettings(0, 4, 600 * S)


def behind(instances: int, busy: float = 1.0) -> Observation:
    return Observation(instances, busy, lag=5000, lag_us=3 * S, rate=900.0)


@pytest.mark.parametrize(
    ("seen", "settings", "wish", "reason"),
    [
        (Observation(1, 0.2), FOUR, 1, ""),
        (behind(1), FOUR, 2, "5000 events, 3.0 s, behind at 900 events/s while its instance worked 100% of the time"),
        (
            behind(3),
            FOUR,
            4,
            "5000 events, 3.0 s, behind at 900 events/s while its 3 instances worked 100% of the time",
        ),
        (behind(4), FOUR, 4, ""),
        # What is slow is the target or the journal: another instance would wait as well.
        (behind(1, busy=0.3), FOUR, 1, ""),
        (Observation(1, 1.0, lag=5000, lag_us=S // 2), FOUR, 1, ""),
        (Observation(1, 0.9, waiting=5), FOUR, 2, "5 calls waited while its instance worked 90% of the time"),
        (Observation(0, quiet_us=700 * S), FOUR, 0, ""),
        (Observation(2, quiet_us=700 * S), FOUR, 0, "not called for 12 min"),
        (Observation(2, quiet_us=700 * S), ScaleSettings(1, 4, 600 * S), 1, "not called for 12 min"),
        (Observation(0, quiet_us=5), ScaleSettings(2, 4, 600 * S), 2, "at least 2"),
        (Observation(3, 1.0), ScaleSettings(0, 2, 600 * S), 2, "between 0 and 2"),
    ],
)
def test_a_look_and_what_comes_of_it(seen: Observation, settings: ScaleSettings, wish: int, reason: str) -> None:
    scaler = Scaler(settings)
    assert scaler.decide(seen, 0, 77) == wish
    noted = [(d.time, d.before, d.after, d.reason) for d in scaler.decisions]
    assert noted == ([(77, seen.instances, wish, reason)] if reason else [])


def test_up_fast_one_step_after_the_other() -> None:
    scaler, instances, steps = Scaler(FOUR), 1, []
    for second in range(8):
        instances = scaler.decide(behind(instances), second * S, 0)
        steps.append(instances)
    assert steps == [2, 2, 3, 3, 4, 4, 4, 4]
    assert PAUSE == 2 * S


def test_down_slowly_and_only_while_it_stays_calm() -> None:
    scaler, instances = Scaler(FOUR), 3
    changes = []
    for second in range(120):
        busy = 0.9 if second == 20 else 0.05
        now = scaler.decide(Observation(instances, busy), second * S, 0)
        if now != instances:
            changes.append((second, now))
        instances = now
    assert changes == [(21 + CALM // S, 2), (21 + 2 * CALM // S, 1)]


def test_an_alert_asks_for_one_more_while_it_fires() -> None:
    scaler = Scaler(FOUR)
    assert scaler.alert("a", "fans are slow", True, 0)
    assert not scaler.alert("a", "fans are slow", True, 0)
    assert scaler.decide(Observation(1), 0, 0) == 2
    assert scaler.decide(Observation(2), S, 0) == 2
    assert scaler.alert("b", "soil is dry", True, S)
    assert scaler.decide(Observation(2), 2 * S, 0) == 3
    assert scaler.alert("a", "", False, 3 * S)
    assert not scaler.alert("a", "", False, 3 * S)
    assert scaler.decide(Observation(3), 3 * S, 0) == 2
    assert scaler.decide(Observation(2), S + ALERT, 0) == 1
    reasons = [d.reason for d in scaler.decisions]
    assert reasons == ["alert: fans are slow", "alert: soil is dry", "an alert is over", "an alert is over"]


def test_an_alert_warms_up_an_app_that_rests_and_never_goes_beyond_max() -> None:
    scaler = Scaler(ScaleSettings(0, 2, 600 * S))
    for name in "abcdefgh":
        scaler.alert(name, name, True, 0)
    instances = scaler.decide(Observation(0, quiet_us=700 * S), 0, 0)
    assert instances == 2
    assert scaler.decide(Observation(2, quiet_us=700 * S), S, 0) == 2
    for name in "abcdefgh":
        scaler.alert(name, name, False, S)
    assert scaler.decide(Observation(2, quiet_us=700 * S), 2 * S, 0) == 0


def test_the_last_instance_of_an_app_that_is_called_outlives_the_alert() -> None:
    scaler = Scaler(FOUR)
    scaler.alert("a", "a", True, 0)
    assert scaler.decide(Observation(0, quiet_us=700 * S), 0, 0) == 1
    assert scaler.decide(Observation(1, quiet_us=0), S, 0) == 2
    scaler.alert("a", "a", False, S)
    assert scaler.decide(Observation(2, quiet_us=0), 2 * S, 0) == 1


def test_an_alert_that_does_not_stop_is_forgotten_and_too_many_are_not_heard() -> None:
    scaler = Scaler(FOUR)
    assert sum(scaler.alert(str(n), "x", True, 0) for n in range(1000)) == 16
    assert scaler.decide(Observation(1), ALERT - 1, 0) == 4
    assert scaler.decide(Observation(4), ALERT, 0) == 1


def test_a_call_that_woke_the_app_and_a_step_that_failed_are_noted() -> None:
    scaler = Scaler(FOUR)
    scaler.decide(Observation(1, quiet_us=700 * S), 0, 0)
    scaler.decide(Observation(1), S, 0)
    scaler.decide(behind(1), 2 * S, 0)
    scaler.refused(1, "no room", 9)
    assert [(d.before, d.after, d.reason) for d in scaler.decisions][1:] == [
        (0, 1, "it was called"),
        (1, 2, "5000 events, 3.0 s, behind at 900 events/s while its instance worked 100% of the time"),
        (2, 1, "it could not be done: no room"),
    ]


def test_a_new_version_starts_with_as_many_as_the_old_one_had() -> None:
    scaler = Scaler(FOUR)
    scaler.alert("a", "a", True, 0)
    assert scaler.decide(behind(2), 0, 0) == 4
    assert scaler.decide(Observation(1, 0.6), S, 0) == 4
    assert scaler.decisions[-1].reason == "as many as the version before it"
    assert scaler.decide(Observation(4, 0.6), 2 * S, 0) == 4
    assert len(scaler.decisions) == 2


def test_the_newest_decisions_are_kept() -> None:
    scaler = Scaler(FOUR)
    for n in range(3 * KEPT):
        scaler.decide(Observation(1, quiet_us=700 * S), 2 * n, 0)
        scaler.decide(Observation(1), 2 * n + 1, 0)
    assert len(scaler.decisions) == KEPT


@pytest.mark.parametrize(("low", "high"), [(2, 1), (-1, 1), (0, 0)])
def test_bounds_that_leave_nothing_are_refused(low: int, high: int) -> None:
    with pytest.raises(ConfigError):
        ScaleSettings(low, high)


bounds = st.tuples(st.integers(0, 6), st.integers(1, 6)).filter(lambda b: b[0] <= b[1])
observations = st.builds(
    Observation,
    instances=st.integers(0, 8),
    busy=st.floats(0, 1),
    waiting=st.integers(0, 20),
    lag=st.integers(0, 10_000),
    lag_us=st.integers(0, 100 * S),
    rate=st.floats(0, 1e5),
    quiet_us=st.integers(0, 100 * S),
)


@given(bounds, st.lists(st.tuples(observations, st.integers(0, 60 * S), st.booleans()), max_size=40))
def test_never_outside_the_bounds(bound: tuple[int, int], looks: list[tuple[Observation, int, bool]]) -> None:
    scaler, now = Scaler(ScaleSettings(*bound, 50 * S)), 0
    for seen, passed, firing in looks:
        now += passed
        scaler.alert("a", "a", firing, now)
        assert bound[0] <= scaler.decide(seen, now, now) <= bound[1]
        assert all(d.reason for d in scaler.decisions)


@given(bounds, observations, st.integers(0, 3))
def test_the_same_input_again_and_again_leads_one_way_and_to_a_halt(
    bound: tuple[int, int], seen: Observation, alerts: int
) -> None:
    scaler, instances = Scaler(ScaleSettings(*bound, 50 * S)), seen.instances
    for number in range(alerts):
        scaler.alert(str(number), "x", True, 0)
    course = [scaler.decide(seen, 0, 0)]
    for second in range(1, 400):
        constant = Observation(course[-1], seen.busy, seen.waiting, seen.lag, seen.lag_us, seen.rate, seen.quiet_us)
        course.append(scaler.decide(constant, second * S, 0))
    steps = {b - a for a, b in itertools.pairwise(course)}
    assert steps <= {0, 1} or steps <= {0, -1}
    assert course[-1] == course[-100]
    assert instances == seen.instances


@given(st.floats(0.01, 8), st.integers(1, 8), st.integers(1, 8))
def test_a_constant_load_is_answered_with_what_it_needs_and_then_left_alone(load: float, most: int, start: int) -> None:
    """The loop closed: `load` instances' worth of work arrives all the time; what is too much queues up."""
    scaler, instances, backlog, course = Scaler(ScaleSettings(0, most, 600 * S)), min(start, most), 0.0, []
    for second in range(1200):
        done = min(backlog + load, instances)
        backlog += load - done
        lag_us = int(backlog / load * S)
        seen = Observation(instances, done / instances, 0, int(backlog * 100), lag_us, done * 100)
        instances = scaler.decide(seen, second * S, 0)
        course.append(instances)
    assert len(set(course[-300:])) == 1 or backlog > 0
    if load <= BUSY * most:
        assert backlog == 0
        assert load / instances <= 1
