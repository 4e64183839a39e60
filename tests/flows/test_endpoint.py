"""A function that answers requests: who waits is told once the answer is durable, and not before."""

from __future__ import annotations

from typing import Any

from edge_runtime.clock import ManualClock
from edge_runtime.events import GATEWAY, Event
from edge_runtime.flows.endpoint import EndpointFlow
from edge_runtime.flows.flow import Turn
from edge_runtime.flows.ports import Emit, Failure, Outcome, Success
from edge_runtime.flows.runner import LONGEST_WAIT
from edge_runtime.manifest import Endpoint
from tests.flows.conftest import BOOT, House, turns
from tests.flows.test_function import Script


class Waiting:
    """Those who wait, and what they were told."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.told: list[tuple[str, Any, str]] = []

    def waits(self, event: str) -> bool:
        return event in self.ids

    def answer(self, event: str, value: Any, failure: str) -> None:
        self.told.append((event, value, failure))


def asked(seq: int) -> Event:
    return Event(GATEWAY, BOOT, seq, "$http.app.f", 1, 1, {})


def flow(outcome: Outcome, waiting: Waiting, retries: int = 0) -> EndpointFlow:
    trigger = Endpoint("f", "$http.app.f", retries=retries)
    return EndpointFlow(
        "app",
        "v1",
        trigger,
        matches=lambda data: True,
        invoker=Script(outcome),
        clock=ManualClock(5_000),
        answers=waiting,
    )


async def test_the_answer_is_told_behind_the_commit(house: House) -> None:
    waiting = Waiting()
    first, second = asked(1), asked(2)
    waiting.ids = {first.id}
    await house.flows.install(flow(Success([Emit("x", 1)], {"status": 200}), waiting))
    await house.journal.append([first, second])
    house.journal.full = True
    await turns()
    assert waiting.told == [], "the effects are not durable"
    house.journal.full = False
    house.clock.advance(LONGEST_WAIT)
    await turns()
    assert waiting.told == [(first.id, {"status": 200}, "")], "and nobody waits for the second"


async def test_a_failure_is_told_with_its_dead_letter_and_not_while_it_is_tried_again(house: House) -> None:
    waiting = Waiting()
    event = asked(1)
    waiting.ids = {event.id}
    await house.flows.install(flow(Failure("timeout", "it took too long"), waiting, retries=1))
    await house.journal.append([event])
    await turns()
    assert waiting.told == []
    await house.time(3)
    assert waiting.told == [(event.id, None, "timeout")]


async def test_a_dry_run_answers_nobody() -> None:
    waiting = Waiting()
    event = asked(1)
    waiting.ids = {event.id}
    found = flow(Success([], {"status": 200}), waiting)
    await found.take([event], Turn(0, dry=True))
    found.settled([event], Turn(0, dry=True))
    assert waiting.told == []
