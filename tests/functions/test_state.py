"""What functions keep, as they see it: on the host with `edge.testing`, and in the sandbox."""

from __future__ import annotations

from typing import Any

import pytest
from edge import App, Context, Event
from edge.testing import FunctionFailed, Result, run

from edge_runtime.flows.ports import Given
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.journal.records import State
from tests.functions.conftest import app, deploy, event, failed, ok

local = App("local")


@local.on("count")
def count(event: Event, ctx: Context) -> None:
    ctx.state["n"] = ctx.state.get("n", 0) + event.data["by"]
    ctx.emit("total", ctx.state["n"])


@local.on("list", serial=True)
def history(event: Event, ctx: Context) -> None:
    ctx.state.setdefault("seen", []).append(event.data["n"])
    if event.data["n"] == 13:
        raise ValueError("bad luck")


@local.on("do")
def do(event: Event, ctx: Context) -> None:
    exec(event.data["code"], {"s": ctx.state, "ctx": ctx, "event": event})


@local.route("r", to="cloud")
def route(event: Event, ctx: Context) -> Any:
    return ctx.state


def done(code: str, **kw: Any) -> Result:
    return run(do, "do", {"code": code}, **kw)


def test_state_goes_from_one_run_to_the_next() -> None:
    first = run(count, "count", {"by": 2})
    assert first.state == {"n": 2}
    second = run(count, "count", {"by": 3}, state=first.state)
    assert (second.state, second.emitted[0].data) == ({"n": 5}, 5)


def test_what_is_changed_in_place_is_kept_and_a_failure_keeps_nothing() -> None:
    assert run(history, "list", {"n": 2}, state={"seen": [1]}).state == {"seen": [1, 2]}
    with pytest.raises(FunctionFailed, match="bad luck"):
        run(history, "list", {"n": 13}, state={"seen": [1]})


def test_it_is_a_dict() -> None:
    code = """
assert dict(s) == {"a": 1, "b": [2], "c": None} and len(s) == 3 and "a" in s and "x" not in s and 7 not in s
assert s.pop("a") == 1 and s.get("a", "gone") == "gone" and "a" not in s
s.update(d=4); s["e"] = {"f": 1.5}; s["e"]["g"] = True; del s["c"]
for name in ("c", "zzz"):
    try: s[name]
    except KeyError: pass
    else: raise AssertionError
    try: del s[name]
    except KeyError: pass
    else: raise AssertionError
s["a"] = 9; del s["a"]; s["c"] = 5
"""
    assert done(code, state={"a": 1, "b": [2], "c": None}).state == {
        "b": [2],
        "d": 4,
        "e": {"f": 1.5, "g": True},
        "c": 5,
    }
    assert done("s.clear()", state={"a": 1}).state == {}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("s['a'] = object()", "TypeError"),
        ("s['a'] = float('nan')", "ValueError"),
        ("s[''] = 1", "not the name of a state entry"),
        ("s[5] = 1", "not the name of a state entry"),
        ("s['x' * 129] = 1", "not the name of a state entry"),
        ("s.set('a', 1, ttl='5 parsecs')", "ttl='5 parsecs' is not a time"),
        ("s.set('a', 1, ttl=0)", "not between 0 and ten years"),
        ("s['a'] = []; s['a'].append(s['a'])", "nested"),
    ],
)
def test_what_cannot_be_kept_is_refused_where_it_is_written(code: str, words: str) -> None:
    with pytest.raises(FunctionFailed, match=words):
        done(code)


def test_state_has_a_limit() -> None:
    assert done("s['a'] = 'x' * 60_000").state["a"] == "x" * 60_000
    with pytest.raises(FunctionFailed, match="more than 64 KiB of state") as raised:
        done("s['b'] = 'x' * 10_000", state={"a": "x" * 60_000})
    assert raised.value.reason == "output"


def test_a_route_keeps_nothing() -> None:
    with pytest.raises(FunctionFailed, match="a route cannot keep state"):
        run(route, "r", {})


KEEPER = """
@app.on("climate")
def f(event, ctx):
    if event.data.get("fail"):
        ctx.state["n"] = "never"
        raise ValueError("no")
    ctx.state["n"] = ctx.state.get("n", 0) + 1
    ctx.emit("seen", ctx.state["n"])

@app.on("climate", serial=True)
def all_devices(event, ctx):
    ctx.state["devices"] = sorted({*ctx.state.get("devices", []), event.device})
    ctx.emit("seen", ctx.state["devices"])

@app.on("climate")
def brief(event, ctx):
    before = ctx.state.get("x")
    ctx.state.set("x", event.seq, ttl="1s")
    ctx.emit("seen", before)

@app.on("climate")
def big(event, ctx):
    ctx.state["x"] = "x" * 70_000
"""


def emitted(outcomes: Any) -> list[Any]:
    return [ok(outcome).effects[0].data for outcome in outcomes]  # type: ignore[union-attr]


async def test_in_the_sandbox_events_follow_each_other_over_pieces_of_a_batch(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app(KEEPER))
    batch = [event(seq=n, device=f"b{n % 2}") for n in range(600)]
    outcomes = await platform.invoke(ref("f"), batch, Given(states={"b1": {"n": ("100", 0)}}))
    assert emitted(outcomes[0::2]) == list(range(1, 301))
    assert emitted(outcomes[1::2]) == list(range(101, 401))
    assert ok(outcomes[-1]).state == {"n": ("400", 0)}


async def test_a_failure_leaves_the_state_of_those_behind_it_alone(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app(KEEPER))
    batch = [event(seq=1), event({"fail": True}, seq=2), event(seq=3)]
    outcomes = await platform.invoke(ref("f"), batch)
    assert failed(outcomes[1]).reason == "error"
    assert emitted([outcomes[0], outcomes[2]]) == [1, 2]


async def test_a_serial_function_sees_all_devices(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app(KEEPER))
    given = Given(serial=True, states={"": {"devices": ('["b0"]', 0)}})
    outcomes = await platform.invoke(ref("all_devices"), [event(device="b1"), event(device="b2")], given)
    assert emitted(outcomes) == [["b0", "b1"], ["b0", "b1", "b2"]]


async def test_what_has_expired_by_the_events_own_time_is_gone(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app(KEEPER))
    received = event().received
    alive: State = {"x": ("7", received + 1)}
    for state, seen in ((alive, 7), ({"x": ("7", received)}, None)):
        (outcome,) = await platform.invoke(ref("brief"), [event(seq=9)], Given(states={"b1": state}))
        assert emitted([outcome]) == [seen]
        assert ok(outcome).state == {"x": ("9", received + 1_000_000)}


async def test_too_much_state_is_a_failure_of_its_event(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app(KEEPER))
    (outcome,) = await platform.invoke(ref("big"), [event()])
    assert (failed(outcome).reason, failed(outcome).detail) == ("output", "more than 64 KiB of state")
