"""Deploying, going back and trying on the past, as people and scripts do it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import APP, Gateway

MAIN = """
import rules
from edge import App
app = App("house")

@app.on("climate", start="earliest")
def warm(event, ctx):
    if event.data["temperature"] > rules.HIGH:
        ctx.command(event.device, "fan", {"on": True}, expires="1h")
"""


def write(folder: Path, high: object = 30, main: str = MAIN) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text(main)
    (folder / "rules.py").write_text(f"HIGH = {high}\n")


@pytest.fixture(scope="module")
def house(gateway: Gateway) -> list[str]:
    """A folder that was deployed twice: its versions, the older one first."""
    versions = []
    for high in (30, 31.5):
        write(gateway.folder / "house", high)
        versions.append(gateway.json("deploy", "house")["version"])
    gateway.until("house.warm")
    return versions


def words(text: str) -> str:
    return " ".join(text.split())


def test_versions_and_the_way_back(gateway: Gateway, house: list[str]) -> None:
    old, new = house
    rows = {row["version"]: row["state"] for row in gateway.json("apps", "versions", "house")}
    assert rows == {new: "live", old: "rollback"}
    shown = gateway.says("apps", "versions", "house")
    assert [line.split()[0] for line in shown.splitlines() if "ago" in line] == [new, old]
    assert "where a rollback goes" in shown
    assert f"house is live again in version {old}" in words(gateway.says("rollback", "house"))
    [row] = [row for row in gateway.json("apps") if row["app"] == "house"]
    assert (row["version"], row["earlier"], row["health"]) == (old, "", "ok")
    assert gateway.json("rollback", "house", "--to", new)["live"]
    assert new in gateway.says("apps"), "whole, so that it can be copied"
    ended = gateway.edge("rollback", "house", "--to", "abc")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"there is no version abc of 'house' Stored: {new}, {old}." in words(ended.stderr)


def test_two_versions_over_the_past(gateway: Gateway, house: list[str]) -> None:
    old, new = house
    shown = words(gateway.says("replay", "house", "--since", "1d", "--version", new, "--against", old))
    assert f"house in version {new}, compared with version {old}:" in shown
    assert "4 events. Effects: 2 the same, 0 changed, 0 new, 1 missing." in shown
    found = gateway.json("replay", "house", "--since", "1d")
    assert (found["version"], found["against"]) == (new, "")
    ended = gateway.edge("replay", "house")
    assert "Say --since 1d" in ended.stderr


def test_a_dry_run_that_fails_keeps_the_new_version_out(gateway: Gateway, house: list[str]) -> None:
    write(gateway.folder / "house", high="'thirty'")
    before = gateway.json("apps", "versions", "house")
    for arguments in (("--check",), ()):
        ended = gateway.edge("deploy", "house", "--dry-run", 3, *arguments)
        assert ended.returncode == 1
        assert "house.warm on 3 of 3 events" in words(ended.stderr)
        assert "--force" in ended.stderr
        assert "TypeError" in ended.stdout
        assert "is live" not in ended.stdout
    ended = gateway.edge("deploy", "house", "--dry-run", 3, "--json")
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["refused"]
    assert gateway.json("apps", "versions", "house") == before
    shown = words(gateway.says("deploy", "house", "--dry-run", 3, "--force"))
    assert "house is live in version" in shown
    assert gateway.says("rollback", "house")
    write(gateway.folder / "house", high=40)
    shown = words(gateway.says("deploy", "house", "--check", "--dry-run", 10))
    assert "4 events. Effects: 1 the same" in shown
    assert "house could go live in version" in shown


def test_what_is_no_app(gateway: Gateway) -> None:
    folder = gateway.folder
    with (folder / "big.py").open("wb") as file:
        file.truncate(1 << 30)
    os.mkfifo(folder / "pipe.py")
    (folder / "latin.py").write_bytes(APP.encode() + b"# \xe9\n")
    (folder / "parts").mkdir(exist_ok=True)
    (folder / "parts/one.py").touch()
    (folder / "parts/two.py").touch()
    (folder / "leak").mkdir(exist_ok=True)
    (folder / "leak/main.py").symlink_to("/etc/passwd")
    (folder / "machine.cwasm").touch()
    before = gateway.json("apps")
    for name, says in (
        ("big.py", "big.py is larger than 1024 KiB"),
        ("pipe.py", "pipe.py is not a plain file"),
        ("/dev/zero", "zero is not a plain file"),
        ("latin.py", "latin.py, line 23: not UTF-8 text"),
        ("parts", "the folder has no main.py"),
        ("leak", "main.py is a link to a file outside the app's folder"),
        ("machine.cwasm", "'machine.cwasm' is not the name of an app's file"),
        ("gone", "gone cannot be read: No such file or directory"),
    ):
        ended = gateway.edge("deploy", name)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert says in words(ended.stderr)
        assert "Traceback" not in ended.stderr
    assert [row["version"] for row in gateway.json("apps")] == [row["version"] for row in before]


def test_a_package_that_is_not_python_is_named(gateway: Gateway) -> None:
    folder = gateway.folder / "packed"
    write(folder)
    (folder / "requirements.txt").write_text("fastmath\n")
    wheels = gateway.folder / "wheels"
    wheels.mkdir()
    (wheels / "fastmath-1.0-cp314-cp314-manylinux_2_28_x86_64.whl").touch()
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "XDG_CACHE_HOME": str(gateway.folder / "cache")}
    ended = gateway.edge("deploy", "packed", environment=settings)
    assert ended.returncode == 1
    assert "requirements.txt: fastmath has parts that are not Python" in words(ended.stderr)
    assert "native tier" in ended.stderr
