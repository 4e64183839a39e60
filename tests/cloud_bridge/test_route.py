"""A route: what is sent, in which order, what waits, what is remembered; at last against the real runtime."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_bridge.local_cloud import LocalCloud, received
from cloud_bridge.route import PARALLEL, RouteFlow
from cloud_bridge.targets.http_cloudevents import HttpCloudEventsTarget
from edge_runtime import expr
from edge_runtime.clock import ManualClock, SystemClock
from edge_runtime.events import Event
from edge_runtime.flows.flow import Failed, Flow, Turn
from edge_runtime.flows.ports import NOTHING, Failure, Given, Outcome, Rejected, Success, Unavailable
from edge_runtime.journal.records import DeadLetter
from edge_runtime.manifest import FunctionRef, Route

CLOUD = Path(__file__).parents[2] / "examples" / "greenhouse" / "cloud" / "main.py"


class Shaper:
    """Runs a plain function as the sandbox would run the user's."""

    def __init__(self, shape: Callable[[Event], Any] = lambda event: {"seq": event.seq}) -> None:
        self.shape = shape
        self.calls: list[tuple[FunctionRef, list[Event]]] = []
        self.gone = False

    async def invoke(self, function: FunctionRef, events: Sequence[Event], given: Given = NOTHING) -> Sequence[Outcome]:
        if self.gone:
            raise Unavailable("no executor is running")
        self.calls.append((function, list(events)))
        return [self._one(event) for event in events]

    def _one(self, event: Event) -> Outcome:
        try:
            return Success(value=self.shape(event))
        except ValueError as error:
            return Failure("error", f"ValueError: {error}")


class Shelf:
    """A target that keeps what it is given; who is in `away` or `refused` (device or id) is not taken."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.away: set[str] = set()
        self.refused: set[str] = set()
        self.in_the_air = 0
        self.most_in_the_air = 0

    async def send(self, event: Event, value: Any) -> None:
        self.in_the_air += 1
        self.most_in_the_air = max(self.most_in_the_air, self.in_the_air)
        await asyncio.sleep(0)
        self.in_the_air -= 1
        if event.device in self.away or event.id in self.away:
            raise Unavailable(f"{event.id} is not reached")
        if event.id in self.refused:
            raise Rejected("not this one")
        self.taken.append(event.outside_id)


def event(device: str, seq: int, **data: Any) -> Event:
    return Event(device, b"\x01" * 8, seq, "climate", 0, 0, data)


class Settled(NamedTuple):
    """What became of a batch, in short."""

    done: int
    effects: list[DeadLetter]
    waiting: Unavailable | None


async def take(flow: RouteFlow, events: Sequence[Event], epoch: int) -> Settled:
    taken = await flow.take(events, Turn(epoch))
    letters = [result.letter for result in taken.results if isinstance(result, Failed)]
    return Settled(len(taken.results), letters, taken.waiting)


def route(
    target: Any, invoker: Shaper | None = None, where: str = "", retries: int = 2, on_error: str = "skip"
) -> RouteFlow:
    trigger = Route("shape", "climate", where, "earliest", to="cloud", retries=retries, on_error=on_error)
    return RouteFlow("greenhouse", "v3", trigger, invoker or Shaper(), target, ManualClock(5))


def test_it_is_a_flow_and_knows_its_name() -> None:
    flow: Flow = route(Shelf())
    assert (flow.name, flow.start) == ("greenhouse.shape", "earliest")


def test_it_wants_its_kind_where_its_condition_holds() -> None:
    flow = route(Shelf(), where="t > 30")
    assert flow.wants(event("a", 1, t=31))
    assert not flow.wants(event("a", 1, t=30))
    assert not flow.wants(event("a", 1))
    assert not flow.wants(Event("a", b"", 1, "other", 0, 0, {"t": 31}))
    with pytest.raises(expr.ExpressionError):
        route(Shelf(), where="t >")


async def test_a_batch_is_one_invocation_and_every_event_is_sent() -> None:
    shelf, shaper = Shelf(), Shaper()
    batch = [event("a", 1), event("b", 1), event("a", 2)]
    taken = await take(route(shelf, shaper), batch, 0)
    assert (taken.effects, taken.done, taken.waiting) == ([], 3, None)
    assert shaper.calls == [(FunctionRef("greenhouse", "v3", "shape"), batch)]
    assert Counter(shelf.taken) == Counter(item.outside_id for item in batch)


async def test_none_sends_nothing_and_a_failure_is_a_dead_letter() -> None:
    def shape(item: Event) -> Any:
        if item.seq == 2:
            raise ValueError("no such key")
        return None if item.seq == 1 else 0

    shelf = Shelf()
    flow = route(shelf, Shaper(shape), retries=0)
    batch = [event("a", 1), event("a", 2), event("a", 3)]
    taken = await take(flow, batch, 0)
    assert shelf.taken == [batch[2].outside_id]
    assert taken.done == 3
    assert taken.effects == [
        DeadLetter("greenhouse.shape", "error", "ValueError: no such key", 5, "a", batch[1], version="v3")
    ]
    assert (flow.counters.withheld, flow.counters.failed, flow.counters.delivered) == (1, 1, 1)


async def test_a_refused_event_is_a_dead_letter_and_the_next_one_goes_on() -> None:
    shelf = Shelf()
    flow = route(shelf)
    batch = [event("a", 1), event("a", 2)]
    shelf.refused.add(batch[0].id)
    taken = await take(flow, batch, 0)
    assert (taken.done, taken.waiting) == (2, None)
    (letter,) = taken.effects
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.event, letter.detail) == ("rejected", batch[0], "not this one")
    assert shelf.taken == [batch[1].outside_id]
    assert (flow.counters.rejected, flow.counters.last_error) == (1, "not this one")


async def test_what_is_done_ends_at_the_first_event_that_is_not() -> None:
    shelf = Shelf()
    flow = route(shelf)
    batch = [event("a", 1), event("b", 1), event("a", 2), event("b", 2), event("c", 1)]
    shelf.away.add(batch[1].id)
    first = await take(flow, batch, 0)
    assert first.done == 1
    assert str(first.waiting) == "b/0101010101010101/1 is not reached"
    assert batch[3].outside_id not in shelf.taken  # never past one that waits, on the same device
    shelf.away.clear()
    second = await take(flow, batch[1:], 0)
    assert (second.done, second.waiting) == (4, None)
    assert Counter(shelf.taken) == Counter(item.outside_id for item in batch)  # none twice
    assert (flow.counters.retries, flow.counters.repeated, flow.counters.delivered) == (1, 1, 5)


async def test_a_dead_letter_behind_the_first_undone_event_is_kept_for_its_turn() -> None:
    shelf = Shelf()
    flow = route(shelf)
    batch = [event("a", 1), event("b", 1)]
    shelf.away.add("a")
    shelf.refused.add(batch[1].id)
    first = await take(flow, batch, 0)
    assert (first.effects, first.done) == ([], 0)
    shelf.away.clear()
    shelf.refused.clear()
    second = await take(flow, batch, 0)
    assert second.done == 2
    assert [letter.reason for letter in second.effects] == ["rejected"]
    assert shelf.taken == [batch[0].outside_id]


async def test_what_is_not_settled_is_not_sent_again() -> None:
    shelf = Shelf()
    flow = route(shelf)
    for _ in range(2):  # the commit failed, or had no room for all of them
        await take(flow, [event("a", 1)], 0)
    assert len(shelf.taken) == 1


async def test_what_comes_again_after_it_was_settled_is_sent_again() -> None:
    shelf = Shelf()
    flow = route(shelf)
    for _ in range(2):
        await take(flow, [event("a", 1)], 0)
        flow.settled([event("a", 1)], Turn(0))
    assert len(shelf.taken) == 2


async def test_another_epoch_is_another_delivery() -> None:
    shelf = Shelf()
    flow = route(shelf)
    batch = [event("a", 1), event("b", 1)]
    shelf.away.add("a")
    await take(flow, batch, 0)
    shelf.away.clear()
    await take(flow, batch, 1)
    assert Counter(shelf.taken)[batch[1].outside_id] == 2


async def test_a_sandbox_out_of_reach_waits_and_costs_nothing() -> None:
    shelf, shaper = Shelf(), Shaper()
    flow = route(shelf, shaper)
    shaper.gone = True
    taken = await take(flow, [event("a", 1)], 0)
    assert (taken.done, str(taken.waiting)) == (0, "no executor is running")
    shaper.gone = False
    assert (await take(flow, [event("a", 1)], 0)).done == 1


async def test_deliveries_go_side_by_side_within_a_bound() -> None:
    shelf = Shelf()
    await take(route(shelf), [event(f"d{number}", 1) for number in range(50)], 0)
    assert shelf.most_in_the_air == PARALLEL
    assert len(shelf.taken) == 50


plans = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["ok", "none", "fail", "refuse"])), max_size=12)


@given(plans, st.lists(st.sets(st.integers(0, 11), max_size=4), max_size=4))
async def test_whatever_is_unreachable_and_when_each_event_is_settled_once_and_in_order(
    plan: list[tuple[str, str]], outages: list[set[int]]
) -> None:
    def shape(item: Event) -> Any:
        fate = plan[item.seq][1]
        if fate == "fail":
            raise ValueError("no")
        return None if fate == "none" else item.seq

    shelf = Shelf()
    flow = route(shelf, Shaper(shape), retries=0)
    events = [event(device, seq) for seq, (device, _) in enumerate(plan)]
    shelf.refused = {item.id for item in events if plan[item.seq][1] == "refuse"}
    letters: list[Any] = []
    at = 0
    for outage in [*outages, set()]:
        shelf.away = {item.id for item in events if item.seq in outage}
        taken = await take(flow, events[at:], 0)
        assert (taken.waiting is None) == (taken.done == len(events) - at)
        letters += taken.effects
        at += taken.done
    assert at == len(events)
    for device in "abc":
        sent = [item.outside_id for item in events if item.device == device and plan[item.seq][1] == "ok"]
        assert [found for found in shelf.taken if found.startswith(f"{device}/")] == sent
    assert [letter.event.seq for letter in letters] == [
        seq for seq, (_, fate) in enumerate(plan) if fate in ("fail", "refuse")
    ]


async def test_the_real_runtime_killed_in_mid_run_loses_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "received.jsonl"
    cloud = LocalCloud(CLOUD, "on_event", tmp_path, env={"CLOUD_JOURNAL": str(journal)})
    async with cloud:
        target = HttpCloudEventsTarget(cloud.url, "//edge/north", 5_000_000, SystemClock())
        flow = route(target)
        events = [event(f"gh-{seq % 5}", seq) for seq in range(300)]

        async def kill_after(count: int) -> None:
            while len(received(journal)) < count:
                await asyncio.sleep(0.001)
            await cloud.kill()

        killer = asyncio.create_task(kill_after(40))
        first = await take(flow, events, 0)
        await killer
        assert first.done < 300
        assert first.waiting is not None

        assert (await take(flow, events[first.done :], 0)).waiting is not None  # it is still away

        await cloud.start()
        last = await take(flow, events[first.done :], 0)
        assert (last.done, last.waiting) == (300 - first.done, None)

        # The gateway dies before the last batch's progress is stored: its successor repeats it, under the same ids.
        again = await take(route(target), events[first.done :], 0)
        assert again.done == 300 - first.done
        await target.aclose()

    counted = Counter(received(journal))
    assert set(counted) == {item.outside_id for item in events}
    assert all(counted[item.outside_id] >= 2 for item in events[first.done :])
    for device in range(5):
        order = [found for found in dict.fromkeys(received(journal)) if found.startswith(f"gh-{device}/")]
        assert order == [item.outside_id for item in events if item.device == f"gh-{device}"]


async def test_a_quiet_turn_sends_nothing() -> None:
    shelf = Shelf()
    taken = await route(shelf).take([event("a", 1), event("a", 2)], Turn(1, quiet=True))
    assert (len(taken.results), taken.waiting, shelf.taken) == (2, None, [])


async def test_what_the_target_refuses_for_good_is_not_tried_again() -> None:
    shelf = Shelf()
    item = event("a", 1)
    shelf.refused.add(item.id)
    (result,) = (await route(shelf).take([item], Turn(0))).results
    assert isinstance(result, Failed)
    assert not result.retry
