"""What every language has alike: grants, requests, secrets, files and metrics; and what its versions are named by."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.flows.ports import Cancel, Defer, Given, HttpAnswer, Order, Unanswered
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.functions.sandbox import javascript, modules
from edge_runtime.manifest import Endpoint, FunctionRef, Schedule
from tests.conftest import LANGUAGES

from .conftest import deploy, event, failed, ok

SOURCE = Path(__file__).with_name("grants.c")
SCRIPT = """
import { App, HttpError, Reply } from "edge";
const app = new App("granted", { grants: ["command:b2", "http:api.example.com", "secret:key", "files"] });
app.on("climate", function command(event, ctx) { ctx.command("b2", "fan", null, { expires: 5, key: "fan" }); });
app.on("climate", function request(event, ctx) {
  let answer;
  try {
    answer = ctx.http.get("https://api.example.com/weather", { params: { q: "a b" } });
  } catch (error) {
    throw error instanceof HttpError ? error.message : error;
  }
  ctx.emit("answer", [answer.status, answer.json().rain[0]]);
});
app.on("climate", function secret(event, ctx) { console.log(ctx.secret("key")); });
app.on("climate", function file(event, ctx) {
  console.log(ctx.files.text("table.json"));
  if (ctx.files.has("nothing.json")) throw new Error("there is no such file");
});
app.on("climate", function metric(event, ctx) { ctx.metric("litres", 2.5); });
app.on("climate", function defer(event, ctx) {
  ctx.defer("later", { n: 1 }, { after: "90s", key: "fan" });
  ctx.cancel("valve");
});
app.schedule({ every: "10m" }, function tick() { console.log("tick"); });
app.http("/order", function order() { return new Reply(201, "made", { headers: { "Content-Type": "text/plain" } }); });
app.on("climate", function elsewhere(event, ctx) { ctx.http.get("https://example.org/"); });
app.on("climate", function other_secret(event, ctx) { ctx.secret("other"); });
"""

Ref = Callable[[str], FunctionRef]


@pytest.fixture(params=["c", "javascript"])
async def granted(request: pytest.FixtureRequest, platform: FunctionPlatform) -> Ref:
    """The app above in a language, as a folder with a file beside it."""
    name = "main.js" if request.param == "javascript" else "main.wasm"
    main = request.getfixturevalue(f"in_{request.param}")
    return await deploy(platform, {"table.json": b'{"rain":1}', name: main})


@pytest.fixture
def in_javascript(javascript_guest: Path) -> bytes:
    return SCRIPT.encode()


@pytest.fixture
def in_c(c_module: Path, tmp_path: Path) -> bytes:
    """Built where the example could be."""
    built = tmp_path / "granted.wasm"
    subprocess.run([LANGUAGES / "c/build.sh", SOURCE, built], check=True, timeout=60)
    return built.read_bytes()


async def test_commands_to_other_devices(platform: FunctionPlatform, granted: Ref) -> None:
    [outcome] = await platform.invoke(granted("command"), [event()])
    assert ok(outcome).effects == [Order("b2", "fan", None, 5_000_000, "fan")]


async def test_requests_are_made_by_running_again(platform: FunctionPlatform, granted: Ref) -> None:
    happened = event()
    [outcome] = await platform.invoke(granted("request"), [happened])
    assert isinstance(outcome, Unanswered), outcome
    asked = outcome.request
    assert (asked.method, asked.url) == ("GET", "https://api.example.com/weather?q=a+b")
    answer = HttpAnswer(asked.method, asked.url, 200, {"x": "y"}, b'{"rain":[3]}')
    [outcome] = await platform.invoke(granted("request"), [happened], Given(answers={happened.id: [answer]}))
    assert [effect.data for effect in ok(outcome).effects if hasattr(effect, "data")] == [[200, 3]]
    silent = HttpAnswer(asked.method, asked.url, error="it is away")
    [outcome] = await platform.invoke(granted("request"), [happened], Given(answers={happened.id: [silent]}))
    assert "it is away" in failed(outcome).detail


async def test_secrets_files_and_metrics(platform: FunctionPlatform, granted: Ref) -> None:
    [outcome] = await platform.invoke(granted("secret"), [event()], Given(secrets={"key": "käse"}))
    assert [line.text for line in ok(outcome).logs] == ["käse"]
    [outcome] = await platform.invoke(granted("secret"), [event()])
    assert "edge secret set key" in failed(outcome).detail
    [outcome] = await platform.invoke(granted("file"), [event()])
    assert [line.text for line in ok(outcome).logs] == ['{"rain":1}']
    [outcome] = await platform.invoke(granted("metric"), [event()])
    assert ok(outcome).metrics == [("litres", 2.5)]


async def test_events_are_deferred_and_taken_back(platform: FunctionPlatform, granted: Ref) -> None:
    [outcome] = await platform.invoke(granted("defer"), [event()])
    assert ok(outcome).effects == [Defer("later", {"n": 1}, 90_000_000, "fan"), Cancel("valve")]


async def test_schedules_and_endpoints(platform: FunctionPlatform, granted: Ref) -> None:
    manifest = await platform.load("granted", granted("tick").version)  # which it is already
    triggers = {trigger.name: trigger for trigger in manifest.triggers}
    assert triggers["tick"] == Schedule("tick", "$schedule.granted.tick", every=600_000_000)
    assert triggers["order"] == Endpoint("order", "$http.granted.order", retries=0, path="/order")
    [outcome] = await platform.invoke(granted("tick"), [event()])
    assert [line.text for line in ok(outcome).logs] == ["tick"]
    [outcome] = await platform.invoke(granted("order"), [event()])
    value = ok(outcome).value
    assert (value["status"], value["headers"]["content-type"]) == (201, "text/plain")
    body = base64.b64decode(value["body"]).decode() if value.get("base64") else value["body"]
    assert body == "made"


async def test_escape_beyond_the_grants_is_refused_and_told(platform: FunctionPlatform, granted: Ref) -> None:
    for function, grant in (("elsewhere", "http:https://example.org"), ("other_secret", "secret:other")):
        [outcome] = await platform.invoke(granted(function), [event()], Given(secrets={"other": "known"}))
        assert "NotGranted" in failed(outcome).detail
        assert failed(outcome).refused == [grant]


async def test_a_version_is_named_after_the_guest_of_its_language(
    platform: FunctionPlatform, javascript_guest: Path, c_module: Path
) -> None:
    checked = await platform.check({"a.wasm": c_module.read_bytes()})
    assert checked.content.guest == modules.ABI
    checked = await platform.check({"a.js": (LANGUAGES / "javascript/greenhouse.js").read_bytes()})
    assert checked.content.guest == javascript.guest_version()
