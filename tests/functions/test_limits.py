"""What a function does to hurt, and what becomes of it, in the real sandbox."""

from __future__ import annotations

import asyncio

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.flows.ports import Emit
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.platform import FunctionPlatform

from .conftest import Start, app, deploy, event, failed, ok

HARMFUL = {
    "spin": ("while True: pass", "timeout", "longer than 200 ms"),
    "regex": ("import re; re.match(r'(a+)+$', 'a' * 40 + 'b')", "timeout", "longer than 200 ms"),
    "power": ("10 ** 10 ** 8", "timeout", "longer than 200 ms"),
    "swallow": (
        "\n        while True:\n          try:\n            while True: pass\n          except BaseException: pass",
        "timeout",
        "",
    ),
    "hog": (
        "b = []\n        while True: b.append(bytearray(1 << 20))",
        "memory",
        "memory limit was reached <- greenhouse.py, line",
    ),
    "gigabyte": ("bytearray(1 << 30)", "memory", "memory limit"),
    "flood": ("\n        while True: print('x')", "output", "more than 100 log lines"),
    "long_line": ("\n        while True: print('x' * 1000, end='')", "output", "KiB of output"),
    "swallowed_flood": (
        "\n        try:\n            for _ in range(1000): print('x')\n        except BaseException: pass",
        "output",
        "more than 100 log lines",
    ),
    "many_effects": ("\n        for n in range(101): ctx.emit('x', n)", "output", "more than 100 commands"),
    "large_effect": ("ctx.emit('x', 'y' * 300_000)", "output", "more than 256 KiB"),
    "recursion": ("\n        def f(): return f()\n        f()", "error", "RecursionError"),
    "deep_repr": ("\n        x = []\n        for _ in range(10 ** 5): x = [x]\n        repr(x)", "crash", "too deep"),
    "raises": ("1 / 0", "error", "ZeroDivisionError: division by zero <- greenhouse.py, line"),
    "exit": ("raise SystemExit(3)", "error", "SystemExit: 3"),
    "os_exit": ("import os; os._exit(3)", "crash", "ended its interpreter"),
    "abort": ("import os; os.abort()", "crash", "the interpreter broke"),
    "sleep": ("import time; time.sleep(30)", "error", "cannot sleep"),
    "poll": ("import select\n        p = select.poll()\n        while True: p.poll(5000)", "timeout", ""),
    "other_device": ("ctx.command('b2', 'fan')", "error", "NotGranted: only the device that caused the event"),
    "bytes": ("ctx.emit('x', b'raw')", "error", "bytes cannot leave a function"),
    "not_a_number": ("ctx.emit('x', float('nan'))", "error", "ValueError"),
    "deep": (
        "\n        x = 1\n        for _ in range(17): x = [x]\n        ctx.emit('x', x)",
        "error",
        "deeper than 16",
    ),
    "big_int": ("ctx.emit('x', 1 << 64)", "error", "does not fit 64 bits"),
    "bad_name": ("ctx.emit('a b', 1)", "error", "not a kind of event"),
    "bad_expiry": ("ctx.command(event.device, 'fan', expires='soon')", "error", "'60s', '5m' or '2h'"),
    "bad_error": (
        "\n        class E(Exception):\n            def __str__(self): raise ValueError\n        raise E",
        "error",
        "cannot be described",
    ),
}


@pytest.mark.parametrize("name", HARMFUL)
async def test_harm_is_stopped_and_named(platform: FunctionPlatform, name: str) -> None:
    code, reason, says = HARMFUL[name]
    body = f"""
@app.on("climate")
def f(event, ctx):
    if event.seq == 4:
        {code}
    ctx.emit("fine", event.seq)
"""
    ref = await deploy(platform, app(body))
    outcomes = list(await platform.invoke(ref("f"), [event(seq=n) for n in range(1, 7)]))
    assert len(outcomes) == 6
    bad = failed(outcomes.pop(3))
    assert bad.reason == reason, bad
    assert says in bad.detail
    assert "/" not in bad.detail, "only the user's own file is named"
    assert [ok(o).effects for o in outcomes] == [[Emit("fine", n)] for n in (1, 2, 3, 5, 6)]
    assert platform.stats().restarts == 0, "the instance dies, the executor lives"


async def test_a_giant_return_value_is_refused(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app('@app.route("climate", to="x")\ndef f(e): return "x" * 300_000\n'))
    [outcome] = await platform.invoke(ref("f"), [event()])
    assert failed(outcome).reason == "output"


async def test_a_value_that_cannot_be_sent_is_said_to_be_so(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app('@app.route("climate", to="x")\ndef f(e): return {1, 2}\n'))
    [outcome] = await platform.invoke(ref("f"), [event()])
    assert "'f' returned something that cannot be sent: a value of type set" in failed(outcome).detail


async def test_the_deadline_is_for_each_event_not_for_the_batch(platform: FunctionPlatform) -> None:
    body = """
import time
@app.on("climate")
def f(event):
    end = time.monotonic() + 0.12
    while time.monotonic() < end: pass
"""
    ref = await deploy(platform, app(body))
    for outcome in await platform.invoke(ref("f"), [event(seq=n) for n in range(4)]):
        assert ok(outcome).micros >= 110_000


async def test_logs_before_a_failure_are_kept(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app('@app.on("climate")\ndef f(e):\n    print("about to")\n    1 / 0\n'))
    [outcome] = await platform.invoke(ref("f"), [event()])
    assert [line.text for line in failed(outcome).logs] == ["about to"]


async def test_a_neighbour_waits_no_longer_than_one_deadline(platform: FunctionPlatform) -> None:
    bad = await deploy(platform, app('@app.on("climate")\ndef f(e):\n    while True: pass\n', "bad"))
    good = await deploy(platform, app('@app.route("climate", to="x")\ndef f(e): return e.seq\n', "good"))
    spinning = asyncio.create_task(platform.invoke(bad("f"), [event(seq=n) for n in range(6)]))
    done = 0
    while not spinning.done():  # each neighbour's call gets its turn between two events of the spinner
        [outcome] = await platform.invoke(good("f"), [event(seq=9)])
        assert ok(outcome).value == 9
        done += 1
    assert [failed(o).reason for o in await spinning] == ["timeout"] * 6
    assert done >= 6


async def test_a_slow_batch_gives_way_between_events(platform: FunctionPlatform) -> None:
    slow_body = """
import time
@app.on("climate")
def f(event):
    end = time.monotonic() + 0.03
    while time.monotonic() < end: pass
"""
    slow = await deploy(platform, app(slow_body, "slow"))
    quick = await deploy(platform, app('@app.route("climate", to="x")\ndef f(e): return e.seq\n', "quick"))
    batch = asyncio.create_task(platform.invoke(slow("f"), [event(seq=n) for n in range(20)]))
    done = 0
    while not batch.done():
        await platform.invoke(quick("f"), [event()])
        done += 1
    assert len(await batch) == 20
    assert done >= 10


async def test_memory_of_one_app_is_not_given_to_the_next(start: Start) -> None:
    """A larger limit of one app does not stay with the instance stock."""
    platform = await start(stock=2)
    body = '@app.route("climate", to="x")\ndef f(e):\n    return len(bytearray(80 << 20))\n'
    large = await deploy(platform, app(body, "large"), limits=Limits(memory=160 << 20))
    small = await deploy(platform, app(body, "small"))
    [outcome] = await platform.invoke(large("f"), [event()])
    assert ok(outcome).value == 80 << 20
    [outcome] = await platform.invoke(small("f"), [event()])
    assert failed(outcome).reason == "memory"


@pytest.mark.parametrize("wrong", [{"time": 0}, {"memory": 1 << 20}, {"output": 1 << 30}, {"lines": -1}])
def test_limits_themselves_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be between"):
        Limits(**wrong)  # type: ignore[arg-type]


async def test_large_outcomes_are_given_back_bit_by_bit(platform: FunctionPlatform) -> None:
    """Of a batch with large effects the gateway takes only so much at a time; whoever asked goes on from there."""
    ref = await deploy(platform, app('@app.on("climate")\ndef f(event, ctx): ctx.emit("x", [1.5] * 60_000)\n'))
    batch = [event(seq=number) for number in range(128)]
    given: list[int] = []
    while sum(given) < len(batch):
        outcomes = await platform.invoke(ref("f"), batch[sum(given) :])
        assert outcomes
        assert {type(ok(outcome).effects[0]) for outcome in outcomes} == {Emit}
        given.append(len(outcomes))
    assert max(given) < 64
