"""What a function's outcome becomes in the journal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.events import MAX_HOPS, Event, Origin
from edge_runtime.flows.flow import Done, Failed, Turn
from edge_runtime.flows.function import FunctionFlow
from edge_runtime.flows.ports import (
    NOTHING,
    Cancel,
    Defer,
    Effect,
    Emit,
    Failure,
    Given,
    LogLine,
    Order,
    Outcome,
    Success,
    Unavailable,
)
from edge_runtime.flows.reach import Reach
from edge_runtime.flows.timers import MAX_PENDING
from edge_runtime.grants import Grants
from edge_runtime.journal.records import Command, DeadLetter, Record, State, StateChange, Timer, TimerCancelled
from edge_runtime.manifest import FunctionRef, OnEvent
from tests.flows.conftest import event
from tests.flows.test_timers import House


class Script:
    """An invoker that answers from a script; the real sandbox has tests of its own."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.away = False

    async def invoke(self, function: FunctionRef, events: Sequence[Event], given: Given = NOTHING) -> Sequence[Outcome]:
        if self.away:
            raise Unavailable("no executor")
        self.given = Given(given.serial, dict(given.states))
        return [self.outcome] * len(events)


def flow(outcome: Outcome, where: Any = lambda data: True, grants: Sequence[str] = ()) -> tuple[FunctionFlow, Script]:
    script = Script(outcome)
    trigger = OnEvent("f", "climate")
    reach = Reach(Grants.of(grants))
    made = FunctionFlow("app", "v1", trigger, matches=where, invoker=script, clock=ManualClock(5_000), reach=reach)
    return made, script


async def effects(found: FunctionFlow, item: Event, epoch: int = 0) -> list[Record]:
    (result,) = (await found.take([item], Turn(epoch))).results
    assert isinstance(result, Done)
    return result.effects


async def test_an_order_becomes_a_command_with_cause_and_expiry() -> None:
    orders: list[Effect] = [Order("gh-1", "fan", {"on": True}, 60), Order("gh-2", "fan", None, 60)]
    found, _ = flow(Success(orders), grants=["command:gh-*"])
    own, other = await effects(found, event(7), epoch=3)
    assert own == Command(
        "gh-1", "fan", {"on": True}, 5_000, 5_060, Origin("app.f", 3, event(7).id, 0), (event(7).boot, 7)
    )
    assert isinstance(other, Command)
    assert (other.device, other.cause, other.origin.index) == ("gh-2", None, 1)


async def test_the_same_effect_has_the_same_id_and_another_epoch_another() -> None:
    found, _ = flow(Success([Order("gh-1", "fan", {}, 60)]))
    ids = []
    for epoch in (0, 0, 1):
        (effect,) = await effects(found, event(7), epoch)
        assert isinstance(effect, Command)
        ids.append((effect.id, effect.origin.outside_id()))
    assert ids[0] == ids[1]
    assert ids[0][0] != ids[2][0]
    assert ids[0][1] == ids[2][1]


async def test_an_emitted_event_knows_where_it_came_from() -> None:
    found, _ = flow(Success([Emit("climate.hot", {"t": 31})]))
    (emitted,) = await effects(found, event(7))
    assert isinstance(emitted, Event)
    assert (emitted.device, emitted.kind, emitted.time, emitted.hops) == ("gh-1", "climate.hot", event(7).time, 1)
    assert emitted.origin == Origin("app.f", 0, event(7).id, 0)


async def test_functions_that_answer_each_other_for_ever_are_cut() -> None:
    found, _ = flow(Success([Emit("climate", {})]))
    current = event(0)
    for _ in range(MAX_HOPS):
        (record,) = await effects(found, current)
        assert isinstance(record, Event)
        current = record
    (last,) = await effects(found, current)
    assert isinstance(last, DeadLetter)
    assert last.reason == "hops"


async def test_a_failure_becomes_a_dead_letter_with_event_reason_and_version() -> None:
    found, _ = flow(Failure("timeout", "greenhouse.py:7: longer than 500 ms"))
    taken = await found.take([event(1), event(2)], Turn(0))
    letters = [result.letter for result in taken.results if isinstance(result, Failed)]
    assert [(letter.event, letter.reason, letter.version) for letter in letters] == [
        (event(1), "timeout", "v1"),
        (event(2), "timeout", "v1"),
    ]


async def test_a_sandbox_out_of_reach_is_waited_for() -> None:
    found, script = flow(Success())
    script.away = True
    taken = await found.take([event(1)], Turn(0))
    assert taken.results == []
    assert taken.waiting is not None


async def test_log_lines_reach_the_application_log(caplog: pytest.LogCaptureFixture) -> None:
    found, _ = flow(Success(logs=[LogLine("warning", "it is warm")]))
    with caplog.at_level("INFO", logger="edge.app"):
        await found.take([event(1)], Turn(0))
    assert ("edge.app.app.f", "it is warm") in [(r.name, r.getMessage()) for r in caplog.records]


def test_only_events_of_the_kind_that_match_are_wanted() -> None:
    found, _ = flow(Success(), where=lambda data: data["n"] > 5)
    assert [found.wants(event(n, kind=k)) for n, k in ((6, "climate"), (5, "climate"), (6, "door"))] == [
        True,
        False,
        False,
    ]


class Kept:
    """What functions keep, in the open."""

    def __init__(self, **states: State) -> None:
        self.states = states

    async def of(self, flow: str, keys: Iterable[str]) -> dict[str, State]:
        return {key: self.states[key] for key in keys if key in self.states}

    async def entries(self, flow: str, names: Mapping[str, Collection[str]]) -> dict[str, State]:
        raise AssertionError("a function is given all of it")


async def test_what_a_function_keeps_is_handed_in_and_its_changes_follow_each_other() -> None:
    found, script = flow(Success(state={"count": ("2", 0), "old": None}))
    turn = Turn(0, states=Kept(**{"gh-1": {"count": ("1", 0), "old": ("true", 7)}}))
    first, second, other = (await found.take([event(1), event(2), event(3, "gh-2")], turn)).results
    assert script.given.states == {"gh-1": {"count": ("1", 0), "old": ("true", 7)}}
    assert first == Done(
        [StateChange("app.f", "gh-1", {"count": ("2", 0), "old": None}, {"count": ("1", 0), "old": ("true", 7)})]
    )
    assert second == Done(
        [StateChange("app.f", "gh-1", {"count": ("2", 0), "old": None}, {"count": ("2", 0), "old": None})]
    )
    assert other == Done([StateChange("app.f", "gh-2", {"count": ("2", 0), "old": None}, {"count": None, "old": None})])


async def test_more_than_may_be_kept_is_refused_whatever_the_guest_says() -> None:
    found, _ = flow(Success(state={"b": ("x" * 40_000, 0)}))
    turn = Turn(0, states=Kept(**{"gh-1": {"a": ("y" * 30_000, 0)}}))
    kept, refused = (await found.take([event(1, "gh-2"), event(2)], turn)).results
    assert isinstance(kept, Done)
    assert isinstance(refused, Failed)
    assert (refused.letter.reason, refused.letter.detail) == ("output", "more than 64 KiB of state")


async def test_a_serial_function_has_one_key_for_all_devices() -> None:
    script = Script(Success(state={"count": ("1", 0)}))
    trigger = OnEvent("f", "climate", serial=True)
    found = FunctionFlow("app", "v1", trigger, matches=lambda data: True, invoker=script, clock=ManualClock())
    assert {found.key(event(1)), found.key(event(2, "gh-2"))} == {""}
    (result,) = (await found.take([event(1)], Turn(0, states=Kept(**{"": {"count": ("0", 0)}})))).results
    assert result == Done([StateChange("app.f", "", {"count": ("1", 0)}, {"count": ("0", 0)})])
    assert script.given.serial


async def test_a_deferred_event_becomes_a_timer_with_its_origin() -> None:
    found, _ = flow(Success([Emit("x", 1), Defer("check", {"n": 1}, 60, "silence"), Cancel("old")]))
    _, timer, cancelled = await effects(found, event(7), epoch=3)
    later = Event("gh-1", b"", 0, "check", event(7).time, 5_000, {"n": 1}, 1, Origin("app.f", 3, event(7).id, 1))
    assert timer == Timer("app.f", later, 5_000, 60, "silence")
    assert cancelled == TimerCancelled("app.f", "gh-1", "old")


async def test_what_is_deferred_while_catching_up_comes_out_quiet() -> None:
    found, _ = flow(Success([Defer("check", None, 60)]))
    [result] = (await found.take([event(1)], Turn(0, quiet=True))).results
    assert isinstance(result, Done)
    [timer] = result.effects
    assert isinstance(timer, Timer)
    assert timer.event.quiet


async def test_deferring_ends_with_the_last_hop() -> None:
    found, _ = flow(Success([Defer("check", None, 60)]))
    [letter] = await effects(found, msgspec.structs.replace(event(1), hops=MAX_HOPS))
    assert isinstance(letter, DeadLetter)
    assert letter.reason == "hops"


async def test_too_many_deferred_events_are_a_failure() -> None:
    house = await House().open()
    for start in range(0, MAX_PENDING - 1, 1000):
        count = min(1000, MAX_PENDING - 1 - start)
        await house.journal.append([house.timer(start + number, 60) for number in range(count)])
    script = Script(Success([Defer("check", None, 60)]))
    found = FunctionFlow(
        "app",
        "v1",
        OnEvent("f", "climate"),
        matches=lambda data: True,
        invoker=script,
        clock=house.clock,
        timers=house.timers,
    )
    [last] = await effects(found, event(1))
    await house.journal.append([last])
    [result] = (await found.take([event(2)], Turn(0))).results
    assert isinstance(result, Failed)
    assert "10000 events" in result.letter.detail
    script.outcome = Success([Emit("x", 1)])
    assert len(await effects(found, event(3))) == 1
