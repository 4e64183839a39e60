"""Apps in JavaScript, in the real sandbox: the same face, limits and reasons as in Python."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import pytest_asyncio

from edge_runtime.errors import DeployError
from edge_runtime.flows.ports import Emit, Given, LogLine, Order
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.functions.sandbox import build, javascript
from edge_runtime.functions.sandbox.errors import GuestError
from edge_runtime.manifest import OnEvent, Route

from .conftest import Start, app, deploy, event, failed, ok

EXAMPLE = Path(__file__).parents[2] / "examples/languages/javascript/greenhouse.js"
HEAD = 'import { App } from "edge";\nconst app = new App("{name}");\n'


def js(body: str, name: str = "greenhouse") -> dict[str, bytes]:
    """The source of an app, by its file's name."""
    return {f"{name}.js": (HEAD.replace("{name}", name) + body).encode()}


@pytest_asyncio.fixture
async def platform(javascript_guest: Path, start: Start) -> FunctionPlatform:
    """A platform with one executor and deadlines of 200 ms, on a machine that has the JavaScript guest."""
    return await start(limits=Limits(time=200_000))


async def test_the_example_runs(platform: FunctionPlatform) -> None:
    checked = await platform.check(EXAMPLE)
    assert checked.manifest.app == "greenhouse_javascript"
    assert checked.manifest.triggers == [
        OnEvent("overheat", "climate", "temperature > 30"),
        OnEvent("average", "climate"),
        Route("shape", "climate.mean", to="cloud"),
    ]
    ref = await deploy(platform, {EXAMPLE.name: EXAMPLE.read_bytes()})
    [hot] = await platform.invoke(ref("overheat"), [event({"temperature": 31.5})])
    assert ok(hot).effects == [Order("b1", "fan", {"on": True}, 60_000_000)]
    readings = [event({"temperature": 20 + n}, seq=n) for n in range(8)]
    outcomes = await platform.invoke(
        ref("average"), readings, Given(states={"b1": {"count": ("2", 0), "sum": ("38.5", 0)}})
    )
    assert [ok(o).effects for o in outcomes[:-1]] == [[]] * 7
    assert ok(outcomes[-1]).effects == [Emit("climate.mean", {"temperature": (38.5 + 20 * 8 + 28) / 10})]
    assert ok(outcomes[-1]).state == {"count": ("0", 0), "sum": ("0", 0)}
    [shaped] = await platform.invoke(ref("shape"), [event({"temperature": 22.5, "place": "größer"})])
    assert ok(shaped).value == {"temperature": 22.5, "place": "größer"}
    [executor] = [found for found in platform.report().executors if found.engine == "javascript"]
    assert executor.jail is not None
    assert executor.jail.seccomp


async def test_a_function_sees_the_whole_event(platform: FunctionPlatform) -> None:
    body = """
app.route("climate", { to: "x" }, function f({ device, kind, time, data, id, seq, boot, received, late }) {
  return [device, kind, time, data, id, seq, boot, received, late];
});"""
    ref = await deploy(platform, js(body))
    [outcome] = await platform.invoke(ref("f"), [event({"text": "ü\u2028", "n": [1, 2.5]}, seq=7)])
    boot = b"bootboot".hex()
    data = {"text": "ü\u2028", "n": [1, 2.5]}
    assert ok(outcome).value == ["b1", "climate", 1_000_000, data, f"b1/{boot}/7", 7, boot, 2_000_000, False]


async def test_effects_logs_and_prints_come_out_in_order(platform: FunctionPlatform) -> None:
    body = """
app.on("climate", { name: "f" }, (event, ctx) => {
  console.log("one", event.seq, { a: [1] }, undefined);
  ctx.emit("summary", { n: event.seq, none: undefined });
  ctx.log("two\\nlines", "warning");
  console.error(new TypeError("three"));
  ctx.command(event.device, "fan", [1, 2.5, null, true], { expires: "5m", key: "fan" });
});"""
    ref = await deploy(platform, js(body))
    [outcome] = await platform.invoke(ref("f"), [event()])
    success = ok(outcome)
    assert success.effects == [Emit("summary", {"n": 1}), Order("b1", "fan", [1, 2.5, None, True], 300_000_000, "fan")]
    assert success.logs == [
        LogLine("info", 'one 1 {"a":[1]} undefined'),
        LogLine("warning", "two"),
        LogLine("warning", "lines"),
        LogLine("error", "TypeError: three"),
    ]


async def test_state_lasts_and_expires_as_in_python(platform: FunctionPlatform) -> None:
    body = """
app.on("climate", function f(event, ctx) {
  const { state } = ctx;
  console.log(state.keys().sort().join(), String(state.get("gone")), state.has("old"));
  const list = state.get("list") ?? [];
  list.push(event.seq);
  state.set("list", list);
  state.set("short", 1, { ttl: "1s" });
  state.delete("unwanted");
});"""
    ref = await deploy(platform, js(body))
    kept = {"list": ("[1]", 0), "old": ("5", 1_999_999), "unwanted": ("true", 0)}
    first, second = await platform.invoke(ref("f"), [event(seq=2), event(seq=3)], Given(states={"b1": kept}))
    assert ok(first).logs[0].text == "list,unwanted undefined false"
    assert ok(first).state == {"list": ("[1,2]", 0), "short": ("1", 3_000_000), "old": None, "unwanted": None}
    assert ok(second).logs[0].text == "list,short undefined false"
    assert ok(second).state == {"list": ("[1,2,3]", 0)}


HARMFUL = {
    "spin": ("for (;;);", "timeout", "longer than 200 ms"),
    "regex": ("/^(a+)+$/.test('a'.repeat(40) + 'b')", "timeout", "longer than 200 ms"),
    "swallow": ("for (;;) { try { for (;;); } catch {} }", "timeout", ""),
    "hog": ("const b = []; for (;;) b.push(new Uint8Array(1 << 20).fill(1))", "memory", "memory limit was reached"),
    "hog_of_text": (
        "const b = []; for (;;) b.push(('y'.repeat(1 << 20) + b.length).toUpperCase())",
        "memory",
        "memory",
    ),
    "gigabyte": ("new Uint8Array(2 ** 31 - 1).fill(1)", "memory", "memory limit was reached"),
    "flood": ("for (;;) console.log('x')", "output", "more than 100 log lines"),
    "swallowed_flood": ("try { for (;;) console.log('x') } catch {}", "output", "more than 100 log lines"),
    "many_effects": ("for (let n = 0; n < 101; n++) ctx.emit('x', n)", "output", "more than 100 commands"),
    "large_effect": ("ctx.emit('x', 'y'.repeat(300_000))", "output", "more than 256 KiB"),
    "large_state": ("ctx.state.set('x', 'y'.repeat(70_000))", "output", "more than 64 KiB of state"),
    "recursion": ("function r() { return r() + 1 } r()", "error", "too much recursion <- greenhouse.js, line 5, in r"),
    "throws": ("null.x", "error", "TypeError: "),
    "throws_text": ("throw 'no'", "error", "thrown: no"),
    "throws_null": ("throw null", "error", "thrown: null"),
    "bad_error": ("throw { get name() { throw 1 }, message: 'x' }", "error", "cannot be described"),
    "sleep": ("setTimeout(() => {}, 1000)", "error", "cannot wait"),
    "promise": ("return Promise.resolve(1)", "error", "returned a promise"),
    "network": ("fetch('http://127.0.0.1/')", "error", "no network"),
    "other_device": ("ctx.command('b2', 'fan')", "error", "NotGranted: only the device that caused the event ('b1')"),
    "not_a_number": ("ctx.emit('x', NaN)", "error", "NaN cannot leave a function"),
    "an_object": ("ctx.emit('x', new Date())", "error", "a value of class Date is not plain"),
    "cycle": ("const x = {}; x.x = x; ctx.emit('x', x)", "error", "deeper than 16"),
    "bad_name": ("ctx.emit('a b', 1)", "error", "not a kind of event"),
    "bad_expiry": ("ctx.command(event.device, 'fan', null, { expires: 'soon' })", "error", "'60s', '5m' or '2h'"),
}


@pytest.mark.parametrize("name", HARMFUL)
async def test_escape_of_javascript_by_harm_is_stopped_and_named(platform: FunctionPlatform, name: str) -> None:
    code, reason, says = HARMFUL[name]
    body = f"""app.on("climate", function f(event, ctx) {{
  if (event.seq === 4) {{
    {code};
  }}
  ctx.emit("fine", event.seq);
}});"""
    # A memory takes its time to fill; the deadline of the others is not to come first.
    limits = Limits(time=10_000_000 if reason == "memory" else 200_000)
    ref = await deploy(platform, js(body), limits=limits)
    neighbour = await deploy(platform, app('@app.route("climate", to="x")\ndef f(e): return e.seq\n', "neighbour"))
    invoked, [beside] = await asyncio.gather(
        platform.invoke(ref("f"), [event(seq=n) for n in range(1, 7)]), platform.invoke(neighbour("f"), [event(seq=9)])
    )
    assert ok(beside).value == 9
    outcomes = list(invoked)
    assert len(outcomes) == 6
    bad = failed(outcomes.pop(3))
    assert bad.reason == reason, bad
    assert says in bad.detail, bad
    assert "app/" not in bad.detail, "only the user's own file is named"
    assert [ok(o).effects for o in outcomes] == [[Emit("fine", n)] for n in (1, 2, 3, 5, 6)]
    assert platform.stats().restarts == 0, "the instance dies, the executor lives"


OUT = {
    "process": "process.env.PATH",
    "require": "require('fs')",
    "worker": "new Worker('x')",
    "host": "globalThis.host.done('x')",
    "eval": "eval('import.meta')",
    "location": "fetch(location.href)",
    "shared_memory": "new SharedArrayBuffer(8)",
    "constructor": "(() => {}).constructor('return process')()",
    "request": "new XMLHttpRequest()",
    "webassembly": "new WebAssembly.Memory({ initial: 1 })",
}


@pytest.mark.parametrize("attempt", OUT)
async def test_escape_from_the_javascript_guest_is_refused(platform: FunctionPlatform, attempt: str) -> None:
    body = f'app.on("climate", function f(event, ctx) {{ ctx.emit("reached", String({OUT[attempt]})); }});'
    ref = await deploy(platform, js(body))
    [outcome] = await platform.invoke(ref("f"), [event()])
    assert failed(outcome).reason == "error", outcome
    assert platform.stats().restarts == 0


async def test_escape_by_breaking_our_side_of_the_javascript_guest_hurts_only_the_app(
    platform: FunctionPlatform,
) -> None:
    body = """
JSON.stringify = JSON.parse = Array.prototype.push = Array.prototype.join = () => "wrecked";
app.on("climate", function f(event, ctx) { ctx.emit("x", 1); });"""
    wreck = await deploy(platform, js(body, "wreck"))
    [outcome] = await platform.invoke(wreck("f"), [event()])
    assert "not an outcome" in failed(outcome).detail
    ref = await deploy(platform, js('app.route("climate", { to: "x" }, function f() { return 1; });'))
    assert [ok(o).value for o in await platform.invoke(ref("f"), [event()])] == [1]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("let a = 1;\nfoo(;\n", r"bad.js, line 2: SyntaxError"),
        ("let a = 1;\nconst s = 'open\n", r"bad.js, line 2: SyntaxError"),
        ('import { App } from "edge";\n\nnope();\n', r"bad.js, line 3: ReferenceError: nope is not defined"),
        ('import fs from "node:fs";\n', r"bad.js, line 1: Error: there is no module 'node:fs'"),
        ('import { Ap } from "edge";\n', r"bad.js, line 1: Error: 'edge' exports no 'Ap'; it has App, "),
        ("import.meta.url;\n", r"bad.js, line 1: there is no import.meta"),
        ('\nconst x = import("edge");\n', r"bad.js, line 2: there is no import\(\)"),
        ('export { App } from "edge";\n', r"bad.js, line 1: export \.\.\. from"),
        ("const x = 1;\n", r"bad.js: no App found"),
        ('import { App } from "edge";\nnew App("a");\n', r"bad.js: the app 'a' has no functions"),
        ('import { App } from "edge";\nnew App("a"); new App("b");\n', r"bad.js: 2 apps in one file \('a', 'b'\)"),
        ('import { App } from "edge";\nnew App("a b");\n', r'bad.js, line 2: new App\("a b"\): a name is'),
        (HEAD.replace("{name}", "a") + 'app.on("k", () => {});', r"bad.js, line 3: .*the function needs a name"),
        (HEAD.replace("{name}", "a") + 'app.on("k", async function f() {});', r"bad.js, line 3: .*neither async"),
        (HEAD.replace("{name}", "a") + 'app.on("k", function* f() {});', r"bad.js, line 3: .*nor a generator"),
        (HEAD.replace("{name}", "a") + 'app.on("k", { were: "x" }, function f() {});', r"no option 'were'"),
        (HEAD.replace("{name}", "a") + 'app.on("k", { start: "now" }, function f() {});', r"'latest' nor 'earliest'"),
        (HEAD.replace("{name}", "a") + 'app.on("k", function f() {});app.on("k", function f() {});', r"has a trigger"),
        (HEAD.replace("{name}", "a") + 'app.route("k", function f() {});', r"name a target"),
        ("for (;;);\n", r"bad.js: loading it took more than 300 ms"),
        ("const b = []; for (;;) b.push(new Array(1e5).fill(0.5));\n", r"memory is full|300 ms|out of memory"),
    ],
)
async def test_what_is_wrong_with_an_app_is_said_with_file_and_line(
    javascript_guest: Path, start: Start, source: str, says: str
) -> None:
    platform = await start(limits=Limits(load_time=300_000))
    with pytest.raises(DeployError, match=says):
        await platform.check({"bad.js": source.encode()})
    await platform.check(js('app.on("k", function f() {});'))  # and the sandbox goes on


async def test_a_folder_of_modules(platform: FunctionPlatform) -> None:
    files = {
        "main.js": b"""// The app.
import {
  App,
} from "edge";
import * as shapes from "./lib/shapes.js"; import double, { half as halve, LIMIT } from './lib/numbers.js'
const app = new App("many")
app.route("climate", { to: "x" }, function f(event) {
  if (event.seq > LIMIT) shapes.fail()
  return [double(event.seq), halve(event.seq), shapes.name, "import x from 'y'; export default 1"]
})
export { app as default }
""",
        "lib/shapes.js": b"import { LIMIT } from './numbers.js';\nexport const name = `limit ${LIMIT}`;\n\n"
        b"export function fail() {\n  throw new RangeError('too much');\n}\n",
        "lib/numbers.js": b"export default function twice(n) { return 2 * n; }\n"
        b"const half = (n) => n / 2;\nexport { half };\nexport const LIMIT = 5;\n",
    }
    ref = await deploy(platform, files)
    good, bad = await platform.invoke(ref("f"), [event(seq=4), event(seq=6)])
    assert ok(good).value == [8, 2, "limit 5", "import x from 'y'; export default 1"]
    assert failed(bad).detail == "RangeError: too much <- lib/shapes.js, line 5, in fail <- main.js, line 8, in f"


async def test_modules_in_a_circle_are_refused(platform: FunctionPlatform) -> None:
    files = {"main.js": b"import './a.js';", "a.js": b"import './main.js';"}
    with pytest.raises(DeployError, match=r"main\.js: it imports itself"):
        await platform.check(files)


async def test_chance_differs_between_instances(platform: FunctionPlatform) -> None:
    body = 'app.route("climate", { to: "x" }, function f() { return [Math.random(), crypto.randomUUID()]; });'
    said = []
    for name in ("a", "b"):
        ref = await deploy(platform, js(body, name))
        said += [value for o in await platform.invoke(ref("f"), [event(), event()]) for value in ok(o).value]
    assert len(set(said)) == 8


async def test_one_executor_serves_all_apps_in_javascript(platform: FunctionPlatform) -> None:
    for name in ("a", "b"):
        await deploy(platform, js('app.on("k", function f() {});', name))
    assert [e.apps for e in platform.report().executors if e.engine == "javascript"] == [2]


def test_without_node_the_person_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(javascript, "SHIPPED", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GuestError, match=r"Node\.js, which builds it, is not installed") as raised:
        javascript.built(tmp_path / "cache", lambda *_: None)
    assert "Install Node.js 20 or later with npm" in raised.value.hint


def test_the_guest_is_named_by_its_sources(javascript_guest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert javascript.guest_version() in javascript_guest.name
    assert javascript.guest_version() != build.guest_version()
    before = javascript.guest_version()
    files = javascript._files()
    monkeypatch.setattr(javascript, "_files", lambda: files[1:])
    assert javascript.guest_version() != before
