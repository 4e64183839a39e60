"""Every verb explains itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from edge_runtime.cli.main import app


def verbs(command: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The command itself and all below it."""
    yield before
    for name, inner in getattr(command, "commands", {}).items():
        yield from verbs(inner, (*before, name))


ALL = list(verbs(typer.main.get_command(app)))
GROUPS = {
    (),
    ("flow",),
    ("dead",),
    ("device",),
    ("secret",),
    ("user",),
    ("device", "key"),
    ("device", "config"),
    ("ota",),
}


def test_the_verbs_are_those_of_the_documentation() -> None:
    known = {" ".join(verb) for verb in ALL}
    flow = ("list", "pause", "resume", "rewind", "bootstrap", "replay", "scale", "rate", "release")
    dead = ("list", "show", "retry", "drop", "export")
    assert known >= {f"flow {verb}" for verb in flow} | {f"dead {verb}" for verb in dead}
    assert known >= {"deploy", "rollback", "replay", "apps", "apps versions", "doctor", "status", "tail", "trace"}


@pytest.mark.parametrize("verb", ALL, ids=" ".join)
def test_help(verb: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        found = CliRunner().invoke(app, [*verb, flag])
        assert found.exit_code == 0
        assert "Usage" in found.output


@pytest.mark.parametrize("verb", [verb for verb in ALL if verb not in GROUPS], ids=" ".join)
def test_every_verb_speaks_json_or_has_nothing_to_say(verb: tuple[str, ...]) -> None:
    spoken = "--json" in CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"}).output
    at_a_port = {("device", verb) for verb in ("shell", "logs", "reset", "files")}
    assert spoken or verb in {("init",), ("run",), ("secret", "set"), ("secret", "remove")} | at_a_port


def test_the_command_line_does_not_wait_for_what_only_the_gateway_needs() -> None:
    heavy = [
        "wasmtime",
        "edge_runtime.gateway",
        "cryptography",
        "aiocoap",
        "paho",
        "jsonschema_rs",
        "serial",
        "zeroconf",
    ]
    script = f"import sys, edge_runtime.cli.main; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
