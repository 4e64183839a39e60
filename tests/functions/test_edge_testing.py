"""The package `edge` on the host: what a person writes and tests on their own machine."""

from __future__ import annotations

import pytest
from edge import App, AppError, Context, Event, NotGranted
from edge.testing import Command, Emitted, FunctionFailed, Log, run

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
    with pytest.raises(FunctionFailed, match=r"ValueError: 7 <- .*test_edge_testing.py, line 21, in broken") as raised:
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
