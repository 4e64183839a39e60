"""The package `edge` on the host: what a person writes and tests on their own machine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from edge import App, AppError, Context, Event, HttpError, NotGranted, Pane, Reply, fold
from edge.testing import (
    Answer,
    Command,
    Deferred,
    Emitted,
    FunctionFailed,
    Log,
    Request,
    check_merge,
    panes,
    request,
    run,
    tick,
)

app = App("demo")


@app.on("climate", where="temperature > 30")
def overheat(event: Event, ctx: Context) -> None:
    print("hot:", event.data["temperature"])
    ctx.command(event.device, "fan", {"on": True}, expires=5)
    ctx.emit("alarm", {"at": event.time})


@app.on("climate")
def broken(event: Event) -> None:
    raise ValueError(event.data["temperature"])


@app.on("door", start="earliest")
def reaching(event: Event, ctx: Context) -> None:
    ctx.command("another", "open")


@app.route("climate", to="cloud")
def shape(event: Event) -> dict[str, object]:
    return {"id": event.id, **event.data}


def test_a_function_is_run_with_its_effects_collected() -> None:
    result = run(overheat, "climate", {"temperature": 31}, device="b7", time=5)
    assert result.commands == [Command("b7", "fan", {"on": True}, 5.0)]
    assert result.emitted == [Emitted("alarm", {"at": 5})]
    assert result.logs == [Log("info", "hot: 31")]
    assert result.value is None


def test_a_route_answers_what_would_be_sent() -> None:
    assert run(shape, "climate", {"t": 1}, seq=3).value == {"id": "test/0000000000000000/3", "t": 1}


def test_a_failure_is_raised_with_the_users_own_line() -> None:
    with pytest.raises(FunctionFailed, match=r"ValueError: 7 <- .*test_edge_testing.py, line 37, in broken") as raised:
        run(broken, "climate", {"temperature": 7})
    assert raised.value.reason == "error"


def test_an_app_runs_all_functions_of_a_kind() -> None:
    with pytest.raises(FunctionFailed, match="NotGranted"):
        run(app, "door", {})
    with pytest.raises(LookupError, match="no function for events of kind 'window'"):
        run(app, "window", {})
    with pytest.raises(LookupError, match="'test_an_app_runs"):
        run(test_an_app_runs_all_functions_of_a_kind, "door", {})


def test_a_command_may_have_a_key_by_which_the_newest_stands() -> None:
    local = App("local")

    @local.on("k")
    def keyed(event: Event, ctx: Context) -> None:
        ctx.command(event.device, "fan", key=event.data)

    assert run(local, "k", "fan").commands == [Command("test", "fan", key="fan")]
    assert run(local, "k", "").commands == [Command("test", "fan")]
    with pytest.raises(FunctionFailed, match="'two words' is not a command's key"):
        run(local, "k", "two words")


def test_print_works_again_after_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    run(overheat, "climate", {"temperature": 31})
    print("here")
    assert capsys.readouterr().out == "here\n"


def test_the_manifest_names_the_triggers() -> None:
    triggers = app.manifest()["triggers"]
    assert [t["name"] for t in triggers] == ["overheat", "broken", "reaching", "shape"]
    assert triggers[0] == {
        "type": "on",
        "name": "overheat",
        "kind": "climate",
        "where": "temperature > 30",
        "start": "latest",
        "retries": 2,
        "on_error": "skip",
        "serial": False,
    }
    assert triggers[3]["to"] == "cloud"


@pytest.mark.parametrize("name", ["", "a b", "a.b", "-a", "a" * 65])
def test_app_names_are_checked(name: str) -> None:
    with pytest.raises(AppError, match="a name is"):
        App(name)


@pytest.mark.parametrize(
    ("expires", "says"),
    [
        (0, "between"),
        (-1, "between"),
        ("8d", "between"),
        ("soon", "is not a time"),
        (None, "neither"),
        (True, "neither"),
    ],
)
def test_expiry_is_checked(expires: object, says: str) -> None:
    local = App("local")

    @local.on("k")
    def order(event: Event, ctx: Context) -> None:
        ctx.command(event.device, "fan", expires=expires)  # type: ignore[arg-type]

    with pytest.raises(FunctionFailed, match=says):
        run(local, "k", {})


def test_not_granted_is_a_permission_error() -> None:
    assert issubclass(NotGranted, PermissionError)


without = App("without")


@without.on("files")
def needs_files(event: Event, ctx: Context) -> None:
    ctx.files.text("a")


reaching_out = App("reaching", grants=["http:api.example.com", "secret:key", "files", "command:pump-*"])


@reaching_out.on("weather")
def weather(event: Event, ctx: Context) -> None:
    url = "https://api.example.com/" + event.data.get("path", "")
    answer = ctx.http.get(url, params={"q": "a b"}, headers={"X-Key": ctx.secret("key")})
    if not answer.ok:
        raise ValueError(answer.status)
    ctx.http.post(url, json=answer.json())
    ctx.metric("rain", answer.json()["rain"])
    ctx.command("pump-1", "on")


@reaching_out.on("try")
def attempt(event: Event, ctx: Context) -> None:
    exec(event.data, {"ctx": ctx})


def test_requests_are_answered_by_the_test() -> None:
    result = run(weather, "weather", {}, secrets={"key": "k"}, http=lambda request: {"rain": 2.5})
    assert [(r.method, r.url) for r in result.requests] == [
        ("GET", "https://api.example.com/?q=a+b"),
        ("POST", "https://api.example.com/"),
    ]
    assert result.requests[0].headers == {"X-Key": "k"}
    assert result.requests[1].json() == {"rain": 2.5}
    assert result.metrics == [("rain", 2.5)]
    assert result.commands == [Command("pump-1", "on")]


def test_an_answer_may_be_bad_or_none() -> None:
    with pytest.raises(FunctionFailed, match="ValueError: 503"):
        run(weather, "weather", {}, secrets={"key": "k"}, http=lambda request: Answer(503))

    def away(request: Request) -> None:
        raise HttpError("nobody is there")

    with pytest.raises(FunctionFailed, match="HttpError: nobody is there"):
        run(weather, "weather", {}, secrets={"key": "k"}, http=away)
    with pytest.raises(TypeError, match=r"run\(\.\.\., http=lambda request"):
        run(weather, "weather", {}, secrets={"key": "k"})
    with pytest.raises(FunctionFailed, match="the secret 'key' has no value yet"):
        run(weather, "weather", {})


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ctx.http.get('https://other.example.com/')", r"not granted 'http:https://other\.example\.com'.*grants="),
        ("ctx.http.get('http://api.example.com/')", "not granted"),
        ("ctx.http.get('https://api.example.com@evil/')", "not the URL"),
        ("ctx.http.get('file:///etc/passwd')", "not the URL"),
        ("ctx.http.request('TRACE', 'https://api.example.com/')", "method='TRACE' is not one of"),
        ("ctx.http.post('https://api.example.com/', json=1, data='x')", "either json= or data="),
        ("ctx.http.post('https://api.example.com/', data='x' * 300_000)", "256 KiB"),
        ("ctx.http.get('https://api.example.com/', timeout='5m')", "between 0 and 30 seconds"),
        ("ctx.secret('other')", "not granted 'secret:other'"),
        ("ctx.command('valve', 'on')", "only the device that caused the event"),
        ("ctx.files.text('nope.json')", "the app has no file 'nope.json'"),
        ("ctx.metric('two words')", "not a metric's name"),
        ("ctx.metric('x', float('inf'))", "not a number"),
        ("ctx.metric('x', True)", "not a number"),
        ("[ctx.metric('x') for _ in range(21)]", "more than 20 metrics"),
    ],
)
def test_what_is_not_granted_or_not_right_is_said(code: str, words: str) -> None:
    with pytest.raises(FunctionFailed, match=words):
        run(attempt, "try", code)


def test_the_apps_own_files_are_those_beside_it() -> None:
    assert run(attempt, "try", "print(type(ctx.files.bytes('../nope')) if '../nope' in ctx.files else 'no')").logs == [
        Log("info", "no")
    ]
    with pytest.raises(FunctionFailed, match="not granted 'files'"):
        run(needs_files, "files", {})


def test_a_function_that_asks_for_other_things_the_second_time_is_told() -> None:
    moving = App("moving", grants=["http:a"])
    urls = iter(["https://a/1", "https://a/2"])

    @moving.on("x")
    def wanders(event: Event, ctx: Context) -> None:
        ctx.http.get(next(urls))

    globals()["moving"] = moving
    try:
        with pytest.raises(FunctionFailed, match="its requests must come in the same order"):
            run(moving, "x", {}, http=lambda request: "")
    finally:
        del globals()["moving"]


@pytest.mark.parametrize("grants", ["files", [1]])
def test_grants_are_a_list_of_text(grants: object) -> None:
    with pytest.raises(AppError, match="grants is a list"):
        App("a", grants=grants)  # type: ignore[arg-type]


timely = App("timely")


@timely.on("climate")
def watch(event: Event, ctx: Context) -> None:
    ctx.defer("silent", {"since": event.time}, after="15m", key="silence")
    if event.data.get("off"):
        ctx.cancel("silence")


@timely.on("do")
def do(event: Event, ctx: Context) -> None:
    exec(event.data["code"], {"ctx": ctx})


def test_deferred_events_are_collected() -> None:
    result = run(watch, "climate", {"off": True}, time=5)
    assert result.deferred == [Deferred("silent", {"since": 5}, 900.0, "silence")]
    assert result.cancelled == ["silence"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("ctx.defer('a b', after=1)", "not a kind of event"),
        ("ctx.defer('$schedule.a.b', after=1)", "not a kind of event"),
        ("ctx.defer('a', after=0)", "not between 0 and a year"),
        ("ctx.defer('a', after='367d')", "not between 0 and a year"),
        ("ctx.defer('a', after='soon')", "is not a time"),
        ("ctx.defer('a', after=None)", "neither seconds nor text"),
        ("ctx.defer('a', b'', after=1)", "bytes cannot leave"),
        ("ctx.defer('a', after=1, key='$schedule')", "not a deferred event's key"),
        ("ctx.cancel('')", "not a deferred event's key"),
    ],
)
def test_what_cannot_be_deferred(code: str, why: str) -> None:
    with pytest.raises(FunctionFailed, match=why):
        run(do, "do", {"code": code})


@timely.schedule(every="10m", missed="once")
def every(event: Event, ctx: Context) -> None:
    ctx.emit("poll", {"due": event.data["due"], "device": event.device})


@timely.http("/orders", methods=["PUT", "POST"], headers=["X-Shop"])
def order(event: Event, ctx: Context) -> Any:
    if event.data["base64"]:
        return Reply(201, b"\0", {"X-A": "b"})
    if event.data["method"] == "POST":
        return None
    return {"body": event.data["body"], "shop": event.data["headers"].get("x-shop"), "q": event.data["query"]}


def test_the_function_of_a_schedule_is_run_at_a_moment() -> None:
    assert tick(every, due=5).emitted == [Emitted("poll", {"due": 5, "device": "gateway"})]


@timely.schedule(cron="0 6 * * *")
def careless(event: Event, ctx: Context) -> None:
    ctx.command(event.device, "fan")


def test_the_event_of_a_schedule_has_no_device_to_command() -> None:
    with pytest.raises(FunctionFailed, match="'gateway' is no device"):
        tick(careless)


def test_the_function_of_an_endpoint_is_run_on_a_request() -> None:
    reply = request(order, {"n": 1}, query={"a": "b"}, headers={"X-Shop": "north"}).reply
    assert reply is not None
    assert (reply.status, reply.headers) == (200, {"content-type": "application/json"})
    assert json.loads(reply.body) == {"body": '{"n": 1}', "shop": "north", "q": {"a": "b"}}
    reply = request(order, b"\0").reply
    assert reply == Answer(status=201, headers={"content-type": "application/octet-stream", "x-a": "b"}, body=b"\0")
    reply = request(order, method="POST").reply
    assert reply == Answer(status=204, headers={}, body="")
    with pytest.raises(LookupError, match="not the function of an endpoint"):
        request(every)


def test_the_manifest_tells_moments_and_endpoints() -> None:
    found = {trigger["name"]: trigger for trigger in timely.manifest()["triggers"]}
    assert (found["every"]["kind"], found["every"]["every"], found["every"]["missed"]) == (
        "$schedule.timely.every",
        600_000_000,
        "once",
    )
    assert (found["order"]["kind"], found["order"]["headers"]) == ("$http.timely.order", ["x-shop"])


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (99, None, {}),
        (600, None, {}),
        ("200", None, {}),
        (200, None, {"a b": "x"}),
        (200, None, {"a": "x\ny"}),
        (200, None, {"Content-Length": "3"}),
        (200, None, {"a": 1}),
    ],
)
def test_what_is_no_reply(status: Any, body: Any, headers: Any) -> None:
    with pytest.raises(ValueError, match=r"is not|is the gateway's"):
        Reply(status, body, headers)


class Spread:
    def __init__(self) -> None:
        self.low: list[int] = []
        self.high: list[int] = []

    def add(self, value: int) -> None:
        self.low, self.high = [min([*self.low, value])], [max([*self.high, value])]

    def merge(self, other: Spread) -> None:
        for value in other.low + other.high:
            self.add(value)

    def result(self) -> int:
        return self.high[0] - self.low[0]


class First(Spread):
    def add(self, value: int) -> None:
        self.low = self.low or [value]

    def result(self) -> int:
        return self.low[0]


own = App("own")


@own.window("climate", every="1h", compute={"spread": fold("t", Spread)})
def hourly(pane: Pane, ctx: Context) -> None:
    ctx.emit("spread", pane.values["spread"])


def test_an_aggregate_that_merges_is_tried_out_without_a_gateway() -> None:
    events = [(number, "climate", {"t": number % 700}) for number in range(1500)]
    [found] = panes(hourly, [*events, (4000, "climate", {"t": 0})], until=4001)
    assert found.values == {"spread": 699}
    check_merge(Spread, range(20))
    with pytest.raises(AssertionError, match=r"by merging .*, and 0 by adding all of"):
        check_merge(First, range(20))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("class A:\n    def merge(self, other): ...", "the class has no add and no result"),
        (
            "class A:\n    def __init__(self, n): ...\n    def add(self, v): ...\n    def merge(self, o): ...\n"
            "    def result(self): ...",
            "it is to be made with nothing",
        ),
    ],
)
def test_a_class_that_cannot_fold_is_refused_where_it_is_given(given: str, told: str) -> None:
    found: dict[str, Any] = {}
    exec(given, found)
    with pytest.raises(ValueError, match=told):
        fold("t", found["A"])
