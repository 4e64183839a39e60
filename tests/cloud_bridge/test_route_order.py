"""Order per device where events fail: a route together with the real runner, and what it holds back by itself."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from cloud_bridge.route import RouteFlow
from edge_runtime.events import Event
from edge_runtime.flows.flow import Done, Failed, Turn
from edge_runtime.journal.records import DeadLetter
from tests.cloud_bridge.test_route import Shaper, Shelf, event, route
from tests.flows.conftest import House, turns


class Flaky:
    """Fails on each of some events so many times."""

    def __init__(self, fails: dict[str, int]) -> None:
        self.left = dict(fails)

    def __call__(self, item: Event) -> Any:
        if self.left.get(item.id, 0):
            self.left[item.id] -= 1
            raise ValueError("not yet")
        return {"seq": item.seq}


async def run(flow: RouteFlow, events: list[Event], seconds: int = 20) -> House:
    house = await House().open()
    await house.flows.install(flow)
    await house.journal.append(events)
    await turns()
    await house.time(seconds)
    return house


def per_device(shelf: Shelf, events: list[Event]) -> dict[str, list[int]]:
    names = {item.outside_id: item for item in events}
    found: dict[str, list[int]] = {}
    for taken in shelf.taken:
        found.setdefault(names[taken].device, []).append(names[taken].seq)
    return found


async def test_behind_a_failure_nothing_of_the_device_is_sent_and_nothing_is_sent_twice() -> None:
    events = [event(device, seq) for seq in range(6) for device in ("a", "b")]
    shelf = Shelf()
    shaper = Shaper(Flaky({events[0].id: 1, events[4].id: 2, events[7].id: 1}))
    await run(route(shelf, shaper), events)
    assert per_device(shelf, events) == {"a": [0, 1, 2, 3, 4, 5], "b": [0, 1, 2, 3, 4, 5]}


async def test_an_event_given_up_is_a_dead_letter_and_the_next_ones_follow_once() -> None:
    events = [event("a", seq) for seq in range(6)]
    shelf = Shelf()
    house = await run(route(shelf, Shaper(Flaky({events[1].id: 99, events[2].id: 99, events[4].id: 99}))), events, 60)
    assert per_device(shelf, events) == {"a": [0, 3, 5]}
    letters = [record for record in house.journal.records() if isinstance(record, DeadLetter)]
    assert [letter.event for letter in letters] == [events[1], events[2], events[4]]


async def test_behind_a_held_refusal_nothing_is_sent_until_it_is_released() -> None:
    events = [event(device, seq) for seq in range(3) for device in ("a", "b")]
    shelf = Shelf()
    shelf.refused = {events[0].id}
    house = await run(route(shelf, on_error="hold"), events)
    assert per_device(shelf, events) == {"b": [0, 1, 2]}
    shelf.refused.clear()
    assert house.flows.runners["greenhouse.shape"].release("a")
    await turns()
    await house.time(5)
    assert per_device(shelf, events) == {"b": [0, 1, 2], "a": [0, 1, 2]}


async def test_a_refusal_that_is_skipped_holds_nothing_up() -> None:
    events = [event("a", seq) for seq in range(3)]
    shelf = Shelf()
    shelf.refused = {events[0].id}
    await run(route(shelf), events)
    assert per_device(shelf, events) == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("retries", "on_error", "sent"), [(2, "skip", 0), (0, "hold", 0), (0, "stop", 0), (0, "skip", 2)]
)
async def test_the_results_end_before_what_may_not_be_sent(retries: int, on_error: str, sent: int) -> None:
    events = [event("a", seq) for seq in range(4)]
    shelf = Shelf()
    flow = route(shelf, Shaper(Flaky({events[0].id: 1, events[1].id: 1})), retries=retries, on_error=on_error)
    taken = await flow.take(events, Turn(0))
    assert [type(result) for result in taken.results] == [Failed, Failed] + [Done] * sent
    assert (len(shelf.taken), taken.waiting) == (sent, None)


async def test_others_behind_the_end_are_sent_once() -> None:
    events = [event("a", 0), event("a", 1), event("b", 0)]
    shelf = Shelf()
    flow = route(shelf, Shaper(Flaky({events[0].id: 1})))
    assert len((await flow.take(events, Turn(0))).results) == 1
    assert (await flow.take(events[2:], Turn(0))).results == [Done()]
    assert (await flow.take(events[:2], Turn(0))).results == [Done(), Done()]
    assert Counter(shelf.taken) == {item.outside_id: 1 for item in events}
