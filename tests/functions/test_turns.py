"""Whose turn it is, and who has to wait: no executors, no time of their own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.functions.budget import WINDOW, Budget
from edge_runtime.functions.jobs import UnloadJob
from edge_runtime.functions.turns import Turns


def served(turns: Turns, costs: dict[int, int], total: int) -> dict[int, int]:
    """Let jobs that never end take turns; what each app has had of the executor."""
    had = dict.fromkeys(costs, 0)
    while sum(had.values()) < total:
        job, _ = turns.next(0)
        assert job is not None
        had[job.app] += costs[job.app]
        turns.took(job, costs[job.app], finished=False)
    return had


async def test_turns_are_fair_by_time_not_by_jobs() -> None:
    turns = Turns()
    for app in (1, 1, 1, 1, 2):
        turns.put(UnloadJob(app))
    had = served(turns, {1: 20_000, 2: 1_000}, 1_000_000)
    assert abs(had[1] - had[2]) <= 20_000


async def test_who_comes_back_from_a_rest_starts_level() -> None:
    turns = Turns()
    turns.put(UnloadJob(1))
    served(turns, {1: 1_000}, 1_000_000)
    turns.put(UnloadJob(2))
    had = served(turns, {1: 1_000, 2: 1_000}, 100_000)
    assert abs(had[1] - had[2]) <= 2_000, "a second's rest earned nothing"


async def test_jobs_of_one_app_rotate_and_leave_in_order() -> None:
    turns = Turns()
    first, second = UnloadJob(1), UnloadJob(1)
    turns.put(first)
    turns.put(second)
    assert turns.next(0) == (first, 0)
    turns.took(first, 5, finished=False)
    assert turns.next(0) == (second, 0)
    turns.took(second, 5, finished=True)
    assert turns.next(0) == (first, 0)
    turns.took(first, 5, finished=True)
    assert turns.next(0) == (None, 0)
    assert len(turns) == 0


async def test_what_was_cleared_meanwhile_is_not_taken_back() -> None:
    turns = Turns()
    job = UnloadJob(1)
    turns.put(job)
    assert turns.clear() == [job]
    turns.took(job, 5, finished=False)
    assert len(turns) == 0


async def test_an_app_beyond_its_share_waits_while_others_go_on() -> None:
    turns, budget = Turns(), Budget(0.1, 0)
    greedy, other = UnloadJob(1, budget), UnloadJob(2)
    turns.put(greedy)
    budget.spend(WINDOW, 0)
    assert turns.next(0) == (None, 9 * WINDOW + 1)
    turns.put(other)
    assert turns.next(0) == (other, 0)
    turns.took(other, 1, finished=True)
    assert turns.next(9 * WINDOW + 1) == (greedy, 0)


def test_it_is_told_how_long_an_app_was_held_back() -> None:
    budget = Budget(0.5, 0)
    assert budget.wait(0) == 0
    budget.spend(3_000_000, 0)
    assert budget.wait(0) == 1_000_001
    assert budget.held(600_000) == 600_000
    assert budget.wait(1_000_001) == 0
    assert budget.held(2_000_000) == 1_000_001


def test_the_whole_core_is_never_waited_for() -> None:
    budget = Budget(1.0, 0)
    budget.spend(10**12, 0)
    assert budget.wait(0) == budget.held(0) == 0


@given(
    st.floats(0.01, 0.99),
    st.lists(st.tuples(st.integers(1, 400_000), st.integers(0, 5_000_000)), min_size=1, max_size=60),
)
def test_in_the_long_run_nobody_has_more_than_the_share(share: float, pieces: list[tuple[int, int]]) -> None:
    """Using all that it may, it never had more than its share of the time, of one window, and one piece."""
    budget, now, used, longest = Budget(share, 0), 0, 0, 0
    for micros, rest in pieces:
        now += rest
        while wait := budget.wait(now):
            now += wait
        budget.spend(micros, now)
        used += micros
        longest = max(longest, micros)
        assert used <= share * (now + WINDOW) + longest + 1
