"""The native tier does what the sandbox does, with what is installed besides."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.errors import DeployError, EdgeError
from edge_runtime.flows.ports import Emit, Given, HttpAnswer, LogLine, Order, Outcome, Unanswered
from edge_runtime.functions.limits import MIB, Limits
from edge_runtime.functions.native import native_guest
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.functions.sandbox.native import library
from edge_runtime.functions.sandbox.native.worker import fate
from edge_runtime.functions.sandbox.spawn import python

from .conftest import Start, app, deploy, event, failed, ok
from .native_attempts import state_of

NATIVE = Limits(time=200_000, tier="native")
NUMPY = Limits(time=400_000, tier="native", preload=("numpy",), memory=96 * MIB)


@pytest.fixture
async def native(start: Start) -> FunctionPlatform:
    """A platform whose apps are of the native tier unless they say otherwise."""
    return await start(limits=NATIVE, stock=0)


EVERYTHING = """
import math, random, time
calls = 0
@app.on("climate", where="n > 0", serial=False)
def effects(event, ctx):
    global calls
    calls += 1
    ctx.command(event.device, "fan", {"on": True}, expires="5m", key="fan")
    ctx.emit("seen", {"n": event.data["n"], "pi": round(math.pi, 3), "none": None})
    ctx.log("call", calls, level="warning")
    print("printed")
@app.on("climate")
def counting(event, ctx):
    ctx.state["n"] = ctx.state.get("n", 0) + 1
    ctx.emit("count", ctx.state["n"])
@app.route("climate", to="cloud")
def shaped(event): return {"device": event.device, **event.data}
@app.on("climate")
def failing(event): raise ValueError("no " + event.kind)
@app.on("climate")
def sleeping(event): time.sleep(1)
@app.on("climate")
def greedy(event, ctx): ctx.command("b2", "fan")
"""


async def test_the_same_app_does_the_same_in_both_tiers(start: Start) -> None:
    sandbox = await start(limits=Limits(time=200_000))
    native = await start(limits=NATIVE)
    said: list[Any] = []
    for platform in (sandbox, native):
        checked = await platform.check(app(EVERYTHING))
        ref = await deploy(platform, app(EVERYTHING))
        outcomes = {
            name: await platform.invoke(ref(name), [event(seq=n) for n in (1, 2, 3)], Given(states={}))
            for name in ("effects", "counting", "shaped", "failing", "sleeping", "greedy")
        }
        for outcome in (outcome for each in outcomes.values() for outcome in each):
            msgspec.structs.force_setattr(outcome, "micros", 0)
        said.append((checked.manifest, outcomes))
    assert said[0] == said[1]
    assert ok(said[1][1]["effects"][2]).logs == [LogLine("warning", "call 3"), LogLine("info", "printed")]
    assert isinstance(ok(said[1][1]["effects"][0]).effects[0], Order)
    assert ok(said[1][1]["counting"][2]).effects == [Emit("count", 3)]


GRANTED = b"""
from edge import App, NotGranted
import helper
app = App("granted", grants=["files", "secret:key", "http:api.example.com", "command:b2"])
@app.on("climate")
def reads(event, ctx):
    ctx.emit("read", [ctx.files.json("table.json")["a"], ctx.secret("key"), helper.TWO])
    ctx.metric("reads", 2)
@app.on("climate")
def asks(event, ctx):
    ctx.emit("answer", ctx.http.get("https://api.example.com/x").json())
@app.on("climate")
def commands(event, ctx): ctx.command("b2", "fan")
@app.on("climate")
def oversteps(event, ctx):
    try: ctx.secret("other")
    except NotGranted: ctx.log("refused")
"""


async def test_grants_are_the_same_in_both_tiers(start: Start) -> None:
    files = {"main.py": GRANTED, "helper.py": b"TWO = 2\n", "table.json": b'{"a": 1}'}
    said = []
    for limits in (Limits(time=200_000), NATIVE):
        platform = await start(limits=limits)
        ref = await deploy(platform, files)
        answer = HttpAnswer("GET", "https://api.example.com/x", 200, {}, b'{"b": 3}')
        given = Given(secrets={"key": "hush"})
        outcomes = [
            *[
                (await platform.invoke(ref(name), [event()], given))[0]
                for name in ("reads", "asks", "commands", "oversteps")
            ],
            *await platform.invoke(ref("asks"), [event()], Given(answers={event().id: [answer]})),
        ]
        for outcome in outcomes:
            msgspec.structs.force_setattr(outcome, "micros", 0)
        said.append(outcomes)
    assert said[0] == said[1]
    assert ok(said[1][0]).effects == [Emit("read", [1, "hush", 2])]
    assert isinstance(said[1][1], Unanswered)
    assert ok(said[1][3]).refused == ["secret:other"]
    assert ok(said[1][4]).effects == [Emit("answer", {"b": 3})]


async def test_numpy_does_its_work(native: FunctionPlatform) -> None:
    pytest.importorskip("numpy")
    body = """
import numpy as np
@app.route("climate", to="x")
def f(event):
    a = np.asarray(event.data["a"], dtype=float)
    spectrum = np.abs(np.fft.rfft(a))
    solved = np.linalg.solve(np.array([[2.0, 0.0], [0.0, 4.0]]), np.array([1.0, 1.0]))
    return [float(a.mean()), int(spectrum.argmax()), solved.tolist(), float(np.polynomial.Polynomial([1, 2])(2.0))]
@app.route("climate", to="x")
def dice(event): return [np.random.rand(), np.random.default_rng().random()]
@app.on("climate")
def hog(event): np.ones((20_000, 20_000))
@app.on("climate")
def busy(event):
    a = np.random.rand(700, 700)
    while True: a @ a
"""
    refs = [await deploy(native, app(body, name), limits=NUMPY) for name in ("one", "two")]
    [outcome] = await native.invoke(refs[0]("f"), [event({"a": [0, 1, 0, -1] * 4})])
    assert ok(outcome).value == [0.0, 4, [0.5, 0.25], 5.0]
    drawn = [x for ref in refs for [o] in [await native.invoke(ref("dice"), [event()])] for x in ok(o).value]
    assert len(set(drawn)) == 4, "what is forked from one interpreter does not draw the same numbers"
    [outcome] = await native.invoke(refs[0]("hog"), [event()])
    assert failed(outcome).reason == "memory"
    [outcome] = await native.invoke(refs[0]("busy"), [event()])
    assert failed(outcome).reason == "timeout", "a C extension, which no exception can stop"
    [outcome] = await native.invoke(refs[0]("f"), [event({"a": [1, 1]})])
    assert ok(outcome).value[0] == 1.0


LATE = {
    "datetime": "__import__('datetime').datetime.strptime('2026-02-03', '%Y-%m-%d').day == 3",
    "codec": "'ß'.encode('cp437') and 'é'.encode('idna')",
    "xml": "__import__('xml.etree.ElementTree').etree.ElementTree.fromstring('<a>x</a>').text == 'x'",
    "email": "__import__('email.message').message.EmailMessage() is not None",
    "decimal": "str(__import__('decimal').Decimal(1) / 8) == '0.125'",
    "configparser": "__import__('configparser').ConfigParser() is not None",
    "ipaddress": "__import__('ipaddress').ip_address('10.0.0.1').is_private",
    "tomllib": "__import__('tomllib').loads('a = 1') == {'a': 1}",
    "asyncio": "__import__('asyncio') is not None",
    "unittest": "__import__('unittest.mock').mock.Mock()() is not None",
    "unicodedata": "__import__('unicodedata').name('a') == 'LATIN SMALL LETTER A'",
    "lzma": "__import__('bz2').decompress(__import__('bz2').compress(b'a')) == b'a'",
    "resource": "__import__('importlib.resources') is not None",
}


async def test_the_standard_library_can_be_imported_when_there_are_no_files(native: FunctionPlatform) -> None:
    body = "".join(
        f"@app.route('climate', to='x')\ndef {name}_(e): return bool({code})\n" for name, code in LATE.items()
    )
    ref = await deploy(native, app(body))
    outcomes = {name: (await native.invoke(ref(name + "_"), [event()]))[0] for name in LATE}
    assert {name: getattr(outcome, "value", outcome) for name, outcome in outcomes.items()} == dict.fromkeys(LATE, True)


async def test_the_memory_limit_is_what_the_app_may_have_beyond_its_interpreter(native: FunctionPlatform) -> None:
    ref = await deploy(native, app('@app.route("climate", to="x")\ndef f(e): return len(bytearray(e.data << 20))\n'))
    limit = NATIVE.memory // MIB
    for size, fits in ((limit - 8, True), (limit + 1, False), (limit - 8, True)):
        [outcome] = await native.invoke(ref("f"), [event(size)])
        assert ok(outcome).value == size << 20 if fits else failed(outcome).reason == "memory"


async def test_what_is_not_listed_cannot_be_imported(native: FunctionPlatform) -> None:
    with pytest.raises(
        DeployError, match=r"greenhouse.py, line 3: ModuleNotFoundError: No module named 'msgspec'"
    ) as told:
        await native.check(app("import msgspec\n@app.on('climate')\ndef f(e): pass\n"))
    assert "'preload'" in told.value.hint


async def test_what_the_gateway_uses_itself_can_be_listed_like_anything_else(native: FunctionPlatform) -> None:
    body = "import msgspec\n@app.route('climate', to='x')\ndef f(e): return msgspec.json.encode([1]).decode()\n"
    ref = await deploy(native, app(body), limits=Limits(tier="native", preload=("msgspec",)))
    [outcome] = await native.invoke(ref("f"), [event()])
    assert ok(outcome).value == "[1]"


HARM_AT_LOAD = {
    "while True: pass": r"greenhouse.py: loading it took more than 300 ms",
    "import os; os._exit(3)": r"ended its interpreter \(exit status 3\)",
    "import ctypes; ctypes.string_at(0)": r"memory that it does not have",
    "x = bytearray(1 << 30)": r"greenhouse.py, line 3: MemoryError",
    "import os; os.fork()": r"line 3: PermissionError",
    "import os; os.write(3, b'\\xff' * 4)": r"KiB of output",
    "import os; os.write(3, b'\\0\\0\\0\\5+null')": r"description of itself is malformed",
    "def f(: pass": r"line 3: invalid syntax",
}


@pytest.mark.parametrize("code", HARM_AT_LOAD)
async def test_harm_while_it_is_loaded_refuses_the_app(native: FunctionPlatform, code: str) -> None:
    limits = msgspec.structs.replace(NATIVE, load_time=300_000)
    with pytest.raises(DeployError, match=HARM_AT_LOAD[code]):
        await native.check(app(code + "\n@app.on('climate')\ndef f(e): pass\n"), limits)
    assert native.stats().restarts == 0


async def test_a_listed_module_that_is_not_there_is_named(native: FunctionPlatform) -> None:
    limits = Limits(tier="native", preload=("no_such_module",))
    with pytest.raises(
        EdgeError, match=r"'no_such_module' of 'preload' in edge.toml cannot be imported: ModuleNotFound"
    ):
        await native.check(app("@app.on('climate')\ndef f(e): pass\n"), limits)


def test_a_module_that_starts_threads_is_refused(tmp_path: Path) -> None:
    (tmp_path / "threading_itself.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    code = f"""
from edge_runtime.functions.sandbox.native import library
try: library.preload(["threading_itself"], [{str(tmp_path)!r}])
except library.PreloadError as error: print(error)
"""
    done = subprocess.run(python(f"exec({code!r})"), env={}, capture_output=True, timeout=60, check=True)
    assert b"importing threading_itself started threads" in done.stdout


def test_a_module_that_nobody_compiled_is_imported_from_its_source(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").write_text("A = 1\n")
    (tmp_path / "package/part.py").write_text("from package import A\nB = A + 1\n")
    code = f"""
import sys
from pathlib import Path
from edge_runtime.functions.sandbox.native import library
finder = library.Finder(Path({str(tmp_path)!r}))
sys.path.clear()
sys.meta_path.append(finder)
import package.part
print(package.part.B, finder.find_spec("nothing"))
"""
    done = subprocess.run(python(f"exec({code!r})"), env={}, capture_output=True, timeout=60, check=True)
    assert done.stdout.split() == [b"2", b"None"]


async def test_the_tier_and_its_modules_are_part_of_the_version(native: FunctionPlatform) -> None:
    source = app("@app.on('climate')\ndef f(e): pass\n")
    versions = {
        (await native.check(source, limits)).version
        for limits in (Limits(), Limits(tier="native"), Limits(tier="native", preload=("csv",)))
    }
    assert len(versions) == 3
    assert native_guest("a", ["numpy"]) != native_guest("b", ["numpy"])


async def test_a_native_version_does_not_outlive_the_permission(start: Start) -> None:
    allowed = await start(limits=NATIVE)
    checked = await allowed.check(app("@app.on('climate')\ndef f(e): pass\n"))
    await allowed.store(checked)
    withdrawn = await start(limits=Limits())
    with pytest.raises(DeployError, match=r"edge\.toml no longer says that it may"):
        await withdrawn.load("greenhouse", checked.version)


async def test_other_languages_have_no_native_tier(native: FunctionPlatform) -> None:
    with pytest.raises(DeployError, match="the native tier runs Python alone"):
        await native.check({"a.js": b"export const app = 1"})


async def test_each_event_of_a_batch_has_its_own_deadline_and_its_own_death(native: FunctionPlatform) -> None:
    body = """
import os, time
@app.route("climate", to="x")
def f(event):
    if event.seq == 3: os._exit(7)
    if event.seq == 5:
        while True: pass
    end = time.monotonic() + 0.11
    while time.monotonic() < end: pass
    return event.seq
"""
    ref = await deploy(native, app(body))
    outcomes = list(await native.invoke(ref("f"), [event(seq=n) for n in range(8)]))
    late, dead = failed(outcomes.pop(5)), failed(outcomes.pop(3))
    assert (late.reason, dead.reason) == ("timeout", "crash")
    assert "exit status 7" in dead.detail
    assert [ok(o).value for o in outcomes] == [0, 1, 2, 4, 6, 7]
    assert native.stats().restarts == 0


async def test_a_slow_batch_gives_way_to_a_neighbour(native: FunctionPlatform) -> None:
    slow_body = """
import time
@app.on("climate")
def f(event):
    end = time.monotonic() + 0.03
    while time.monotonic() < end: pass
"""
    slow = await deploy(native, app(slow_body, "slow"))
    quick = await deploy(native, app('@app.route("climate", to="x")\ndef f(e): return e.seq\n', "quick"))
    batch = asyncio.create_task(native.invoke(slow("f"), [event(seq=n) for n in range(20)]))
    done = 0
    while not batch.done():
        await native.invoke(quick("f"), [event()])
        done += 1
    assert [ok(o).micros >= 29_000 for o in await batch] == [True] * 20
    assert done >= 10


async def test_one_that_does_not_give_way_loses_its_process_and_nothing_else(native: FunctionPlatform) -> None:
    body = """
import sys
host = sys.modules["wit_world.imports.host"]
given = host.done
host.done = lambda outcome: given(outcome) or True
@app.route("climate", to="x")
def f(event):
    import time
    end = time.monotonic() + 0.04
    while time.monotonic() < end: pass
    return event.seq
"""
    ref = await deploy(native, app(body))
    outcomes = await native.invoke(ref("f"), [event(seq=n) for n in range(30)])
    assert [getattr(o, "value", None) for o in outcomes[:2]] == [0, 1]
    assert len(outcomes) == 30
    assert native.stats().restarts == 0


async def test_a_large_batch_in_and_out(native: FunctionPlatform) -> None:
    ref = await deploy(native, app('@app.route("climate", to="x")\ndef f(e): return e.data["text"] * 4\n'))
    events = [event({"text": str(n % 10) * 50_000}, seq=n) for n in range(60)]
    outcomes: list[Outcome] = []
    while len(outcomes) < 60:  # it may be answered in pieces
        outcomes += await native.invoke(ref("f"), events[len(outcomes) :])
    assert [len(ok(o).value) for o in outcomes] == [200_000] * 60


def executor(platform: FunctionPlatform) -> int:
    [pid] = [found.pid for found in platform.report().executors if found.engine == "native"]
    return pid


def below(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, children) for found in (child, *below(child))]


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_between_two_calls_a_function_does_not_run(native: FunctionPlatform) -> None:
    """Here one goes on after it has said that it is done: it is stopped all the same."""
    body = """
import os
@app.on("climate")
def f(event):
    ok = b'{"type":"ok"}'
    os.write(3, len(ok).to_bytes(4, "big") + ok + bytes(4))
    while True: pass
"""
    ref = await deploy(native, app(body))
    [outcome] = await native.invoke(ref("f"), [event()])
    assert ok(outcome).effects == []
    # Were it not stopped, it would be seen running each time; whoever starts the next child is busy for a moment only.
    await until(lambda: "T" in (states := state_of(executor(native))) and "R" not in states)


async def test_one_that_answers_without_reading_hurts_itself_alone(native: FunctionPlatform) -> None:
    body = """
import ctypes, os
libc = ctypes.CDLL(None)
@app.on("climate")
def f(event):
    ok = b'{"type":"ok"}'
    while True:
        os.write(3, len(ok).to_bytes(4, "big") + ok + bytes(4))
        libc.usleep(30_000)
"""
    bad = await deploy(native, app(body, "bad"))
    good = await deploy(native, app('@app.route("climate", to="x")\ndef f(e): return e.seq\n', "good"))
    for size in range(208_000, 217_000, 1000):  # some of these leave its channel full to the last byte
        for _ in range(3):
            await native.invoke(bad("f"), [event({"text": "x" * size})])
        [outcome] = await native.invoke(good("f"), [event(seq=size)])
        assert ok(outcome).value == size
    assert native.stats().restarts == 0


async def test_a_process_that_died_between_two_calls_costs_no_event(native: FunctionPlatform) -> None:
    ref = await deploy(native, app('@app.route("climate", to="x")\ndef f(e): return e.seq\n'))
    await native.invoke(ref("f"), [event()])
    pids = below(executor(native))
    await until(lambda: "T" in state_of(executor(native)))
    [stopped] = [pid for pid in pids if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"]
    os.kill(stopped, signal.SIGKILL)
    await until(lambda: "Z" in state_of(executor(native)))
    [outcome] = await native.invoke(ref("f"), [event(seq=9)])
    assert ok(outcome).value == 9


async def test_with_the_executor_all_its_processes_die_and_all_come_back(native: FunctionPlatform) -> None:
    ref = await deploy(native, app('@app.route("climate", to="x")\ndef f(e): return e.seq\n'))
    first = executor(native)
    pids = below(first)
    assert len(pids) >= 2, "the zygote and a function"
    os.kill(first, signal.SIGKILL)
    [outcome] = await native.invoke(ref("f"), [event(seq=4)])
    assert ok(outcome).value == 4
    assert executor(native) != first
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


async def test_when_the_zygote_dies_the_executor_is_replaced(native: FunctionPlatform) -> None:
    ref = await deploy(native, app('@app.on("climate")\ndef f(e):\n    import os\n    os._exit(1)\n'))
    first = executor(native)
    zygote = int(Path(f"/proc/{first}/task/{first}/children").read_text().split()[0])
    os.kill(zygote, signal.SIGKILL)
    outcomes = await native.invoke(ref("f"), [event(seq=n) for n in range(2)])
    assert [failed(o).reason for o in outcomes] == ["crash", "crash"]
    assert executor(native) != first


async def test_the_report_says_what_holds_a_native_function(native: FunctionPlatform) -> None:
    await deploy(native, app("@app.on('climate')\ndef f(e): pass\n"))
    [report] = [found for found in native.report().executors if found.engine == "native"]
    assert report.jail is not None
    assert report.jail.seccomp
    assert report.jail.limits["nproc"] == 0
    assert report.apps == 1


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (0, "exit status 0"),
        (3 << 8, "exit status 3"),
        (11, "ran out of stack"),
        (9, "full"),
        (31, "system call"),
        (40, "40"),
    ],
)
def test_the_fate_of_a_process_in_words(status: int, says: str) -> None:
    assert says in fate(status)


def test_extensions_of_the_standard_library_are_there() -> None:
    assert not any(name.startswith("_test") for name in library._extensions())
