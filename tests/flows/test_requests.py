"""Requests of functions: sent once, answered by running again, in order per device, withheld while catching up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from urllib.parse import quote, quote_plus

import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.events import Event
from edge_runtime.flows import reach as reach_module
from edge_runtime.flows.flow import Done, Failed, Turn
from edge_runtime.flows.function import FunctionFlow
from edge_runtime.flows.metrics import Metrics
from edge_runtime.flows.ports import (
    NOTHING,
    Failure,
    Given,
    HttpAnswer,
    HttpRequest,
    LogLine,
    Outcome,
    Success,
    Unanswered,
    Unavailable,
)
from edge_runtime.flows.reach import Reach
from edge_runtime.grants import Grants
from edge_runtime.manifest import FunctionRef, OnEvent
from tests.flows.conftest import event

URL = "http://host/"


class Asking:
    """An invoker whose function makes `requests[seq]` requests, then counts itself in its state and succeeds."""

    def __init__(self) -> None:
        self.requests: dict[int, int] = {}
        self.method = "POST"
        self.fails: set[int] = set()
        self.away_after = 10**6
        self.calls: list[tuple[int, int]] = []
        self.url = URL

    async def invoke(self, function: FunctionRef, events: Sequence[Event], given: Given = NOTHING) -> Sequence[Outcome]:
        if len(self.calls) >= self.away_after:
            raise Unavailable("no executor")
        states = {key: dict(state) for key, state in given.states.items()}
        return [self._run(item, given, states) for item in events]

    def _run(self, item: Event, given: Given, states: dict[str, dict[str, tuple[str, int]]]) -> Outcome:
        answers = given.answers.get(item.id, [])
        self.calls.append((item.seq, len(answers)))
        if len(answers) < self.requests.get(item.seq, 0):
            return Unanswered(HttpRequest(self.method, f"{self.url}{item.seq}/{len(answers)}", {}, b"", 1))
        if item.seq in self.fails:
            return Failure("error", f"it knows {given.secrets.get('key', 'nothing')}")
        if any(answer.error for answer in answers):
            return Failure("error", f"HttpError: {answers[-1].error}")
        state = states.setdefault(given.key(item), {})
        state["n"] = (str(int(state.get("n", ("0", 0))[0]) + 1), 0)
        logs = [LogLine("info", f"the key is {given.secrets['key']}")] if given.secrets else []
        return Success(state={"n": state["n"]}, logs=logs, metrics=[("calls", float(len(answers)))])


class Host:
    """A fetcher that answers everything, and remembers it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.slow = False
        self.busy = self.most = 0

    async def fetch(self, request: HttpRequest, idempotency_key: str) -> HttpAnswer:
        self.sent.append((request.url, idempotency_key))
        self.busy += 1
        self.most = max(self.most, self.busy)
        await asyncio.sleep(0)
        self.busy -= 1
        return HttpAnswer(request.method, request.url, 200)


class Bench:
    def __init__(self, grants: Sequence[str] = ("http:http://host", "secret:key")) -> None:
        self.asking, self.host, self.metrics = Asking(), Host(), Metrics()
        reach = Reach(Grants.of(grants), {"key": "s3cret"}.get, self.host, self.metrics)
        trigger = OnEvent("f", "climate")
        self.flow = FunctionFlow(
            "app",
            "v1",
            trigger,
            matches=lambda data: True,
            invoker=self.asking,
            clock=ManualClock(5_000),
            reach=reach,
        )

    async def take(self, events: Sequence[Event], turn: Turn = Turn(0)) -> tuple[list[Done | Failed], bool]:  # noqa: B008
        taken = await self.flow.take(events, turn)
        return taken.results, taken.waiting is not None


def counts(results: Sequence[Done | Failed]) -> list[str]:
    return [r.effects[0].entries["n"][0] if isinstance(r, Done) and r.effects else "-" for r in results]  # type: ignore[union-attr,index]


async def test_a_function_is_run_again_with_each_answer() -> None:
    bench = Bench()
    bench.asking.requests = {1: 2}
    results, _ = await bench.take([event(1)])
    assert counts(results) == ["1"]
    assert bench.asking.calls == [(1, 0), (1, 0), (1, 1), (1, 2)]
    assert [url for url, _ in bench.host.sent] == [f"{URL}1/0", f"{URL}1/1"]
    assert len({key for _, key in bench.host.sent}) == 2


async def test_those_behind_it_on_its_device_wait_and_see_its_state() -> None:
    bench = Bench()
    bench.asking.requests = {2: 1}
    batch = [event(1), event(2), event(3), event(4, "gh-2"), event(5)]
    results, waiting = await bench.take(batch)
    assert not waiting
    assert counts(results) == ["1", "2", "3", "1", "4"]
    assert len(bench.host.sent) == 1


async def test_devices_wait_side_by_side_within_bounds() -> None:
    bench = Bench()
    batch = [event(n, f"gh-{n}") for n in range(40)]
    bench.asking.requests = dict.fromkeys(range(40), 1)
    results, _ = await bench.take(batch)
    assert counts(results) == ["1"] * 40
    assert 1 < bench.host.most <= 8


async def test_a_repeat_of_the_same_turn_does_not_send_again_until_it_is_settled() -> None:
    bench = Bench()
    bench.asking.requests = {1: 1}
    for _ in range(2):
        await bench.take([event(1)])
    assert len(bench.host.sent) == 1
    bench.flow.settled([event(1)], Turn(0))
    await bench.take([event(1)], Turn(1))
    assert len(bench.host.sent) == 2
    assert len({key for _, key in bench.host.sent}) == 1  # in another epoch too: the receiver knows it by its key


async def test_after_a_failure_it_is_asked_anew_and_nothing_behind_it_is() -> None:
    bench = Bench()
    bench.asking.requests = {1: 1, 2: 1}
    bench.asking.fails = {1}
    results, waiting = await bench.take([event(1), event(2), event(3, "gh-2")])
    assert isinstance(results[0], Failed)
    assert len(results) == 1
    assert not waiting
    assert [url for url, _ in bench.host.sent] == [f"{URL}1/0"]
    bench.asking.fails = set()
    results, _ = await bench.take([event(1), event(2), event(3, "gh-2")])
    assert counts(results) == ["1", "2", "1"]
    assert [url for url, _ in bench.host.sent] == [f"{URL}1/0", f"{URL}1/0", f"{URL}2/0"]


async def test_a_sandbox_that_goes_away_in_between_costs_no_second_request() -> None:
    bench = Bench()
    bench.asking.requests = {2: 1}
    bench.asking.away_after = 3
    results, waiting = await bench.take([event(1), event(2)])
    assert (counts(results), waiting) == (["1"], True)
    bench.asking.away_after = 10**6
    results, waiting = await bench.take([event(2)])
    assert len(bench.host.sent) == 1
    assert not waiting


@pytest.mark.parametrize(("method", "sent"), [("POST", 0), ("GET", 1)])
async def test_while_it_catches_up_it_only_reads(method: str, sent: int) -> None:
    bench = Bench()
    bench.asking.requests, bench.asking.method = {1: 1}, method
    results, _ = await bench.take([event(1)], Turn(1, quiet=True))
    assert len(bench.host.sent) == sent
    # What was withheld is no failure of the event: it is dealt with, and has done nothing.
    assert [type(result) for result in results] == [Done]
    assert counts(results) == (["1"] if sent else ["-"])


async def test_a_dry_run_sends_nothing() -> None:
    bench = Bench()
    bench.asking.requests, bench.asking.method = {1: 1}, "GET"
    results, _ = await bench.take([event(1)], Turn(1, quiet=True, dry=True))
    assert (bench.host.sent, counts(results)) == ([], ["-"])


async def test_what_a_dry_run_was_told_the_live_run_does_not_hear() -> None:
    bench = Bench()
    bench.asking.requests = {1: 1}
    await bench.take([event(1)], Turn(0, quiet=True, dry=True))
    results, _ = await bench.take([event(1)])
    assert (counts(results), len(bench.host.sent)) == (["1"], 1)
    await bench.take([event(1)], Turn(0, quiet=True, dry=True))
    await bench.take([event(1)])
    assert len(bench.host.sent) == 1  # nor does it take away what the live one knows


async def test_a_guest_that_asks_for_ever_is_stopped() -> None:
    bench = Bench()
    calls = 0

    async def invoke(function: FunctionRef, events: Sequence[Event], given: Given = NOTHING) -> Sequence[Outcome]:
        nonlocal calls
        calls += 1
        return [Unanswered(HttpRequest("POST", URL, {}, b"", 1)) for _ in events]

    bench.asking.invoke = invoke  # type: ignore[method-assign]
    ([result], _) = await bench.take([event(1)])
    assert isinstance(result, Failed)
    assert result.letter.detail == "it makes requests without end"
    assert calls < 2 * reach_module.MAX_REQUESTS


async def test_large_answers_are_taken_bit_by_bit() -> None:
    bench = Bench()
    most = 0

    async def fetch(request: HttpRequest, idempotency_key: str) -> HttpAnswer:
        nonlocal most
        most = max(most, bench.flow._requests._bytes)
        return HttpAnswer(request.method, request.url, 200, body=bytes(1 << 20))

    bench.host.fetch = fetch  # type: ignore[method-assign]
    bench.asking.requests = dict.fromkeys(range(64), 1)
    rest = [event(number, f"d{number % 16}") for number in range(64)]
    done: list[int] = []
    while rest:
        results, _ = await bench.take(rest)
        assert results, "at least the first comes to an end"
        bench.flow.settled(rest[: len(results)], Turn(0))
        done += [item.seq for item in rest[: len(results)]]
        rest = rest[len(results) :]
    assert done == list(range(64))
    assert most < 24 << 20
    assert bench.flow._requests._bytes == 0


async def test_a_host_that_was_not_granted_is_not_asked() -> None:
    bench = Bench(["http:http://another"])
    bench.asking.requests = {1: 1}
    ([result], _) = await bench.take([event(1)])
    assert isinstance(result, Failed)
    assert "this host was not granted" in result.letter.detail
    assert bench.host.sent == []


async def test_requests_without_end_end() -> None:
    bench = Bench()
    bench.asking.requests = {1: 50}
    ([result], _) = await bench.take([event(1)])
    assert isinstance(result, Failed)
    assert len(bench.host.sent) == reach_module.MAX_REQUESTS


async def test_secrets_are_masked_in_logs_and_letters(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    with caplog.at_level("INFO", logger="edge.app"):
        await bench.take([event(1)])
        bench.asking.fails = {2}
        ([result], _) = await bench.take([event(2)])
    assert isinstance(result, Failed)
    assert result.letter.detail == "it knows <secret key>"
    assert "the key is <secret key>" in caplog.messages
    assert "s3cret" not in caplog.text


async def test_metrics_count_once_they_are_settled() -> None:
    bench = Bench()
    bench.asking.requests = {2: 1}
    batch = [event(1), event(2)]
    for _ in range(2):
        await bench.take(batch)
    assert bench.metrics.of("app") == {}
    bench.flow.settled(batch, Turn(0))
    bench.flow.settled(batch, Turn(0))
    metric = bench.metrics.of("app")["calls"]
    assert (metric.count, metric.sum, metric.last, metric.least, metric.greatest) == (2, 1.0, 1.0, 0.0, 1.0)


async def test_a_flood_of_log_lines_is_cut_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    clock = bench.flow._clock
    assert isinstance(clock, ManualClock)
    with caplog.at_level("INFO", logger="edge.app"):
        for n in range(500):
            await bench.take([event(n)])
        assert len(caplog.messages) == 200
        clock.advance(1_000_000)
        await bench.take([event(500)])
    assert "300 lines were left out: more than 50 a second" in caplog.messages


@pytest.mark.parametrize("secret", ['it\'s "quoted"\n', "a/b c&d=ü%"])
async def test_a_secret_is_masked_in_whatever_form_it_is_shown(secret: str) -> None:
    reach = Reach(Grants.of(["secret:key"]), {"key": secret}.get)
    for shown in (
        f"{secret}",
        f"{KeyError(secret)}",
        json.dumps({"k": secret}),
        quote(secret, safe=""),
        quote_plus(secret),
    ):
        assert reach.masked(f"before {shown} after").startswith("before "), shown
        assert "<secret key>" in reach.masked(shown), shown


async def test_what_an_epoch_that_is_over_was_told_is_forgotten() -> None:
    bench = Bench()
    bench.asking.requests = {1: 1, 2: 1}
    await bench.take([event(1)], Turn(0))
    assert bench.flow._requests._bytes > 0
    before = bench.flow._requests._bytes
    await bench.take([event(2)], Turn(1))
    assert bench.flow._requests._bytes == before
    bench.flow.settled([event(2)], Turn(1))
    assert bench.flow._requests._bytes == 0
