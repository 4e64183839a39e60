from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import DeployError, NotFound
from edge_runtime.flows.ports import Emit, LogLine, Order, Outcome, Unavailable
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.manifest import FunctionRef, OnEvent, Route

from .conftest import Start, app, deploy, event, failed, ok

GREENHOUSE = Path(__file__).parents[2] / "examples/greenhouse/greenhouse.py"


async def test_the_example_runs(platform: FunctionPlatform) -> None:
    checked = await platform.check(GREENHOUSE)
    assert checked.manifest.app == "greenhouse"
    assert checked.manifest.triggers == [
        OnEvent("overheat", "climate", "temperature > 30"),
        OnEvent("cooled", "climate", "temperature < 24"),
        Route("shape", "climate", to="cloud"),
    ]
    assert checked.cold_start_us > 0
    await platform.store(checked)
    assert await platform.load("greenhouse", checked.version) == checked.manifest
    hot = event({"temperature": 31.5})
    [outcome] = await platform.invoke(FunctionRef("greenhouse", checked.version, "overheat"), [hot])
    assert ok(outcome).effects == [Order("b1", "fan", {"on": True}, 60_000_000)]
    assert outcome.micros > 0
    [outcome] = await platform.invoke(FunctionRef("greenhouse", checked.version, "shape"), [hot])
    assert ok(outcome).value == {"site": "greenhouse", "temperature": 31.5}


async def test_a_function_sees_the_whole_event(platform: FunctionPlatform) -> None:
    ref = await deploy(
        platform,
        app(
            '@app.route("climate", to="x")\ndef f(e):\n'
            "    return [e.device, e.kind, e.time, e.data, e.id, e.seq, e.boot, e.received]\n"
        ),
    )
    happened = event({"raw": b"\x00\xff", "nan": float("nan"), "text": "ü\u2028"}, seq=7)
    [outcome] = await platform.invoke(ref("f"), [happened])
    data = {"raw": "AP8=", "nan": None, "text": "ü\u2028"}
    boot = b"bootboot".hex()
    assert ok(outcome).value == ["b1", "climate", 1_000_000, data, f"b1/{boot}/7", 7, boot, 2_000_000]


async def test_effects_logs_and_prints_come_out_in_order(platform: FunctionPlatform) -> None:
    body = """
import sys
@app.on("climate")
def f(event, ctx):
    print("one", event.seq)
    ctx.emit("summary", {"n": event.seq})
    ctx.log("two", level="warning")
    print("three", file=sys.stderr)
    ctx.command(event.device, "fan", [1, 2.5, None, True], expires="5m", key="fan")
    print("four", end="")
"""
    ref = await deploy(platform, app(body))
    [outcome] = await platform.invoke(ref("f"), [event()])
    success = ok(outcome)
    assert success.effects == [Emit("summary", {"n": 1}), Order("b1", "fan", [1, 2.5, None, True], 300_000_000, "fan")]
    lines = [("info", "one 1"), ("warning", "two"), ("warning", "three"), ("info", "four")]
    assert success.logs == [LogLine(*line) for line in lines]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def f(:\n    pass\n", r"bad.py, line 1: invalid syntax"),
        ("import edge\n\nx = 1 / 0\n", r"bad.py, line 3: ZeroDivisionError: division by zero"),
        ("import numpy\n", r"bad.py, line 1: ModuleNotFoundError: No module named 'numpy'"),
        ("x = 1\n", r"bad.py: no App found"),
        ("from edge import App\na = App('a')\n", r"bad.py: the app 'a' has no functions"),
        ("from edge import App\na = App('a')\nb = App('b')\n", r"bad.py: 2 apps in one file \('a', 'b'\)"),
        (
            "from edge import App\na = App('a')\n@a.om('k')\ndef f(e): pass\n",
            r"bad.py, line 3: .*did you mean '@app.on'",
        ),
        ("from edge import App\na = App('a b')\n", r"bad.py, line 2: App\('a b'\): a name is"),
        ("from edge import App\na = App('a')\n@a.on('k')\nasync def f(e): pass\n", r"bad.py, line \d: .*plain 'def'"),
        ("from edge import App\na = App('a')\n@a.on('k')\ndef f(): pass\n", r"bad.py, line \d: .*\(event\)"),
        (
            "from edge import App\na = App('a')\n@a.on('k')\ndef f(e): pass\n@a.on('k')\ndef f(e): pass\n",
            r"line \d: 'f' has a trigger already",
        ),
        ("from edge import App\na = App('a')\n@a.on('k', start='now')\ndef f(e): pass\n", r"'latest' nor 'earliest'"),
        ("while True: pass\n", r"bad.py: loading it took more than 300 ms"),
        ("import os\nos._exit(0)\n", r"bad.py: the function ended its interpreter"),
        ("raise SystemExit(1)\n", r"bad.py, line 1: SystemExit: 1"),
        ("x = bytearray(1 << 30)\n", r"bad.py, line 1: MemoryError"),
    ],
)
async def test_what_is_wrong_with_an_app_is_said_with_file_and_line(start: Start, source: str, says: str) -> None:
    platform = await start(limits=Limits(load_time=300_000))
    with pytest.raises(DeployError, match=says):
        await platform.check({"bad.py": source.encode()})
    await platform.check(app('@app.on("k")\ndef f(e): pass\n'))  # and the sandbox goes on


async def test_a_missing_package_is_explained(platform: FunctionPlatform) -> None:
    with pytest.raises(DeployError) as raised:
        await platform.check({"bad.py": b"import numpy\n"})
    assert "standard library" in raised.value.hint


@pytest.mark.parametrize(
    ("files", "says"),
    [({}, "without files"), ({"../a.py": b""}, "outside the app"), ({"a.py": b"x = 1\n\xff"}, "line 2: not UTF-8")],
)
async def test_files_that_cannot_be_an_app_are_refused(
    platform: FunctionPlatform, files: dict[str, bytes], says: str
) -> None:
    with pytest.raises(DeployError, match=says):
        await platform.check(files)


async def test_versions_name_their_content(platform: FunctionPlatform) -> None:
    one = await platform.check(app('@app.on("k")\ndef f(e): pass\n'))
    same = await platform.check(app('@app.on("k")\ndef f(e): pass\n'))
    other = await platform.check(app('@app.on("k")\ndef f(e): return 1\n'))
    limited = await platform.check(app('@app.on("k")\ndef f(e): pass\n'), Limits(time=100_000))
    assert one.version == same.version
    assert len({one.version, other.version, limited.version}) == 3
    with pytest.raises(NotFound, match="no version"):
        await platform.load("greenhouse", one.version)  # checked, not stored
    with pytest.raises(NotFound, match="no version"):
        await platform.load("../greenhouse", one.version)


async def test_a_stored_version_loads_in_another_platform(start: Start) -> None:
    first = await start()
    checked = await first.check(app('@app.route("climate", to="x")\ndef f(e): return e.seq\n'))
    await first.store(checked)
    await first.store(checked)  # again is nothing
    await first.stop()
    second = await start()
    await second.load("greenhouse", checked.version)
    [outcome] = await second.invoke(FunctionRef("greenhouse", checked.version, "f"), [event(seq=3)])
    assert ok(outcome).value == 3


async def test_two_versions_live_side_by_side_until_one_is_unloaded(platform: FunctionPlatform) -> None:
    old = await deploy(platform, app('@app.route("climate", to="x")\ndef f(e): return "old"\n'))
    new = await deploy(platform, app('@app.route("climate", to="x")\ndef f(e): return "new"\n'))
    assert [ok(o).value for o in await platform.invoke(old("f"), [event()])] == ["old"]
    assert [ok(o).value for o in await platform.invoke(new("f"), [event()])] == ["new"]
    await platform.unload("greenhouse", old("f").version)
    with pytest.raises(Unavailable, match="not loaded"):
        await platform.invoke(old("f"), [event()])
    assert [ok(o).value for o in await platform.invoke(new("f"), [event()])] == ["new"]


async def test_an_unknown_function_fails_the_event(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app('@app.on("k")\ndef f(e): pass\n'))
    [outcome] = await platform.invoke(ref("g"), [event()])
    assert failed(outcome).detail == "the app has no function 'g'"


async def test_a_large_batch_has_one_outcome_for_each_event_in_order(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app('@app.route("climate", to="x")\ndef f(e): return e.seq\n'))
    outcomes = await platform.invoke(ref("f"), [event(seq=n) for n in range(1500)])
    assert [ok(o).value for o in outcomes] == list(range(1500))
    assert await platform.invoke(ref("f"), []) == []


async def test_data_that_json_cannot_hold_fails_its_event_only(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app('@app.route("climate", to="x")\ndef f(e): return e.seq\n'))
    odd = event({"x": object()}, seq=2)
    outcomes = await platform.invoke(ref("f"), [event(seq=1), odd, event(seq=3)])
    assert ok(outcomes[0]).value == 1
    assert "cannot be handed to a function" in failed(outcomes[1]).detail
    assert ok(outcomes[2]).value == 3


async def test_large_outcomes_come_in_pieces(platform: FunctionPlatform) -> None:
    """A batch whose outcomes fill more than one frame may hold is as good as any other."""
    ref = await deploy(platform, app('@app.route("climate", to="x")\ndef f(e): return "x" * 250_000\n'))
    outcomes: list[Outcome] = []
    while len(outcomes) < 300:
        more = await platform.invoke(ref("f"), [event(seq=n) for n in range(len(outcomes), 300)])
        outcomes += more
        # More than one frame holds (but for the rest at the end), and not more than the gateway has room for.
        assert 4 < len(more) < 100 or len(outcomes) == 300
    assert [len(ok(outcome).value) for outcome in outcomes] == [250_000] * 300
    assert platform.stats().restarts == 0


async def test_statistics_and_report(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app('@app.on("climate")\ndef f(e): 1 / (e.seq - 2)\n'))
    await platform.invoke(ref("f"), [event(seq=n) for n in (1, 2, 3)])
    stats = platform.stats()
    assert (stats.calls, stats.failures, stats.restarts) == (3, {"error": 1}, 0)
    assert len(stats.cold_starts) == 1
    assert 0 < stats.sandbox_p50 <= stats.sandbox_p99
    assert 0 < stats.invoke_p50 <= stats.invoke_p99
    report = platform.report()
    [executor] = report.executors
    assert executor.jail is not None
    assert executor.jail.seccomp
    assert executor.jail.no_new_privileges
    assert executor.jail.uid != 0
    assert (executor.apps, executor.restarts, executor.problem) == (1, 0, "")
    assert Path(report.compiled).exists()


async def test_apps_are_spread_over_executors(start: Start) -> None:
    platform = await start(executors=2)
    for name in ("a", "b", "c", "d"):
        await deploy(platform, app('@app.on("k")\ndef f(e): pass\n', name))
    assert [executor.apps for executor in platform.report().executors] == [2, 2]


async def test_after_the_stop_nothing_runs(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app('@app.on("k")\ndef f(e): pass\n'))
    await platform.stop()
    with pytest.raises(Unavailable):
        await platform.invoke(ref("f"), [event()])
