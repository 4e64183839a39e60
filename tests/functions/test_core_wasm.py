"""Users' own WebAssembly modules, in the real sandbox: what they can do, and what becomes of those that do harm."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import wasmtime

from edge_runtime.errors import DeployError
from edge_runtime.flows.ports import Emit, Given, LogLine, Order, Success
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.functions.sandbox import modules, spawn
from edge_runtime.manifest import OnEvent, Route

from .conftest import Start, app, deploy, event, failed, ok


def wat(text: str) -> bytes:
    """A module from WebAssembly's text format."""
    return bytes(wasmtime.wat2wasm(text))


def module(body: str, imports: str = "", *, function: str = "f", manifest: str | None = None) -> dict[str, bytes]:
    """A module with an app of one function; `body` is its code, `imports` more of the text format."""
    described = [
        json.dumps({"name": "mod"}) if manifest is None else manifest,
        json.dumps({"name": function, "kind": "climate"}),
    ]
    data, calls, at = "", "", 1024
    for call, text in zip(("$app", "$trigger"), described, strict=True):
        size = len(text.encode())
        data += f'(data (i32.const {at}) "{"".join(f"{chr(92)}{byte:02x}" for byte in text.encode())}")\n'
        calls += f"(call {call} (i32.const {at}) (i32.const {size}))\n"
        at += size
    text = f"""(module
      (import "edge" "app" (func $app (param i32 i32)))
      (import "edge" "trigger" (func $trigger (param i32 i32)))
      (import "edge" "log" (func $log (param i32 i32 i32)))
      (import "edge" "emit" (func $emit (param i32 i32 i32 i32)))
      (import "edge" "number" (func $number (param i32 i32) (result f64)))
      {imports}
      (memory (export "memory") 2)
      {data}
      (data (i32.const 0) "seqfinex")
      (func (export "edge_app") {calls})
      (func (export "{function}")
        {body}
        (call $emit (i32.const 3) (i32.const 4) (i32.const 0) (i32.const 0))))"""
    return {"mod.wasm": wat(text)}


def on_fourth(code: str) -> str:
    """Code for the event whose sequence is 4."""
    return f"(if (f64.eq (call $number (i32.const 0) (i32.const 3)) (f64.const 4)) (then {code}))"


HARMFUL = {
    "spin": ("(loop $l (br $l))", "", "timeout", "longer than 200 ms"),
    "spin_in_calls": (
        "(loop $l (drop (call $number (i32.const 0) (i32.const 3))) (br $l))",
        "",
        "timeout",
        "longer than 200 ms",
    ),
    "memory_bomb": (
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)",
        "",
        "memory",
        "the memory limit of 64 MiB was reached",
    ),
    "recursion": ("(call $deep)", "(func $deep (call $deep) (call $deep))", "error", "the recursion was too deep"),
    "flood_of_lines": (
        "(loop $l (call $log (i32.const 1) (i32.const 0) (i32.const 3)) (br $l))",
        "",
        "output",
        "more than 100 log lines",
    ),
    "flood_of_events": (
        "(loop $l (call $emit (i32.const 3) (i32.const 4) (i32.const 0) (i32.const 0)) (br $l))",
        "",
        "output",
        "more than 100 commands",
    ),
    "large_output": (
        "(drop (memory.grow (i32.const 64))) (call $log (i32.const 1) (i32.const 0) (i32.const 1000000))",
        "",
        "output",
        "KiB of output",
    ),
    "hoard_in_the_host": (
        "(loop $l (call $keep (i32.const 0) (i32.const 3) (f64.const 1) (f64.const 0)) (br $l))",
        '(import "edge" "state_set_number" (func $keep (param i32 i32 f64 f64)))',
        "output",
        "handed over in one call",
    ),
    "unreachable": ("(unreachable)", "", "error", "it gave up"),
    "division": ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "", "error", "divided by zero <- f"),
    "null_call": ("(call_indirect (i32.const 0))", "(table 1 funcref)", "error", "function pointer that is null"),
    "outside_memory": ("(drop (i32.load (i32.const -8)))", "", "error", "outside its memory"),
    "pointer_outside_memory": (
        "(call $log (i32.const 1) (i32.const -8) (i32.const 4))",
        "",
        "error",
        "a place outside its memory <- f",
    ),
    "pointer_that_wraps": (
        "(call $log (i32.const 1) (i32.const -1) (i32.const 2))",
        "",
        "error",
        "a place outside its memory",
    ),
    "not_text": (
        "(i32.store8 (i32.const 64) (i32.const 255)) (call $log (i32.const 1) (i32.const 64) (i32.const 1))",
        "",
        "error",
        "not UTF-8",
    ),
    "bad_level": ("(call $log (i32.const 9) (i32.const 0) (i32.const 1))", "", "error", "9 is not a level"),
    "bad_kind": ("(call $emit (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 0))", "", "error", "ValueError"),
    "bad_json": ("(call $emit (i32.const 3) (i32.const 4) (i32.const 3) (i32.const 4))", "", "error", "not JSON"),
    "bad_path": ("(drop (call $number (i32.const 3) (i32.const 4)))", "", "error", "'fine' is no path"),
    "exit": (
        "(call $exit (i32.const 3))",
        '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))',
        "crash",
        "exit status 3",
    ),
    "registers_again": (
        "(call $app (i32.const 1024) (i32.const 15))",
        "",
        "error",
        "for a module that is being loaded",
    ),
}


@pytest.mark.parametrize("name", HARMFUL)
async def test_escape_of_a_module_by_harm_is_stopped_and_named(platform: FunctionPlatform, name: str) -> None:
    code, imports, reason, says = HARMFUL[name]
    # A memory takes its time to fill; the deadline of the others is not to come first.
    limits = Limits(time=10_000_000 if reason == "memory" else 200_000)
    ref = await deploy(platform, module(on_fourth(code), imports), limits=limits)
    neighbour = await deploy(platform, app('@app.route("climate", to="x")\ndef f(e): return e.seq\n', "neighbour"))
    outcomes, [beside] = await asyncio.gather(
        platform.invoke(ref("f"), [event(seq=n) for n in range(1, 7)]), platform.invoke(neighbour("f"), [event(seq=9)])
    )
    assert ok(beside).value == 9
    assert len(outcomes) == 6
    bad = failed(outcomes[3])
    assert bad.reason == reason, bad
    assert says in bad.detail, bad
    assert [ok(o).effects for o in outcomes if o is not bad] == [[Emit("fine", None)]] * 5
    assert platform.stats().restarts == 0, "the instance dies, the executor lives"


REFUSED = {
    "files": (
        '(import "wasi_snapshot_preview1" "path_open" (func))',
        "imports 'path_open' of 'wasi_snapshot_preview1'",
    ),
    "sockets": ('(import "wasi_snapshot_preview1" "sock_send" (func))', "'sock_send'"),
    "sleep": ('(import "wasi_snapshot_preview1" "poll_oneoff" (func))', "'poll_oneoff'"),
    "unknown": ('(import "env" "system" (func (param i32)))', "imports 'system' of 'env', which functions do not have"),
    "foreign_memory": ('(import "env" "memory" (memory 1))', "'memory' of 'env'"),
    "another_signature": (
        '(import "edge" "fail" (func (param i64)))',
        "'fail' of 'edge' as (i64), but it is (i32, i32)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_escape_of_a_module_by_an_import_is_refused(platform: FunctionPlatform, name: str) -> None:
    imports, says = REFUSED[name]
    source = module("", imports) if name != "foreign_memory" else {"mod.wasm": wat(f"(module {imports})")}
    with pytest.raises(DeployError) as raised:
        await platform.check(source)
    assert says in str(raised.value)
    assert str(raised.value).startswith("mod.wasm: ")


def _machine_code() -> bytes:
    engine = wasmtime.Engine()
    return bytes(wasmtime.Module(engine, "(module)").serialize())


MEMORY = '(memory (export "memory") 1)'
UPLOADS = {
    "machine_code": (_machine_code, "machine code, which nobody can check"),
    "garbage": (lambda: b"garbage" * 100, "does not begin with"),
    "empty": (lambda: b"", "does not begin with"),
    "component": (lambda: wat("(component)"), "a WebAssembly component"),
    "broken": (lambda: b"\0asm\1\0\0\0" + b"\xff" * 50, "not a valid module"),
    "huge": (lambda: b"\0asm\1\0\0\0" + bytes(modules.MAX_MODULE), "larger than 4 MiB"),
    "no_memory": (lambda: wat("(module)"), "exports no memory"),
    "threads": (lambda: wat('(module (memory (export "memory") 1 2 shared))'), "not a valid module"),
    "two_memories": (lambda: wat(f"(module {MEMORY} (memory 1))"), "not a valid module"),
    "greedy": (lambda: wat('(module (memory (export "memory") 2000))'), "exceeds memory limits"),
    "no_app": (lambda: wat(f"(module {MEMORY})"), "no app found: export edge_app"),
    "start_spins": (lambda: wat(f"(module {MEMORY} (func $s (loop $l (br $l))) (start $s))"), "more than 300 ms"),
    "start_traps": (lambda: wat(f"(module {MEMORY} (func $s unreachable) (start $s))"), "it gave up"),
}


@pytest.mark.parametrize("name", UPLOADS)
async def test_escape_by_an_upload_is_refused_in_plain_words(start: Start, name: str) -> None:
    platform = await start(limits=Limits(load_time=300_000))
    make, says = UPLOADS[name]
    with pytest.raises(DeployError) as raised:
        await platform.check({"mod.wasm": make()})
    assert says in str(raised.value), raised.value
    assert "backtrace" not in str(raised.value)
    await platform.check(app('@app.on("k")\ndef f(e): pass\n'))  # and the sandbox goes on


def test_escape_by_a_module_that_takes_for_ever_to_compile_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler is given so much processor time and memory, and no more, whatever the module is made of."""
    step = "(loop (br_if 0 (local.get 0)))"  # the compiler takes the square of their number: 1.2 s for one function
    large = wat(f"(module {MEMORY} {f'(func (param i32) {step * 4000})' * 20})")
    for limit, value, says in (
        ("CPU_SECONDS", 1, "more than 1 s of processor time"),
        ("MEMORY", 48 << 20, "the compiler could not manage it"),
    ):
        script = f"from edge_runtime.functions.sandbox import modules; modules.{limit} = {value}; modules.main()"
        command = spawn.python(script)
        monkeypatch.setattr(modules, limit, value)
        monkeypatch.setattr(modules, "command", lambda _name, command=command: command)
        with pytest.raises(DeployError, match=says):
            modules.compiled("mod.wasm", large, tmp_path, lambda *_: None)
        monkeypatch.undo()
    assert not list(tmp_path.glob("*.cwasm"))


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ({"manifest": "{}"}, "missing 1 required positional argument: 'name'"),
        ({"manifest": '{"name":"a b"}'}, r"App\('a b'\): a name is"),
        ({"manifest": "[]"}, "takes a JSON object"),
        ({"manifest": "{"}, "not JSON"),
        ({"function": "not a name"}, "needs a name"),
    ],
)
async def test_what_is_wrong_with_a_description_is_said(
    platform: FunctionPlatform, described: dict[str, str], says: str
) -> None:
    with pytest.raises(DeployError, match=says):
        await platform.check(module("", **described))


@pytest.mark.parametrize(
    ("trigger", "says"),
    [
        ({"name": "g", "kind": "climate"}, "exports no such function"),
        ({"name": "f"}, "missing 1 required positional argument: 'kind'"),
        ({"name": "f", "kind": "climate", "whree": "x"}, "unexpected keyword argument 'whree'"),
        ({"type": "route", "name": "f", "kind": "climate", "to": ""}, "name a target"),
        ({"type": "manifest", "name": "f", "kind": "climate"}, "a trigger's type is one of"),
        ({"name": "takes", "kind": "climate"}, "must take nothing"),
    ],
)
async def test_what_is_wrong_with_a_trigger_is_said(
    platform: FunctionPlatform, trigger: dict[str, Any], says: str
) -> None:
    text = json.dumps(trigger)
    escaped = text.replace('"', '\\"')
    source = f"""(module
      (import "edge" "app" (func $app (param i32 i32)))
      (import "edge" "trigger" (func $trigger (param i32 i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "{{\\"name\\":\\"mod\\"}}") (data (i32.const 64) "{escaped}")
      (func (export "f")) (func (export "takes") (param i32))
      (func $s (call $app (i32.const 0) (i32.const 14)) (call $trigger (i32.const 64) (i32.const {len(text)})))
      (start $s))"""
    with pytest.raises(DeployError, match=says):
        await platform.check({"mod.wasm": wat(source)})


async def test_a_function_that_returns_a_number_failed(platform: FunctionPlatform) -> None:
    source = """(module
      (import "edge" "app" (func $app (param i32 i32)))
      (import "edge" "trigger" (func $trigger (param i32 i32)))
      (import "edge" "number" (func $number (param i32 i32) (result f64)))
      (memory (export "memory") 1)
      (data (i32.const 0) "{\\"name\\":\\"mod\\"}{\\"name\\":\\"f\\",\\"kind\\":\\"climate\\"}seq")
      (func (export "edge_app")
        (call $app (i32.const 0) (i32.const 14)) (call $trigger (i32.const 14) (i32.const 29)))
      (func (export "f") (result i32) (i32.trunc_f64_s (call $number (i32.const 43) (i32.const 3)))))"""
    ref = await deploy(platform, {"mod.wasm": wat(source)})
    good, bad = await platform.invoke(ref("f"), [event(seq=0), event(seq=5)])
    ok(good)
    assert failed(bad).detail == "f returned 5, which says that it failed"


async def test_memory_lasts_from_one_event_to_the_next_and_not_beyond_a_trap(platform: FunctionPlatform) -> None:
    body = f"""
      (i32.store8 (i32.const 7) (i32.add (i32.load8_u (i32.const 7)) (i32.const 1)))
      {on_fourth("(unreachable)")}
      (call $log (i32.const 1) (i32.const 7) (i32.const 1))"""
    ref = await deploy(platform, module(body))
    outcomes = await platform.invoke(ref("f"), [event(seq=n) for n in range(1, 7)])
    assert failed(outcomes[3]).reason == "error"
    said = [o.logs[0].text if isinstance(o, Success) else "" for o in outcomes]
    assert said == ["y", "z", "{", "", "y", "z"], "the 'x' in its memory counts up, and starts anew after the trap"


async def test_printing_and_the_system_interface(platform: FunctionPlatform) -> None:
    imports = """
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
      (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))"""
    body = """
      (i32.store (i32.const 64) (i32.const 3)) (i32.store (i32.const 68) (i32.const 4))
      (if (call $write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 72)) (then (unreachable)))
      (if (i32.ne (i32.load (i32.const 72)) (i32.const 4)) (then (unreachable)))
      (if (i32.ne (call $write (i32.const 3) (i32.const 64) (i32.const 1) (i32.const 72)) (i32.const 8))
        (then (unreachable)))
      (drop (call $environ (i32.const 72) (i32.const 76)))
      (if (i32.load (i32.const 72)) (then (unreachable)))
      (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 80)))
      (if (i64.eqz (i64.load (i32.const 80))) (then (unreachable)))
      (drop (call $random (i32.const 88) (i32.const 8)))
      (if (i64.eqz (i64.load (i32.const 88))) (then (unreachable)))"""
    ref = await deploy(platform, module(body, imports))
    [outcome] = await platform.invoke(ref("f"), [event()])
    assert ok(outcome).logs == [LogLine("info", "fine")]


@pytest_asyncio.fixture(params=["c", "assemblyscript"])
async def example(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """Each example and its language."""
    path = request.getfixturevalue(f"{request.param}_module")
    assert isinstance(path, Path)
    return request.param, path


async def test_the_examples_run(platform: FunctionPlatform, example: tuple[str, Path]) -> None:
    language, path = example
    checked = await platform.check(path)
    assert checked.manifest.app == f"greenhouse_{language}"
    assert checked.manifest.triggers == [
        OnEvent("overheat", "climate", "temperature > 30"),
        OnEvent("average", "climate"),
        Route("shape", "climate.mean", to="cloud"),
    ]
    ref = await deploy(platform, {path.name: path.read_bytes()})
    [hot] = await platform.invoke(ref("overheat"), [event({"temperature": 31.5})])
    assert ok(hot).effects == [Order("b1", "fan", {"on": True}, 60_000_000)]
    readings = [event({"temperature": 20 + n}, seq=n) for n in range(8)]
    given = Given(states={"b1": {"count": ("2", 0), "sum": ("38.5", 0)}, "b2": {"count": ("9", 0)}})
    outcomes = await platform.invoke(ref("average"), readings, given)
    assert [ok(o).effects for o in outcomes[:-1]] == [[]] * 7
    assert ok(outcomes[0]).state == {"count": ("3", 0), "sum": ("58.5", 0)}
    assert ok(outcomes[-1]).effects == [Emit("climate.mean", {"temperature": (38.5 + 20 * 8 + 28) / 10})]
    assert ok(outcomes[-1]).state == {"count": ("0", 0), "sum": ("0", 0)}
    [shaped] = await platform.invoke(ref("shape"), [event({"temperature": 22.5, "place": "größer"})])
    assert ok(shaped).value == {"temperature": 22.5, "place": "größer"}
    [executor] = [found for found in platform.report().executors if found.engine == "wasm"]
    assert executor.jail is not None
    assert executor.jail.seccomp


def test_a_module_is_compiled_once(c_module: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    first = modules.compiled("mod.wasm", c_module.read_bytes(), folder, lambda *_: None)
    before = first.stat()
    assert before.st_mode & 0o077 == 0
    again = modules.compiled("renamed.wasm", c_module.read_bytes(), folder, lambda *_: None)
    assert (again, again.stat().st_mtime_ns) == (first, before.st_mtime_ns)
    other = modules.compiled("mod.wasm", module("")["mod.wasm"], folder, lambda *_: None)
    os.utime(first, (0, 0))
    modules.prune(folder)
    assert not first.exists()
    assert other.exists(), "it was used just now"


@pytest.mark.skipif(os.geteuid() != 0, reason="all the other tests have run as an ordinary user already")
def test_escape_of_a_module_is_held_for_an_ordinary_user_too(guest: tuple[Path, Path]) -> None:
    """The whole platform, started without root: the module compiled, loaded, and stopped."""
    nobody = 65534
    work = Path("/tmp") / f"edge-module-{os.getpid()}"
    cached = work / "edge-runtime"
    cached.mkdir(parents=True, mode=0o700)
    try:
        for path in guest:
            shutil.copy(path, cached / path.name)
        (work / "mod.wasm").write_bytes(module(on_fourth("(loop $l (br $l))"))["mod.wasm"])
        for path in [work, cached, *cached.iterdir(), work / "mod.wasm"]:
            os.chown(path, nobody, nobody)
        script = f"""
import asyncio, os
from pathlib import Path
from edge_runtime.clock import SystemClock
from edge_runtime.events import Event
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.manifest import FunctionRef
work = Path({str(work)!r})
async def main():
    platform = FunctionPlatform(work / "apps", SystemClock(), cache_folder=work / "edge-runtime")
    await platform.start()
    checked = await platform.check(work / "mod.wasm")
    await platform.store(checked)
    await platform.load("mod", checked.version)
    events = [Event("b1", b"bootboot", seq, "climate", 1, 2, None) for seq in (3, 4, 5)]
    outcomes = await platform.invoke(FunctionRef("mod", checked.version, "f"), events)
    [executor] = [found for found in platform.report().executors if found.engine == "wasm"]
    print(os.geteuid(), executor.jail.uid, executor.jail.seccomp, *(getattr(o, "reason", "ok") for o in outcomes))
    await platform.stop()
asyncio.run(main())
"""
        user = ["setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups"]
        start_itself = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import edge_runtime'])"
        probe = [*user, sys.executable, "-c", start_itself]
        if subprocess.run(probe, capture_output=True, env={}, cwd="/", check=False).stderr:
            # This interpreter stands where only root can read. It may read there too, and is still not root.
            user += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        done = subprocess.run(
            [*user, sys.executable, "-c", script], capture_output=True, env={}, cwd="/", timeout=100, check=False
        )
        assert done.stdout.decode().split() == ["65534", "65534", "True", "ok", "timeout", "ok"], done.stderr.decode()
    finally:
        shutil.rmtree(work)
